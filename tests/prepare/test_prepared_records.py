"""Records of data sets that were prepared from their archives."""

import os
import pathlib
import shlex
import subprocess
import sys

import av
import miniature
import numpy as np
import pytest

from trn_jax import cli
from trn_jax.data import datasets, records

pytest.importorskip("tensorflow_datasets")

from trn_jax.prepare import extraction
from trn_jax.tfds import build_records, contents

REPOSITORY = pathlib.Path(__file__).parents[2]
GESTURES = tuple(f"Gesture {letter}" for letter in "zyxwvutsrqponmlkjihgfedcba_")
TRAIN = (("34870", "Gesture z", 3), ("56557", "Gesture a", 5))
VAL = (("9223", "Gesture y", 4),)
LISTED = [(name, num_frames, label) for name, label, num_frames in TRAIN + VAL]


def run(name, tmp_path, *flags):
    return cli.main(
        [
            "prepare",
            name,
            f"--archives={tmp_path}/in",
            f"--to={tmp_path}/to",
            "--workers=1",
            "--records",
        ]
        + list(flags)
    )


def class_names(root):
    return pathlib.Path(records.class_names_file(str(root))).read_text().splitlines()


def read(root, num_classes, multi_label=False):
    """The videos of both splits: `[(name, number of frames, name of its class), ...]`."""
    names = class_names(root)
    found = []
    for split in records.SPLITS:
        videos = records.VideoRecords(str(root)).videos(
            split, num_classes=num_classes, multi_label=multi_label
        )
        for video in videos:
            labels = video.label if multi_label else (video.label,)
            found.append((video.name, video.num_frames, *(names[label] for label in labels)))
    return found


def commands(output):
    return [shlex.split(line)[1:] for line in output.splitlines() if "trn-jax train" in line]


def write_video(num_frames, size=(48, 32)):
    """A small WebM file, as bytes."""
    path = pathlib.Path("video.webm").absolute()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(num_frames):
            pixels = np.full((size[1], size[0], 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def test_records_have_the_label_order_of_the_printed_recipe(tmp_path, capsys):
    files = miniature.jester(tmp_path / "in", labels=GESTURES, train=TRAIN, val=VAL)
    assert run("jester", tmp_path) == 0
    output = capsys.readouterr().out
    of_lists, of_records = commands(output)
    root = tmp_path / "to" / "records" / "jester"
    assert of_records[1:] == [
        "trn_bninception_jester",
        f"--config.data_dir={root}",
        "--workdir=runs/trn_bninception_jester",
    ]
    assert of_lists[2] == f"--config.data_dir={tmp_path}/to" and "records:\n" in output
    assert (tmp_path / "to" / "jester_train_list_rawframes.txt").exists()
    assert class_names(root) == sorted(GESTURES)
    assert read(root, 27) == LISTED
    source = records.VideoRecords(str(root))
    video = source.videos("train", num_classes=27)[1]
    images = source.open(video).images(range(5))
    assert images == [files[f"20bn-jester-v1/56557/{index:05d}.jpg"] for index in range(1, 6)]


def test_records_in_another_order_are_those_of_its_lists(tmp_path, capsys):
    miniature.jester(tmp_path / "in", labels=GESTURES, train=TRAIN, val=VAL)
    assert run("jester", tmp_path, "--order=official") == 0
    of_lists, of_records = commands(capsys.readouterr().out)
    assert "--config.data.class_names=label_map.txt" in of_lists
    assert not [word for word in of_records if word.startswith("--config.data.")]
    root = tmp_path / "to" / "records" / "jester"
    assert class_names(root) == list(GESTURES)
    assert read(root, 27) == LISTED
    # The other label order raises and changes nothing.
    before = miniature.tree(tmp_path / "to" / "records")
    assert run("jester", tmp_path) == 2
    assert f"{tmp_path}/to/records/jester/frames" in capsys.readouterr().err
    assert miniature.tree(tmp_path / "to" / "records") == before


@pytest.mark.parametrize("call", [2, 9])
def test_interrupted_records_resume(tmp_path, monkeypatch, capsys, call):
    monkeypatch.setattr(contents, "FRAMES_PER_SHARD", 3)
    miniature.jester(tmp_path / "in", labels=GESTURES, train=TRAIN, val=VAL)
    assert run("jester", tmp_path) == 0
    expected = miniature.tree(tmp_path / "to")
    expected_output = capsys.readouterr().out
    (tmp_path / "to").rename(tmp_path / "whole")
    with miniature.interrupted(contents, "read_image_file", call, KeyboardInterrupt):
        assert run("jester", tmp_path) == 130
    assert not records.is_records(str(tmp_path / "to" / "records" / "jester"))
    assert run("jester", tmp_path) == 0
    found = miniature.tree(tmp_path / "to")
    assert found.keys() == expected.keys()
    for path, content in expected.items():
        if "array_record" in path or "records" not in path:
            assert found[path] == content, path
    capsys.readouterr()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")}
    assert run("jester", tmp_path) == 0
    output = capsys.readouterr().out
    assert commands(output) == commands(expected_output)
    assert "nothing to do" in output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "to").rglob("*")} == times


def test_a_part_of_the_classes(tmp_path, capsys):
    miniature.jester(tmp_path / "in")
    assert run("jester", tmp_path) == 0
    *_, command = commands(capsys.readouterr().out)
    root = tmp_path / "to" / "records" / "video_folder"
    assert f"--config.data_dir={root}" in command and "--config.model.num_classes=4" in command
    assert read(root, 4)[1] == ("56557", 5, "Swiping Left")


TEMPLATES = tuple(f"Doing {number:03d} with something" for number in range(174))


def test_records_of_videos_without_frames(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build_records, "Settings", lambda: extraction.Settings(short_side=16))
    rows = {
        "train": (("78687", "Doing 007 with [something]", write_video(4)),),
        "validation": (("74225", "Doing 173 with [something]", write_video(3, (16, 12))),),
    }
    miniature.sthv2(tmp_path / "in", rows, TEMPLATES)
    assert run("sthv2", tmp_path) == 0
    output = capsys.readouterr().out
    (command,) = commands(output)
    assert "records, of the videos; they need no frames:" in output
    assert "trn-jax extract" in output
    root = tmp_path / "to" / "records" / "something_something_v2"
    assert command[1:] == ["trn_sthv2", f"--config.data_dir={root}", "--workdir=runs/trn_sthv2"]
    assert read(root, 174) == [("78687.webm", 4, TEMPLATES[7]), ("74225.webm", 3, TEMPLATES[173])]
    source = records.VideoRecords(str(root))
    for split, size in (("train", (16, 24, 3)), ("validation", (12, 16, 3))):
        (video,) = source.videos(split, num_classes=174)
        with source.open(video) as opened:
            assert opened.read([2])[0].shape == size
    assert run("sthv2", tmp_path) == 0
    # With frames, the printed command and the records differ.
    for name in ("78687", "74225"):
        files = miniature.frames(name, 3, "img_{:05d}.jpg")
        miniature.put(tmp_path / "to" / "rawframes", files)
    capsys.readouterr()
    assert run("sthv2", tmp_path) == 2
    assert f"{tmp_path}/to/records/something_something_v2/frames" in capsys.readouterr().err
    assert read(root, 174)[0][1] == 4


def test_records_with_several_labels(tmp_path, capsys):
    miniature.charades(tmp_path / "in")
    assert run("charades", tmp_path) == 0
    *_, command = commands(capsys.readouterr().out)
    root = tmp_path / "to" / "records" / "video_folder"
    assert command[1:] == [
        "trn_sthv1",
        f"--config.data_dir={root}",
        "--workdir=runs/trn_sthv1",
        "--config.data.dataset=charades",
        "--config.data.multi_label=True",
        "--config.model.num_classes=3",
    ]
    names = ["Holding some clothes", "Putting clothes somewhere", "Someone is smiling"]
    assert read(root, 3, multi_label=True) == [
        ("46GP8", 36, names[2], names[0]),
        ("N11GT", 30, names[1]),
        ("YSKX3", 20, names[1], names[2]),
    ]
    files = datasets.locate("charades", root)
    assert files.source == "records"


def test_videos_of_kinetics_and_moments(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("k400", "moments"):
        (tmp_path / name).mkdir()
    video = write_video(3)
    files = dict.fromkeys(miniature.KINETICS_VIDEOS, video)
    miniature.kinetics(tmp_path / "k400" / "in", files)
    assert run("k400", tmp_path / "k400") == 0
    root = tmp_path / "k400" / "to" / "records" / "video_folder"
    assert f"--config.data_dir={root}" in capsys.readouterr().out
    assert read(root, 3)[-1] == ("air drumming/00S_-abCdEf_000003_000013.mp4", 3, "air drumming")

    videos = dict.fromkeys(miniature.MOMENTS_VIDEOS, video)
    miniature.moments(tmp_path / "moments" / "in", videos=videos)
    assert run("moments", tmp_path / "moments", "--order=alphabetical") == 0
    root = tmp_path / "moments" / "to" / "records" / "video_folder"
    *_, command = commands(capsys.readouterr().out)
    assert f"--config.data_dir={root}" in command and "--config.data.dataset=moments" in command
    assert read(root, 3)[1:] == [
        ("praying/b_2.mp4", 3, "praying"),
        ("adult+female+singing/c_3.mp4", 3, "adult+female+singing"),
    ]


def test_a_missing_package_raises_before_the_work(tmp_path):
    miniature.jester(tmp_path / "in")
    code = """
import sys
sys.modules["tensorflow_datasets"] = None
from trn_jax import cli
sys.exit(cli.main(["prepare", *sys.argv[1:]]))
"""
    flags = ["jester", f"--archives={tmp_path}/in", f"--to={tmp_path}/to", "--records"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "pip install 'trn_jax[tfds]'" in done.stderr
    assert not (tmp_path / "to").exists()
