"""Folders of frames: names of frames, gaps, counts."""

import miniature
import pytest

from trn_jax.prepare import frame_folders


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_are_counted(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(frame_folders, "MIN_PARALLEL", 2)
    monkeypatch.setattr(frame_folders, "FOLDERS_PER_TASK", 2)
    counts = {"a b": 3, "ü": 1, "nested/c": 2}
    for name, count in counts.items():
        miniature.put(tmp_path, miniature.frames(name, count))
    miniature.put(tmp_path, {"empty/flow.txt": b"", "file": b""})
    names = [*counts, "empty", "file", "gone"]
    found = frame_folders.list_frames(str(tmp_path), names, workers=workers)
    assert found.pop("empty") == "a folder without images"
    assert found == {n: frame_folders.FrameFolder(c, "{:05d}.jpg", 1) for n, c in counts.items()}


def numbered(*numbers, pattern="{:05d}.jpg"):
    return [pattern.format(number) for number in numbers]


FOLDERS = {
    "as usual": (numbered(1, 2, 3), (3, "{:05d}.jpg", 1)),
    "from 0": (numbered(0, 1), (2, "{:05d}.jpg", 0)),
    "in any order": (numbered(3, 1, 2), (3, "{:05d}.jpg", 1)),
    "of six digits": (numbered(*range(99_998, 100_003)), (5, "{:05d}.jpg", 99_998)),
    "under other names": (numbered(1, 2, pattern="image_{:04d}.PNG"), (2, "image_{:04d}.PNG", 1)),
    "with optical flow": (
        [*numbered(1, 2), *numbered(1, 2, 3, pattern="flow_x_{:05d}.jpg")],
        (2, "{:05d}.jpg", 1),
    ),
    "with what macOS leaves": ([*numbered(1, 2), "._00003.jpg", ".DS_Store"], (2, "{:05d}.jpg", 1)),
    "a gap": (numbered(1, 2, 4), "'00003.jpg'"),
    "two gaps": (numbered(1, 3, 5), "'00002.jpg'"),
    "a frame that was renamed": ([*numbered(1, 2, 4), "00003 (1).jpg"], "'00003.jpg'"),
    "of two widths": (["1.jpg", "02.jpg", "3.jpg"], "'01.jpg'"),
    "nothing": ([], "without images"),
    "no numbers": (["cover.jpg"], "'cover.jpg', has no number"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_frames_are_recognized_and_gaps_seen(case):
    names, expected = FOLDERS[case]
    found = frame_folders.frame_folder(names, "{:05d}.jpg")
    if isinstance(expected, str):
        assert isinstance(found, str) and expected in found
    else:
        assert found == frame_folders.FrameFolder(*expected)
