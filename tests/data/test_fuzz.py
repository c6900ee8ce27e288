"""Two thousand damaged files through the readers: only errors for people, and no wrong label."""

import numpy as np
import pytest
import simplejpeg

from trn_jax.data import annotations, decode
from trn_jax.data.annotations import Record
from trn_jax.errors import UserError


def mutated(content, rng):
    """Some bytes of `content` changed, put in, taken out, or the end cut off."""
    content = bytearray(content)
    at = int(rng.integers(len(content)))
    noise = rng.integers(0, 256, rng.integers(1, 30), np.uint8).tobytes()
    kind = rng.integers(4)
    if kind == 0:
        for place in rng.integers(len(content), size=rng.integers(1, 8)):
            content[place] = rng.integers(256)
    elif kind == 1:
        content[at:at] = noise
    elif kind == 2:
        del content[at : at + len(noise)]
    else:
        del content[at:]
    return bytes(content)


@pytest.mark.thorough
def test_damaged_images_are_refused_or_read_whole(tmp_path):
    rng = np.random.default_rng(0)
    image = simplejpeg.encode_jpeg(rng.integers(0, 256, (24, 32, 3), np.uint8))
    source = decode.FrameFolders(pattern="{:05d}.jpg", first_frame=1)
    read, reasons = 0, []
    for _ in range(1000):
        (tmp_path / "00001.jpg").write_bytes(mutated(image, rng))
        try:
            with source.open(Record(0, str(tmp_path), 1, 0)) as video:
                (frame,) = video.read([0])
            assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
            read += 1
        except decode.FrameError as error:
            reasons.append(str(error))
    assert read > 10 and len(reasons) > 10
    assert all(f"{tmp_path}/00001.jpg" in reason for reason in reasons)


LIST = "".join(f"some video/v{n} {n + 5} {n % 4}\n" for n in range(6)) + "a file.mp4 3\n"


@pytest.mark.parametrize("multi_label", [False, True])
def test_damaged_lists_are_refused_or_read_as_they_are(tmp_path, multi_label):
    rng = np.random.default_rng(1)
    text = LIST.replace("some video", "video").replace("\n", " 1\n") if multi_label else LIST
    read, reasons = 0, []
    for _ in range(500):
        (tmp_path / "list.txt").write_bytes(mutated(text.encode(), rng))
        try:
            records = annotations.read_list(
                tmp_path / "list.txt", frames_root="/root", num_classes=4, multi_label=multi_label
            )
        except UserError as error:
            reasons.append(str(error))
            continue
        read += 1
        lines = (tmp_path / "list.txt").read_text(encoding="utf-8").split("\n")
        for record, line in zip(records, filter(str.strip, lines), strict=True):
            *_, last = line.split()
            labels = record.label if multi_label else (record.label,)
            assert int(last) in labels and all(0 <= label < 4 for label in labels)
            assert record.num_frames >= 1 or record.path.lower().endswith(".mp4")
    assert read > 10 and len(reasons) > 10
    assert all(str(tmp_path / "list.txt") in reason for reason in reasons)
