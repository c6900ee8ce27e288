"""The synthetic data set: its files, how safely they are written, and what its clips show."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from trn_jax.data import synthetic
from trn_jax.data.motions import CLASS_NAMES, CLASS_PAIRS, render_clip
from trn_jax.data.synthetic import SyntheticSpec, write
from trn_jax.errors import UserError

SPEC = SyntheticSpec(num_train=32, num_val=16, num_segments=4, height=32, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("synthetic") / "data", SPEC, num_threads=1)


def read_list(root, split):
    """Read (id, num_frames, label) from each line."""
    lines = (root / f"{split}_list.txt").read_text().splitlines()
    return [tuple(int(word) for word in line.split()) for line in lines]


def read_clip(root, clip_id):
    """Read the bytes of each frame."""
    return [path.read_bytes() for path in sorted((root / "rawframes" / str(clip_id)).iterdir())]


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def twins(root, split):
    """Yield (forward, backward), each a list of the frames' bytes, for each block and pair."""
    clips = read_list(root, split)
    size = len(CLASS_NAMES)
    for start in range(0, len(clips), size):
        by_label = {label: read_clip(root, i) for i, _, label in clips[start : start + size]}
        yield from ((by_label[label], by_label[label + 1]) for label in range(0, size, 2))


# Files


def test_lists_and_folders_agree(root):
    entries = read_list(root, "train") + read_list(root, "val")
    assert [i for i, _, _ in entries] == list(range(1, 49))
    assert len(list((root / "rawframes").iterdir())) == 48
    for clip_id, num_frames, _ in entries:
        folder = root / "rawframes" / str(clip_id)
        expected = [f"{number:05d}.jpg" for number in range(1, num_frames + 1)]
        assert sorted(path.name for path in folder.iterdir()) == expected


def test_label_map_has_one_class_name_per_line(root):
    assert (root / "label_map.txt").read_text().splitlines() == list(CLASS_NAMES)
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) == 16


def test_frames_are_rgb_jpegs_of_the_rendered_clips(root):
    frame = cv2.imread(str(root / "rawframes" / "1" / "00001.jpg"))
    assert frame.shape[0] == SPEC.height and frame.shape[2] == 3
    # A clip drawn again from the generator of its twins; JPEG may change it a little.
    _, num_frames, label = read_list(root, "train")[0]
    rng = np.random.default_rng((SPEC.seed, 0, 0, 1 + label // 2))
    rng.choice(synthetic.FRAMES_PER_SEGMENT)
    clip = render_clip(label, num_frames, rng, height=SPEC.height)
    assert np.abs(frame[..., ::-1].astype(int) - clip[0]).mean() < 8


@pytest.mark.parametrize("split", ["train", "val"])
def test_labels_are_balanced_and_shuffled(root, split):
    labels = [label for _, _, label in read_list(root, split)]
    counts = Counter(labels)
    assert sorted(counts) == list(range(16)) and len(set(counts.values())) == 1
    assert labels != sorted(labels)


def test_lengths_are_odd_multiples_of_num_segments(root):
    lengths = {num_frames for _, num_frames, _ in read_list(root, "train")}
    assert all(n % SPEC.num_segments == 0 and n // SPEC.num_segments % 2 == 1 for n in lengths)
    assert len(lengths) > 1


def test_files_do_not_depend_on_the_number_of_threads(root, tmp_path):
    assert contents(write(tmp_path / "data", SPEC, num_threads=4)) == contents(root)


def test_a_clip_does_not_depend_on_the_number_of_clips(root, tmp_path):
    fewer = write(tmp_path / "data", dataclasses.replace(SPEC, num_train=16))
    assert read_list(fewer, "train") == read_list(root, "train")[:16]
    for split, first, first_of_fewer in (("train", 1, 1), ("val", 33, 17)):
        for i in range(16):
            assert read_clip(root, first + i) == read_clip(fewer, first_of_fewer + i), split


def test_only_twins_share_frames_and_seeds_share_none(root, tmp_path):
    other = write(tmp_path / "data", dataclasses.replace(SPEC, seed=4))
    frames = Counter(
        frame
        for folder in (root, other)
        for clip_id in range(1, 49)
        for frame in read_clip(folder, clip_id)
    )
    assert set(frames.values()) == {2}


def test_file_systems_without_links_get_the_same_files(root, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(synthetic.os, "link", refuse)
    assert contents(write(tmp_path / "data", SPEC)) == contents(root)


# Safety


def test_a_complete_data_set_is_not_written_again(root, tmp_path, monkeypatch):
    copy = shutil.copytree(root, tmp_path / "data")
    monkeypatch.setattr(synthetic, "render_clip", None)  # writing would fail
    assert write(copy, SPEC) == copy


def test_an_error_leaves_nothing_and_the_next_run_completes(root, tmp_path, monkeypatch):
    def fail_later(label, *args, **kwargs):
        if label == 6:
            raise OSError("disk full")
        return render_clip(label, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "render_clip", fail_later)
        with pytest.raises(OSError, match="disk full"):
            write(tmp_path / "data", SPEC)
    assert list(tmp_path.iterdir()) == []
    assert contents(write(tmp_path / "data", SPEC)) == contents(root)


def test_a_killed_run_leaves_nothing_complete_and_the_next_run_cleans_up(root, tmp_path):
    program = (
        "import json, os, signal, sys\n"
        "from trn_jax.data.synthetic import SyntheticSpec, write\n"
        "def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "json.dumps = kill  # of the last file\n"
        f"write(sys.argv[1], {SPEC})\n"
    )
    repository = Path(synthetic.__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", program, tmp_path / "data"], cwd=repository)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("data.partial-") and not (left / "synthetic.json").exists()

    assert contents(write(tmp_path / "data", SPEC)) == contents(root)
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_the_folder_of_a_live_process_or_of_another_host_is_kept(tmp_path):
    host = socket.gethostname()
    live = tmp_path / f"data.partial-{host}-{os.getppid()}"
    elsewhere = tmp_path / f"data.partial-not-{host}-{2**22 + 1}"  # no process has so high an id
    dead = tmp_path / f"data.partial-{host}-{2**22 + 1}"
    for folder in (live, elsewhere, dead):
        folder.mkdir()
    write(tmp_path / "data", SPEC)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "data", live, elsewhere])


def test_another_process_may_finish_first(root, tmp_path, monkeypatch):
    replace = os.replace

    def overtake(folder, target):
        shutil.copytree(root, target)
        replace(folder, target)

    monkeypatch.setattr(os, "replace", overtake)
    write(tmp_path / "data", SPEC)
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
    assert contents(tmp_path / "data") == contents(root)


def test_a_data_set_of_another_spec_is_an_error_that_names_the_difference(root):
    before = contents(root)
    with pytest.raises(UserError, match=r"seed=3 on disk, expected 5"):
        write(root, dataclasses.replace(SPEC, seed=5))
    assert contents(root) == before


def test_a_data_set_of_another_format_is_an_error(root, monkeypatch):
    monkeypatch.setattr(synthetic, "FORMAT", synthetic.FORMAT + 1)
    with pytest.raises(UserError, match="format="):
        write(root, SPEC)


@pytest.mark.parametrize("text", ["", "[]", '{"seed": '])
def test_a_corrupt_marker_is_an_error(tmp_path, text):
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(UserError, match=r"synthetic\.json"):
        write(tmp_path, SPEC)


def test_foreign_files_are_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(UserError, match=r"synthetic\.json"):
        write(tmp_path, SPEC)
    assert contents(tmp_path) == {Path("thesis.tex"): b"important"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", SPEC)
    marker = json.loads((tmp_path / "data" / "synthetic.json").read_text())
    assert marker == {"format": synthetic.FORMAT, **dataclasses.asdict(SPEC)}


def test_impossible_specs_are_errors_that_list_every_problem():
    with pytest.raises(UserError) as error:
        SyntheticSpec(num_train=30, num_val=0, num_segments=1, height=64.0, seed=-1)
    for problem in ("num_train=30", "num_val=0", "num_segments=1", "height=64.0", "seed=-1"):
        assert problem in str(error.value)
    with pytest.raises(UserError, match="num_threads=0"):
        write("unused", SPEC, num_threads=0)


# Clips


def test_clips_have_the_documented_shape():
    widths = set()
    for seed in range(30):
        clip = render_clip(seed % 16, 3, np.random.default_rng(seed), height=40)
        assert clip.dtype == np.uint8 and clip.shape[:2] == (3, 40) and clip.shape[3] == 3
        widths.add(clip.shape[2])
    assert 40 <= min(widths) < 43 and 47 < max(widths) <= 50


def test_a_class_goes_by_name_or_number():
    by_name, by_number = (render_clip(k, 4, np.random.default_rng(0)) for k in (CLASS_NAMES[5], 5))
    assert np.array_equal(by_name, by_number)


@pytest.mark.parametrize("label", [16, -1, "Moving something"])
def test_an_unknown_class_is_an_error_that_lists_the_classes(label):
    with pytest.raises(UserError, match="Turning the light off"):
        render_clip(label, 4, np.random.default_rng(0))


# Order is the only evidence


@pytest.mark.parametrize(("forward", "backward"), CLASS_PAIRS)
def test_a_backward_clip_is_the_forward_clip_reversed(forward, backward):
    there = render_clip(forward, 8, np.random.default_rng(1), height=32)
    back = render_clip(backward, 8, np.random.default_rng(1), height=32)
    assert np.array_equal(there, back[::-1])
    assert not np.array_equal(there, back)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_clip_has_its_reverse_in_the_same_split(root, split):
    pairs = list(twins(root, split))
    assert len(pairs) == len(read_list(root, split)) // 2
    assert all(forward == backward[::-1] for forward, backward in pairs)


def test_middles_of_segments_are_the_same_frames_in_a_clip_and_its_reverse(root):
    num_segments = SPEC.num_segments
    for forward, backward in twins(root, "train"):
        length = len(forward) / num_segments
        indices = [int(i * length + length / 2) for i in range(num_segments)]
        assert [forward[i] for i in indices] == [backward[i] for i in indices][::-1]


@pytest.mark.parametrize("pair", CLASS_PAIRS)
def test_independent_clips_of_a_pair_have_the_same_statistics(pair):
    def statistics(name, stream):
        rngs = [np.random.default_rng((stream, i)) for i in range(60)]
        clips = [render_clip(name, 4, rng, height=32) for rng in rngs]
        return np.array(
            [(clip.mean(), clip.std(), clip.std(0).mean(), clip.shape[2]) for clip in clips]
        )

    there, back = statistics(pair[0], 0), statistics(pair[1], 1)
    error = np.sqrt((there.var(0) + back.var(0)) / 60)
    assert (abs(there.mean(0) - back.mean(0)) < 4 * error).all()


# Names match motions


def measure(frame):
    """Measure on one frame, for each pair, what the forward class makes grow: `[pairs]`."""
    frame = frame.astype(np.float32)
    border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
    distance = np.linalg.norm(cv2.GaussianBlur(frame, (3, 3), 0) - np.median(border, 0), axis=2)
    mask = distance > distance.max() / 2
    y, x = np.nonzero(mask)
    z = x - x.mean() + 1j * (y - y.mean())
    _, (width, height), _ = cv2.minAreaRect(np.stack([x, y], 1).astype(np.float32))
    return np.array(
        [
            x.mean(),
            -y.mean(),
            mask.sum(),
            distance.max(),
            mask.sum() / (width * height),  # a circle fills less of its box than a square
            np.angle(-1j * (z * abs(z) ** 2).sum()),  # from the tail of an arrow, 0 if it is below
            -abs(z).mean(),
            frame.mean(),
        ]
    )


def mirrored(name):
    opposite = {"left": "right", "clockwise": "counterclockwise"}
    opposite |= {there: here for here, there in opposite.items()}
    return re.sub(r"\w+", lambda word: opposite.get(word[0], word[0]), name)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("label", range(16))
def test_names_and_names_of_mirrored_clips_tell_the_direction(label, mirror):
    right = 0
    for seed in range(12):
        clip = render_clip(label, 8, np.random.default_rng(seed))
        name = CLASS_NAMES[label]
        if mirror:
            clip, name = clip[:, :, ::-1], mirrored(name)
        pair, backward = divmod(CLASS_NAMES.index(name), 2)
        course = [measure(frame)[pair] for frame in clip]
        right += (np.polyfit(range(8), course, 1)[0] < 0) == backward
    assert right >= 11


def test_mirroring_renames_exactly_left_right_and_clockwise():
    renamed = [name for name in CLASS_NAMES if mirrored(name) != name]
    assert renamed == [*CLASS_PAIRS[0], *CLASS_PAIRS[5]]
    assert all(mirrored(there) == back for there, back in (CLASS_PAIRS[0], CLASS_PAIRS[5]))
