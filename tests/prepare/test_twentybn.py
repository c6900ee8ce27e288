"""Jester and Something-Something from miniature archives in the official layouts."""

import pathlib
import shlex
import signal
import subprocess
import sys

import miniature
import numpy as np
import pytest
from miniature import DOINGS, STHV2, TEMPLATES, prepare, published_names

from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.errors import UserError
from trn_jax.prepare import lists, split_tar

REPOSITORY = pathlib.Path(__file__).parent.parent.parent
LEFT_OUT = ("missing.txt", "unreadable.txt")


def read_lists(name, root, **names):
    """The class names and both lists, as training reads them."""
    files = datasets.locate(name, root, **names)
    class_names = read_class_names(files.class_names)
    return class_names, *(
        annotations.read_list(path, frames_root=folder, num_classes=len(class_names))
        for path, folder in ((files.train_list, files.frames), (files.val_list, files.val_frames))
    )


# Jester


def test_jester_has_the_files_of_trn_for_mindspore(tmp_path):
    frames = miniature.jester(tmp_path / "in")
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    found = miniature.tree(tmp_path / "jester")
    assert {path: data for path, data in found.items() if path.startswith("20bn")} == frames
    texts = {path: data.decode() for path, data in found.items() if path.endswith((".txt", ".csv"))}
    assert texts == {
        "labels/labels.csv": "Swiping Left\nSwiping Right\nDoing other things\nDrumming Fingers\n",
        "labels/train.csv": "34870;Drumming Fingers\n56557;Swiping Left\n",
        "labels/validation.csv": "9223;Swiping Right\n107090;Doing other things\n",
        "labels/test.csv": "1\n",
        "categories.txt": "Doing other things\nDrumming Fingers\nSwiping Left\nSwiping Right",
        "train_videofolder.txt": "34870 3 1\n56557 5 2",
        "val_videofolder.txt": "9223 4 3\n107090 2 0",
        "label_map.txt": "Swiping Left\nSwiping Right\nDoing other things\nDrumming Fingers\n",
        "jester_train_list_rawframes.txt": "34870 3 3\n56557 5 0\n",
        "jester_val_list_rawframes.txt": "9223 4 1\n107090 2 2\n",
    }
    assert found.keys() - texts.keys() - frames.keys() == {"unpacked.json"}
    assert writer.changed


def test_jester_can_be_read_without_further_settings(tmp_path):
    frames = miniature.jester(tmp_path / "in")
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    class_names, train, val = read_lists("jester", tmp_path / "jester")
    assert [class_names[record.label] for record in train] == ["Drumming Fingers", "Swiping Left"]
    assert [class_names[r.label] for r in val] == ["Swiping Right", "Doing other things"]
    files = datasets.DATASETS["jester"]
    source = FrameFolders(pattern=files.frame_pattern, first_frame=files.first_frame)
    for record in (*train, *val):
        source.check(record)
    with source.open(train[1]) as video:
        (frame,) = video.read([4])
    assert frame.shape == (8, 12, 3) and frame.dtype == np.uint8
    assert frames.keys() >= {"20bn-jester-v1/56557/00005.jpg"}


def test_both_orders_of_jester_name_the_same_classes(tmp_path):
    names = published_names("jester_label_map_official_order.txt")
    rows = tuple((str(number), name, 1 + number % 3) for number, name in enumerate(names, start=1))
    miniature.jester(tmp_path / "in", labels=names, train=rows, val=rows[:5])
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    alphabetical, train, _ = read_lists("jester", tmp_path / "jester")
    official, other, _ = read_lists(
        "jester",
        tmp_path / "jester",
        train_list="jester_train_list_rawframes.txt",
        val_list="jester_val_list_rawframes.txt",
        class_names="label_map.txt",
    )
    assert official == names and alphabetical == sorted(names) and names != sorted(names)
    assert [official[r.label] for r in other] == [alphabetical[r.label] for r in train] == names
    assert "num_classes" not in str(writer)


def test_the_next_command_names_the_lists_that_were_written(tmp_path):
    miniature.jester(tmp_path / "in")
    writer = prepare("jester", tmp_path / "in", tmp_path / "a b", orders=("official",))
    command = str(writer).splitlines()[-1]
    assert command == (
        "  trn-jax train trn_bninception_jester "
        f"'--config.data_dir={tmp_path}/a b' --workdir=runs/trn_bninception_jester "
        "--config.data.train_list=jester_train_list_rawframes.txt "
        "--config.data.val_list=jester_val_list_rawframes.txt "
        "--config.data.class_names=label_map.txt --config.model.num_classes=4"
    )
    writer = prepare("jester", tmp_path / "in", tmp_path / "a b")
    assert "train_list" not in str(writer).splitlines()[-1]
    assert writer.changed and not (tmp_path / "a b" / "categories.txt.partial").exists()


def test_prepared_twice_is_prepared_once(tmp_path):
    miniature.jester(tmp_path / "in")
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "jester").rglob("*")}
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    assert not writer.changed and "nothing to do" in str(writer)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "jester").rglob("*")}
    assert after == before


def test_windows_line_ends_and_byte_order_marks(tmp_path):
    miniature.jester(tmp_path / "in", labels=("\ufeffSwiping Left", *miniature.GESTURES[1:]))
    miniature.jester(tmp_path / "windows", end="\r\n")
    for folder in ("in", "windows"):
        to = tmp_path / f"{folder} prepared"
        prepare("jester", tmp_path / folder, to)
        assert (to / "train_videofolder.txt").read_text() == "34870 3 1\n56557 5 2"
        assert (to / "categories.txt").read_text().startswith("Doing other things\nDrumming")


def test_videos_without_frames_are_left_out_and_named(tmp_path):
    miniature.jester(tmp_path / "in")
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    frames = tmp_path / "jester" / "20bn-jester-v1"
    for path in (frames / "34870").iterdir():
        path.unlink()
    for path in (frames / "9223").iterdir():
        path.unlink()
    (frames / "9223").rmdir()
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    assert writer.status == 1 and "1 training videos that cannot be read" in str(writer)
    assert "1 validation videos without frames: 9223" in str(writer)
    left_out = {name: (tmp_path / "jester" / name).read_text() for name in LEFT_OUT}
    assert left_out == {
        "missing.txt": "20bn-jester-v1/9223\tSwiping Right\n",
        "unreadable.txt": "20bn-jester-v1/34870\ta folder without images\n",
    }
    assert (tmp_path / "jester" / "train_videofolder.txt").read_text() == "56557 5 2"
    assert (tmp_path / "jester" / "val_videofolder.txt").read_text() == "107090 2 0"


@pytest.mark.parametrize("number", [1, 2, 4])
def test_gaps_in_folders_of_frames_are_seen(tmp_path, number):
    more = (("1", "Swiping Left", 5), ("2", "Swiping Right", 5))
    miniature.jester(tmp_path / "in", train=miniature.JESTER_TRAIN + more)
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    frame = tmp_path / "jester" / "20bn-jester-v1" / "56557" / f"{number:05d}.jpg"
    content = frame.read_bytes()
    frame.unlink()
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    (line,) = (tmp_path / "jester" / "unreadable.txt").read_text().splitlines()
    assert line.startswith("20bn-jester-v1/56557\t") and f"{max(number, 1):05d}.jpg" in line
    assert "56557" not in (tmp_path / "jester" / "train_videofolder.txt").read_text()
    assert "56557" not in (tmp_path / "jester" / "jester_train_list_rawframes.txt").read_text()
    assert writer.status == 1
    frame.write_bytes(content)
    writer = prepare("jester", tmp_path / "in", tmp_path / "jester")
    assert writer.status == 0 and not (tmp_path / "jester" / "unreadable.txt").exists()
    assert "56557 5 2" in (tmp_path / "jester" / "train_videofolder.txt").read_text()


def test_counts_are_compared_with_the_official_ones(tmp_path):
    miniature.jester(tmp_path / "in")
    summary = str(prepare("jester", tmp_path / "in", tmp_path / "jester")).splitlines()
    assert "training: 2 videos in the annotations, officially 118,562" in summary
    assert "validation: 2 videos in the annotations, officially 14,787" in summary
    assert "test: 1 videos in the annotations, officially 14,743" in summary


def test_official_counts_are_no_difference(tmp_path, monkeypatch):
    monkeypatch.setitem(lists.OFFICIAL_COUNTS, "jester", {"train": 2, "val": 2, "test": 1})
    miniature.jester(tmp_path / "in")
    assert "officially" not in str(prepare("jester", tmp_path / "in", tmp_path / "jester"))


@pytest.mark.parametrize("line", ["{name} {number}", "{number} {name}", "{name};{number}"])
def test_class_names_with_their_numbers(tmp_path, line):
    lines = [line.format(name=n, number=i) for i, n in enumerate(miniature.GESTURES)]
    miniature.jester(tmp_path / "in", labels=lines)
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    names = (tmp_path / "jester" / "label_map.txt").read_text().splitlines()
    assert names == list(miniature.GESTURES)


# Interruptions and bad input


KILLED = """
import os, signal, sys
from trn_jax import cli
calls, original = [0], os.{function}
def killed(*args, **kwargs):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
os.{function} = killed
sys.exit(cli.main(["prepare", *sys.argv[1:]]))
"""


@pytest.mark.thorough
def test_jester_killed_and_run_again_by_its_script(tmp_path):
    miniature.jester(tmp_path / "in")
    prepare("jester", tmp_path / "in", tmp_path / "whole")
    arguments = ["jester", f"--archives={tmp_path}/in", f"--to={tmp_path}/jester", "--workers=1"]
    code = KILLED.format(function="replace", call=9)
    killed = subprocess.run([sys.executable, "-c", code, *arguments], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "jester").rglob("*.jpg.partial"))
    done = subprocess.run(
        [sys.executable, "scripts/prepare_data.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert miniature.tree(tmp_path / "jester") == miniature.tree(tmp_path / "whole")
    assert "training: frames of 2 of 2 videos" in done.stdout
    assert f"--config.data_dir={tmp_path}/jester" in done.stdout


def test_23_parts_of_jester_are_expected(tmp_path):
    miniature.jester(tmp_path / "in")
    for number in (4, 22):
        (tmp_path / "in" / f"20bn-jester-v1-{number:02d}.zip").unlink()
    with pytest.raises(UserError, match=r"20bn-jester-v1-04, 20bn-jester-v1-22"):
        prepare("jester", tmp_path / "in", tmp_path / "jester")


def test_missing_annotations_are_named(tmp_path):
    miniature.jester(tmp_path / "in")
    (tmp_path / "in" / "20bn-jester-download-package-labels.zip").unlink()
    with pytest.raises(UserError, match=r"labels\.csv, train\.csv, validation\.csv"):
        prepare("jester", tmp_path / "in", tmp_path / "jester")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train=(("1", "Dancing", 1),)), "'Dancing' of 1"),
        (dict(labels=("a", "b", "a")), "twice: a"),
        (dict(labels=()), r"labels\.csv names no class"),
        (dict(val=(("1", "Swiping Left;no", 1),)), "line 1: '1;Swiping Left;no'"),
        (dict(val=(("../x", "Swiping Left", 0),)), "'../x'"),
    ],
)
def test_malformed_annotations(tmp_path, changes, message):
    miniature.jester(tmp_path / "in", **changes)
    with pytest.raises(UserError, match=message):
        prepare("jester", tmp_path / "in", tmp_path / "jester")


def test_archives_and_annotations_of_different_data_sets(tmp_path):
    miniature.jester(tmp_path / "in", train=(), val=(("1", "Swiping Left", 1),))
    prepare("jester", tmp_path / "in", tmp_path / "jester")
    (tmp_path / "jester" / "20bn-jester-v1" / "1").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=f"{tmp_path}/jester/20bn-jester-v1"):
        prepare("jester", tmp_path / "in", tmp_path / "jester")


def test_unpacking_leaves_nothing_out(tmp_path):
    files = miniature.jester(tmp_path / "in")
    members = split_tar.find_split_tar(tmp_path / "in", "20bn-jester-v1", num_parts=23).members()
    assert [member.name for member in members] == list(files)


# Something-Something V1


def test_sthv1(tmp_path):
    frames = miniature.sthv1(tmp_path / "in")
    writer = prepare("sthv1", tmp_path / "in", tmp_path / "sthv1")
    found = miniature.tree(tmp_path / "sthv1")
    renamed = {
        path.replace("20bn-something-something-v1", "rawframes"): content
        for path, content in frames.items()
    }
    assert {path: data for path, data in found.items() if path.endswith(".jpg")} == renamed
    assert {path: data.decode() for path, data in found.items() if path.endswith(".txt")} == {
        "label_map.txt": "Holding something\nTurning something upside down\nClosing something\n",
        "sthv1_train_list_rawframes.txt": "100218 3 2\n24413 2 0\n",
        "sthv1_val_list_rawframes.txt": "74225 4 1\n",
        "category.txt": "Closing something\nHolding something\nTurning something upside down",
        "train_videofolder.txt": "100218 3 0\n24413 2 1",
        "val_videofolder.txt": "74225 4 2",
    }
    assert "annotations/something-something-v1-labels.csv" in found
    class_names, train, _ = read_lists("sthv1", tmp_path / "sthv1")
    assert [class_names[record.label] for record in train] == [DOINGS[2], DOINGS[0]]
    assert str(writer).splitlines()[-1].startswith("  trn-jax train trn_sthv1 ")


def test_sthv1_has_the_published_order(tmp_path):
    names = published_names("mmaction2_sthv1_label_map.txt")
    rows = tuple((str(number), name, 1) for number, name in enumerate(names, start=1))
    miniature.sthv1(tmp_path / "in", {"train": rows, "validation": rows[:1]}, names)
    prepare("sthv1", tmp_path / "in", tmp_path / "sthv1")
    class_names, train, _ = read_lists("sthv1", tmp_path / "sthv1")
    assert class_names == names
    assert [record.label for record in train] == list(range(174))


def test_the_tree_of_sthv1_can_be_unpacked_by_hand(tmp_path):
    frames = miniature.sthv1(tmp_path / "in")
    for part in (tmp_path / "in").glob("20bn*"):
        part.unlink()
    stem = "20bn-something-something-v1"
    miniature.put(
        tmp_path / "sthv1",
        {path.replace(stem, "rawframes"): content for path, content in frames.items()},
    )
    prepare("sthv1", tmp_path / "in", tmp_path / "sthv1")
    assert (tmp_path / "sthv1" / "sthv1_val_list_rawframes.txt").read_text() == "74225 4 1\n"


# Something-Something V2


def test_sthv2(tmp_path):
    videos = miniature.sthv2(tmp_path / "in")
    writer = prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
    found = miniature.tree(tmp_path / "sthv2")
    assert found["videos/78687.webm"] == videos["20bn-something-something-v2/78687.webm"]
    assert {path: data.decode() for path, data in found.items() if path.endswith(".txt")} == {
        "label_map.txt": "".join(f"{name}\n" for name in TEMPLATES),
        "sthv2_train_list_videos.txt": "78687.webm 1\n",
        "sthv2_val_list_videos.txt": "74225.webm 0\n",
    }
    to, archives_folder = tmp_path / "sthv2", tmp_path / "in"
    assert str(writer).splitlines()[-2:] == [
        f"  trn-jax extract {to}/videos --to={to}/rawframes",
        f"  trn-jax prepare sthv2 --archives={archives_folder} --to={to}",
    ]


def test_sthv2_with_frames(tmp_path):
    miniature.sthv2(tmp_path / "in")
    frames = miniature.frames("78687", 3, "img_{:05d}.jpg")
    miniature.put(tmp_path / "sthv2" / "rawframes", frames)
    writer = prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
    read = {path.name: path.read_text() for path in (tmp_path / "sthv2").glob("*.txt")}
    assert read["sthv2_train_list_rawframes.txt"] == "78687 3 1\n"
    assert read["sthv2_val_list_rawframes.txt"] == ""
    assert read["train_videofolder.txt"] == "78687 3 1"
    assert read["category.txt"] == "\n".join(TEMPLATES)
    assert "trn-jax train trn_sthv2 " in str(writer).splitlines()[-1]


def test_frames_under_other_names_are_read_with_the_printed_command(tmp_path):
    miniature.sthv2(tmp_path / "in")
    for name, pattern in (("78687", "{:06d}.jpg"), ("74225", "{:06d}.jpg")):
        miniature.put(tmp_path / "sthv2" / "rawframes", miniature.frames(name, 3, pattern))
    writer = prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
    command = shlex.split(str(writer).splitlines()[-1])
    assert "--config.data.frame_pattern={:06d}.jpg" in command
    files = datasets.locate("sthv2", tmp_path / "sthv2", frame_pattern="{:06d}.jpg")
    (record,) = annotations.read_list(files.train_list, frames_root=files.frames, num_classes=2)
    FrameFolders(pattern=files.frame_pattern, first_frame=1).check(record)
    assert writer.status == 0
    third = {"train": (*STHV2["train"], ("5", "Holding [something] next to [something]", b""))}
    miniature.sthv2(tmp_path / "in", STHV2 | third, TEMPLATES)
    miniature.put(tmp_path / "sthv2" / "rawframes", miniature.frames("5", 3, "img_{:05d}.jpg"))
    writer = prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
    assert writer.status == 1
    reason = (tmp_path / "sthv2" / "unreadable.txt").read_text()
    assert "rawframes/5\t" in reason and "'img_00001.jpg'" in reason and "'000001.jpg'" in reason


def test_sthv2_with_its_annotations_in_a_zip_file(tmp_path):
    miniature.sthv2(tmp_path / "in")
    packed = {}
    for kind in ("labels", "train", "validation"):
        path = tmp_path / "in" / f"something-something-v2-{kind}.json"
        packed[f"labels/{kind}.json"] = path.read_bytes()
        path.unlink()
    name = "20bn-something-something-download-package-labels.zip"
    miniature.write_zip(tmp_path / "in" / name, packed)
    prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
    assert (tmp_path / "sthv2" / "sthv2_val_list_videos.txt").read_text() == "74225.webm 0\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels", "{", r"v2-labels\.json .*JSON"),
        ("labels", '{"a": "0", "b": "2"}', "0, 1, 2"),
        ("labels", "[1, 2]", "{class name: number"),
        ("train", '{"id": 1}', "{id, template, ...}"),
        ("train", '[{"id": 1}]', "KeyError\\('template'\\)"),
        ("train", '[{"id": "../1", "template": "[a]"}]', "'../1'"),
    ],
)
def test_malformed_annotations_of_sthv2(tmp_path, file, content, message):
    miniature.sthv2(tmp_path / "in")
    (tmp_path / "in" / f"something-something-v2-{file}.json").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare("sthv2", tmp_path / "in", tmp_path / "sthv2")
