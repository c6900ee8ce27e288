"""The same videos over three roads: as files, as extracted frames, as records."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import painted
import pytest

from trn_jax.data import annotations, batches, check, datasets, records, videos
from trn_jax.data.decode import read_video
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.reader import ClipReader
from trn_jax.data.views import View
from trn_jax.prepare import custom, extraction

pytest.importorskip("tensorflow_datasets")

from trn_jax.tfds.build_records import build_records

REPOSITORY = pathlib.Path(__file__).parents[2]
JPEG_ERROR = 4.0  # mean distance of two decodings, in levels, at quality 95
VIEW = dict(
    num_segments=4,
    frame_order="forward",
    short_side=48,
    crop_size=48,
    scales=(1, 0.75),
    num_positions=5,
    flip_labels=False,
)
UNREADABLE = ("audio_cover.mp4", "playlist.mp4", "empty.mp4", "cut.mp4")


def write_others(folder):
    """Videos besides those of `INPUTS`: turned, of two streams, of other kinds; and unreadable."""
    film = painted.frames(25)
    mirrored = [-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    painted.display_matrix(painted.write(folder / "mirrored.mp4", film), mirrored)
    transposed = [0, 1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30]
    painted.display_matrix(painted.write(folder / "transposed.mp4", film), transposed)
    painted.write(folder / "two.ts", film, painted.frames(25, width=64, height=48))
    painted.write(folder / "moving.gif", film, codec="gif", pix_fmt="gray")
    painted.write(folder / "one.avi", film[:1], codec="mpeg4")
    (folder / "playlist.mp4").write_text("ffconcat version 1.0\nfile one.avi\n")
    (folder / "empty.mp4").write_bytes(b"")
    whole = painted.write(folder / "cut.mp4", film)
    whole.write_bytes(whole.read_bytes()[:2000])
    (folder / "._moving.gif").write_bytes(b"\0\5\x16\7")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Data sets of the same videos: as they were prepared, as frames, as records."""
    root = tmp_path_factory.mktemp("roads")
    for label in "ab":
        (root / "mine" / label).mkdir(parents=True)
    for name in painted.TRUTH:
        shutil.copy(painted.INPUTS / name, root / "mine" / "a" / name)
    write_others(root / "mine" / "b")
    outcome = custom.prepare_custom(
        str(root / "mine"), str(root / "videos"), val_share=0.2, workers=1
    )
    to = root / "frames" / "rawframes"
    to.mkdir(parents=True)
    source, names = extraction.find_sources(str(root / "mine"))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            extraction, "in_processes", lambda work, items, _: ((i, work(i)) for i in items)
        )
        settings = extraction.Settings(0, 95, pattern="{:05d}.jpg")
        *_, unreadable = extraction.extract(
            source, names, str(to), settings, workers=1, report=said.append
        )
    left_out = []
    build_records(str(root / "videos"), str(root / "records"), quality=95, left_out=left_out)
    return root, str(outcome), unreadable, said, left_out


def test_every_step_names_what_it_cannot_read(tree):
    root, said, unreadable, _, left_out = tree
    assert sorted(map(os.path.basename, unreadable)) == sorted(UNREADABLE)
    lines = (root / "videos" / "unreadable.txt").read_text().splitlines()
    assert sorted(pathlib.Path(line.split("\t")[0]).name for line in lines) == sorted(UNREADABLE)
    assert left_out == []  # the lists do not name them any more
    assert "._moving.gif" not in said
    for note in ("2 of 60 frames", "33 of 60 frames", "has 2 video streams"):
        assert note in said


def test_the_extraction_notes_what_is_lost_or_scaled(tree):
    _, _, _, said, _ = tree
    for name, note in (
        ("corrupt_mid.mp4", "2 of 60 frames"),
        ("trunc_fast.mp4", "33 of 60 frames"),
        ("change.mp4", "60 frames are scaled"),
        ("two.ts", "2 video streams"),
    ):
        assert any(name in line and note in line for line in said), name
    notes = [line for line in said if line.startswith("note: ")]
    assert len(notes) == 4 and len(said) == 4 + len(UNREADABLE)


def each_video(root):
    """Per video its name, and what opens it over each road."""
    opening = {}
    stored = records.VideoRecords(str(root / "records" / "video_folder"))
    folders = FrameFolders(pattern="{:05d}.jpg", first_frame=1)
    lines = (root / "frames" / "rawframes" / "manifest.jsonl").read_text().splitlines()
    counts = {entry["video"]: entry["frames"] for entry in map(json.loads, lines)}
    for split in records.SPLITS:
        for record in stored.videos(split, num_classes=2):
            name = os.path.basename(record.name)
            folder = root / "frames" / "rawframes" / os.path.splitext(record.name)[0]
            frame_record = annotations.Record(0, str(folder), counts[record.name], 0)
            opening[name] = (
                lambda name=record.name: videos.VideoFile(str(root / "mine" / name)),
                lambda record=frame_record: folders.open(record),
                lambda record=record: stored.open(record),
            )
    return opening


def test_all_roads_lead_to_the_same_frames(tree):
    root, *_ = tree
    opening = each_video(root)
    assert len(opening) == 12
    for name, roads in opening.items():
        found = [
            read_video(road, lambda video: video.read(range(video.num_frames))) for road in roads
        ]
        first, *others = found
        for other in others:
            assert len(other) == len(first), name
            error = np.abs(np.subtract(first, other, dtype=np.int16)).mean(axis=(1, 2, 3))
            assert error.max() < JPEG_ERROR, name
        truth = painted.TRUTH.get(name)
        if truth:
            for frames_of_road in found:
                assert [painted.number(frame) for frame in frames_of_road] == truth["numbers"]
                assert painted.corners(frames_of_road[0]) == truth["corners"]
    corners = {name: painted.corners(opening[name][2]().read([0])[0]) for name in opening}
    assert (corners["mirrored.mp4"], corners["transposed.mp4"]) == ("..BR", ".R.B")


def test_clips_of_training_and_evaluation_are_those_of_all_roads(tree):
    root, *_ = tree
    sources = {"videos": videos.VideoFiles(), "records": None}
    train, views = {}, {}
    for road in sources:
        place = root / ("records/video_folder" if road == "records" else road)
        files = datasets.locate("frames", place)
        assert files.source == road
        if road == "records":
            source = records.VideoRecords(os.path.dirname(files.frames))
            found = source.videos("train", num_classes=2)
        else:
            source = sources[road]
            found = annotations.read_list(files.train_list, frames_root=files.frames, num_classes=2)
        random = View(**VIEW, sampling="random", crop="multi_scale", flip_rate=0.5)
        options = dict(label_map={}, exact_resize=False, on_error="raise", num_threads=2)
        training = batches.BatchReader(found, random, source, seed=3, **options)
        train[road] = training([(1, record) for record in found])
        fixed = View(**VIEW, sampling="twice", crop="three", flip_rate=0)
        evaluated = ClipReader({"all": fixed}, source)
        views[road] = [evaluated.read(record, (3, 0, record.index)).pixels[0] for record in found]
    names = [os.path.basename(record.name) for record in found]
    np.testing.assert_array_equal(train["videos"]["label"], train["records"]["label"])
    clips = zip(train["videos"]["clip"], train["records"]["clip"], strict=True)
    for name, (one, other) in zip(names, clips, strict=True):
        assert np.abs(np.subtract(one, other, dtype=np.int16)).mean() < JPEG_ERROR, name
    for name, one, other in zip(names, *views.values(), strict=True):
        assert np.abs(np.subtract(one, other, dtype=np.int16)).mean() < JPEG_ERROR, name
    assert any("corrupt_mid" in loss for loss in train["videos"]["losses"]) == (
        "corrupt_mid.mp4" in names
    )


@pytest.mark.parametrize("deep", [False, True])
def test_the_check_keeps_what_can_be_used(tree, tmp_path, deep):
    root, *_ = tree
    names = sorted((root / "mine").rglob("*.*"))
    lines = [f"{path.relative_to(root / 'mine')} {'ab'.index(path.parent.name)}" for path in names]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines if "/._" not in line))
    findings = check.check(
        {"list": (str(tmp_path / "list.txt"), str(root / "mine"))},
        videos.VideoFiles(),
        class_names=["a", "b"],
        deep=deep,
    )
    looked = {os.path.basename(each.record.path): each for each in findings.lists["list"]}
    assert {name for name, each in looked.items() if each.problems} == set(UNREADABLE)
    noted = {name for name, each in looked.items() if each.notes}
    assert noted == {"corrupt_mid.mp4", "trunc_fast.mp4", "two.ts", "change.mp4"}
    count = 60 if deep else 2
    assert f"{count} frames are scaled" in looked["change.mp4"].notes[0]
    for name, truth in painted.TRUTH.items():
        assert looked[name].num_frames == len(truth["numbers"])
    assert "4 notes on usable videos" in str(findings)


RECIPE = """
from trn_jax.config import base, view


def get_config():
    config = base(dataset="frames", model="trn_resnet10", num_classes=2)
    config.model.update(width=2, num_segments=3, norm_group=2)
    frames = dict(num_segments=3, short_side=32, crop_size=32)
    config.data.train.update(frames)
    config.data.val.update(frames)
    config.train.update(batch=8, steps=4, log_every=1, eval_every=0.0)
    config.protocols.efficient = view(**frames)
    return config
"""


@pytest.mark.slow
def test_a_training_on_damaged_videos_ends_and_names_them(tree, tmp_path):
    root, *_ = tree
    (tmp_path / "recipe.py").write_text(RECIPE)
    shutil.copytree(root / "mine", tmp_path / "videos")
    paths = sorted(tmp_path.glob("videos/?/[!.]*"))
    lines = [
        f"{path.relative_to(tmp_path / 'videos')} {'ab'.index(path.parent.name)}\n"
        for path in paths
    ]
    for split in ("train", "val"):
        (tmp_path / f"{split}_list.txt").write_text("".join(lines))
    (tmp_path / "label_map.txt").write_text("a\nb\n")
    command = [sys.executable, "-m", "trn_jax.main", f"--workdir={tmp_path}/run"]
    command += [f"--config={tmp_path}/recipe.py", f"--config.data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "clips replaced" in done.stderr and "2 of 60 frames" in done.stderr
    result = json.loads((tmp_path / "run" / "results" / "efficient.json").read_text())
    assert result["num_unreadable"] == len(UNREADABLE)
    assert {os.path.basename(name) for name in result["unreadable"]} == set(UNREADABLE)
    command += ["--mode=eval", f"--checkpoint={tmp_path}/run"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    for name in UNREADABLE:
        assert f"/b/{name}" in done.stderr or f"/a/{name}" in done.stderr
