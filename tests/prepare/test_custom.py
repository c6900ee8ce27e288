"""Custom data sets: lists, splits, and unusable sources."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
from custom_videos import lists, prepared, write_frames, write_video

from trn_jax import cli
from trn_jax.data import annotations, datasets
from trn_jax.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"


CLASSES = {"Clapping": 5, "Waving left": 10, "Waving right": 2, "Ärger 2": 1}


@pytest.fixture
def folder(tmp_path):
    """Videos in folders of classes."""
    for label, count in CLASSES.items():
        for number in range(count):
            write_video(tmp_path / "my videos" / label / f"take {number}.mp4", 4 + number)
    (tmp_path / "my videos" / "notes.txt").write_text("no video")
    (tmp_path / "my videos" / "Clapping" / ".hidden.mp4").write_text("no video")
    return tmp_path / "my videos"


@pytest.mark.smoke
def test_folders_of_classes_become_lists(folder, tmp_path):
    summary = prepared(folder, tmp_path / "to")
    assert (tmp_path / "to/label_map.txt").read_text() == "".join(f"{n}\n" for n in sorted(CLASSES))
    train, val = lists(tmp_path / "to")
    assert len(train) + len(val) == 18 and not train.keys() & val.keys()
    for path, label in (train | val).items():
        assert os.path.basename(os.path.dirname(path)) == label
    counts = {label: list(val.values()).count(label) for label in CLASSES}
    assert counts == {"Clapping": 1, "Waving left": 2, "Waving right": 1, "Ärger 2": 0}
    assert "1 classes whose only video is for training, in validation: Ärger 2" in summary
    assert "train: 14 videos" in summary and "val: 4 videos" in summary and "4 classes" in summary
    (command,) = (line for line in summary.splitlines() if "trn-jax train" in line)
    assert shlex.split(command)[2:] == [
        "small",
        f"--config.data_dir={tmp_path}/to",
        "--workdir=runs/to",
        "--config.train.epochs=343",
        "--config.train.eval_every=18",
    ]


def test_the_seed_chooses_and_other_classes_do_not(folder, tmp_path):
    def val(name, **options):
        prepared(folder, tmp_path / name, **options)
        return {os.path.relpath(p, tmp_path / name / "videos") for p in lists(tmp_path / name)[1]}

    first = val("a")
    assert val("b") == first != val("other", seed=1)
    shutil.rmtree(folder / "Clapping")
    assert val("fewer") == {path for path in first if "Clapping" not in path}


def test_a_second_run_changes_nothing(folder, tmp_path):
    assert "nothing to do" not in prepared(folder, tmp_path / "to")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "to").glob("*.txt")}
    assert "nothing to do: all files are up to date" in prepared(folder, tmp_path / "to")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "to").glob("*.txt")} == before


def test_the_data_set_may_lie_among_the_classes(folder):
    for _ in range(2):
        prepared(folder, folder / "to")
        assert "to\n" not in (folder / "to" / "label_map.txt").read_text()


def test_given_splits_are_kept(folder, tmp_path):
    for label in ("Clapping", "Waving left"):
        for part in ("training", "Validation"):
            (tmp_path / "split" / part / label).mkdir(parents=True)
        for video in (folder / label).glob("take*"):
            part = "Validation" if video.name < "take 3" else "training"
            video.rename(tmp_path / "split" / part / label / video.name)
    prepared(tmp_path / "split", tmp_path / "to")
    train, val = lists(tmp_path / "to")
    assert (len(train), len(val)) == (9, 6)
    assert all("/training/" in path for path in train)
    assert all("/Validation/" in path for path in val)


TABLES = {
    "header": "class,ignored,video\n{0},x,{1}\n",
    "no header": "{1},{0}\n",
    "splits": "path,label,split\n{1},{0},{2}\n",
    "semicolons": "Video;Class\n{1};{0}\n",
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables(folder, tmp_path, kind):
    *header, row = TABLES[kind].splitlines(keepends=True)
    lines = list(header)
    for label in ("Clapping", "Waving left"):
        for video in sorted((folder / label).glob("take*")):
            split = "test" if video.name == "take 0.mp4" else "train"
            lines.append(row.format(label, video.relative_to(tmp_path), split))
    (tmp_path / "table.csv").write_bytes("".join(lines).replace("\n", "\r\n").encode("utf-8-sig"))
    prepared(tmp_path / "table.csv", tmp_path / "to")
    train, val = lists(tmp_path / "to")
    test_list = tmp_path / "to" / "test_list.txt"
    if kind == "splits":  # test videos are no part of validation, which is taken from training
        assert len(train | val) == 13 and 2 <= len(val) <= 6
        assert not any("take 0.mp4" in path for path in train | val)
        assert test_list.read_text() == (
            "my videos/Clapping/take 0.mp4 0\nmy videos/Waving left/take 0.mp4 1\n"
        )
    else:
        assert len(train | val) == 15 and len(val) == 3
        assert not test_list.exists()


def test_lists_with_numbers_of_classes(folder, tmp_path):
    lines = []
    for number, label in enumerate(("Clapping", "Waving left")):
        lines += [
            f"{label}/{video.name} {9 + number}\n" for video in (folder / label).glob("take*")
        ]
    lines += lines[:2]  # repeated lines are one video
    text = "".join(lines).replace("\n", "\r\n")
    (folder / "list.txt").write_bytes(text.encode("utf-8-sig"))
    assert "left out" not in prepared(folder / "list.txt", tmp_path / "to")
    assert (tmp_path / "to" / "label_map.txt").read_text() == "9\n10\n"
    train, val = lists(tmp_path / "to")
    assert len(train) + len(val) == 15
    assert {(os.path.basename(os.path.dirname(p)), name) for p, name in (train | val).items()} == {
        ("Clapping", "9"),
        ("Waving left", "10"),
    }


@pytest.mark.parametrize(
    ("pattern", "first", "flags"),
    [
        ("{:05d}.jpg", 1, []),
        ("img_{:03d}.jpg", 0, ["frame_pattern=img_{:03d}.jpg", "first_frame=0"]),
    ],
)
def test_folders_of_frames(tmp_path, pattern, first, flags):
    for label in ("a", "b"):
        for number in range(3):
            folder = tmp_path / "source" / label / f"clip {number}"
            write_frames(folder, 2 + number, pattern, first)
    summary = prepared(tmp_path / "source", tmp_path / "to")
    (command,) = (line for line in summary.splitlines() if "trn-jax train" in line)
    found = [word for word in shlex.split(command) if word.startswith("--config.data.")]
    assert found == [f"--config.data.{flag}" for flag in flags]
    files = datasets.locate("frames", tmp_path / "to")
    assert files.source == "frames"
    records = annotations.read_list(files.train_list, frames_root=files.frames, num_classes=2)
    for record in records:
        assert record.num_frames == len(os.listdir(record.path))


# Unusable sources


def test_videos_that_cannot_be_read_are_left_out_by_name(folder, tmp_path):
    (folder / "Clapping" / "take 0.mp4").write_bytes(b"")
    (folder / "Clapping" / "take 1.mp4").write_text("no video")
    summary = prepared(folder, tmp_path / "to")
    assert "left out: 2 videos that cannot be read: Clapping/take 0.mp4" in summary
    assert "is empty (0 bytes)" in summary and "Invalid data" in summary
    train, val = lists(tmp_path / "to")
    assert len(train | val) == 16


def test_all_videos_that_cannot_be_read_are_listed(folder, tmp_path):
    for number in range(5):
        (folder / "Waving left" / f"take {number}.mp4").write_text("no video")
    for _ in range(2):
        summary = prepared(folder, tmp_path / "to")
        assert f"(all in {tmp_path}/to/unreadable.txt)" in summary
    assert "nothing to do" in summary
    lines = (tmp_path / "to" / "unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        f"Waving left/take {number}.mp4" for number in range(5)
    ]
    assert all("Invalid data" in line for line in lines)
    for number in range(5):
        (folder / "Waving left" / f"take {number}.mp4").unlink()
    prepared(folder, tmp_path / "to")
    assert not (tmp_path / "to" / "unreadable.txt").exists()


def test_files_without_a_video_extension_are_reported(folder, tmp_path):
    (folder / "Clapping" / "take 0.mp4").rename(folder / "Clapping" / "take 0.dat")
    (folder / "Jumping").mkdir()
    (folder / "Jumping" / "jump").write_text("")
    summary = prepared(folder, tmp_path / "to")
    assert "2 files without the extension of a video (.mp4, .webm" in summary
    assert ": Clapping/take 0.dat, Jumping/jump\n" in summary
    assert "1 folders without videos, which are not classes: Jumping" in summary
    assert "Jumping" not in (tmp_path / "to" / "label_map.txt").read_text()


def test_names_that_are_no_text(folder, tmp_path, capsys):
    video = os.fsencode(folder / "Clapping" / "take 0.mp4")
    try:
        os.rename(video, os.fsencode(folder / "Clapping") + b"/\xff.mp4")
    except OSError:
        pytest.skip("this file system has only names that are text")
    assert cli.main(["prepare", str(folder), f"--to={tmp_path}/to"]) == 1
    summary = capsys.readouterr().out
    assert "Clapping/\ufffd.mp4 (its name is not a single line of UTF-8 text" in summary
    assert len((tmp_path / "to" / "train_list.txt").read_text().splitlines()) == 13
    os.rename(os.fsencode(folder / "Waving left"), os.fsencode(folder) + b"/\xfe")
    assert cli.main(["prepare", str(folder), f"--to={tmp_path}/to"]) == 2
    assert r"'\udcfe'" in capsys.readouterr().err


def make_alone(folder):
    for label in list(CLASSES)[1:]:
        shutil.rmtree(folder / label)


def make_mixed(folder):
    write_frames(folder / "Clapping" / "frames", 3)


def make_gap(folder):
    shutil.rmtree(folder)
    for label in ("a", "b"):
        write_frames(folder / label / "clip", 3)
        (folder / label / "clip" / "00002.jpg").unlink()


def make_different(folder):
    shutil.rmtree(folder)
    write_frames(folder / "a" / "clip", 3)
    write_frames(folder / "b" / "clip", 3, "img_{:05d}.jpg")


def make_empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


BAD = {
    "one class": (make_alone, "'Clapping'"),
    "both kinds": (make_mixed, r"take \d.mp4 .*Clapping/frames"),
    "gap": (make_gap, "'00002.jpg'"),
    "different names": (make_different, "'img_{:05d}.jpg' from 1 on in b/clip; '"),
    "nothing": (make_empty, "my videos: .*mp4"),
    "missing": (shutil.rmtree, r"my videos .*\.csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_folders_raise_and_write_nothing(folder, tmp_path, case):
    make, message = BAD[case]
    make(folder)
    with pytest.raises(UserError, match=message):
        prepared(folder, tmp_path / "to")
    assert not list((tmp_path / "to").glob("*.txt"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a.mp4\n", "row 1 of .*t.csv is 'a.mp4'"),
        ("t.csv", "a.mp4,x,holdout\n", "row 1 of .* is 'a.mp4,x,holdout'.*'train'.*'test'"),
        ("t.csv", "\n\n", "t.csv .*empty"),
        ("t.txt", "alone\n", "line 1 of .*expected '<video> <class>'"),
        ("t.doc", "", r"t\.doc .*\.csv"),
        ("t.txt", "a.mp4 0\nb.mp4 1\n", r"2 videos .* a\.mp4 \("),
        ("t.csv", "a.mp4,\xc4rger\n", r"t.csv is not UTF-8 .*byte 6"),
        ("t.txt", "a.mp4 \xc4rger\n", r"t.txt is not UTF-8"),
        ("t.csv", 'a.mp4,"x\ny"\n', r"class 'x\\ny'"),
        ("t.csv", "a.mp4,x\nb.mp4,y\na.mp4,y\n", "a.mp4 .* 'x' and 'y'"),
        ("t.csv", f"a.mp4,{'x' * 200_000}\n", "t.csv .*field larger"),
    ],
    ids=lambda value: value[:20],
)
def test_malformed_tables_and_lists(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / name, tmp_path / "to")


def test_the_command(folder, tmp_path, capsys):
    to = tmp_path / "to"
    assert cli.main(["prepare", str(folder), f"--to={to}", "--val-share=0.5", "--seed=3"]) == 0
    assert "train: 10 videos" in capsys.readouterr().out
    assert cli.main(["prepare", str(folder), f"--to={to}", "--val-share=1.5"]) == 2
    assert "--val-share=1.5" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["prepare", str(folder), f"--to={tmp_path}/file"]) == 2
    assert f"{tmp_path}/file" in capsys.readouterr().err


# End to end


def train(summary, to):
    """Run the printed command for two steps of a smaller network."""
    (command,) = (line for line in summary.splitlines() if "trn-jax train" in line)
    words = [word for word in shlex.split(command)[1:] if "workdir" not in word]
    smaller = ["model.width=4", "train.batch=8", "model.norm_group=4", "size=32"]
    smaller += ["short_side=40", "protocols.accurate.short_side=40"]
    smaller += ["train.steps=2", "data.balanced=True", "train.class_weights=balanced"]
    done = subprocess.run(
        [sys.executable, "-m", "trn_jax.cli", *words, f"--workdir={to}/run"]
        + [f"--config.{setting}" for setting in smaller],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((to / "run" / "results" / "accurate.json").read_text())


@pytest.mark.slow
def test_a_folder_of_videos_becomes_a_model_by_two_commands(folder, tmp_path):
    summary = prepared(folder, tmp_path / "to")
    found = train(summary, tmp_path / "to")
    assert (found["num_videos"], found["num_views"]) == (4, 6)
    assert [row["name"] for row in found["per_class"]] == sorted(CLASSES)


@pytest.mark.slow
def test_folders_of_frames_become_a_model_by_two_commands(tmp_path):
    for number in range(6):
        write_frames(tmp_path / "mine" / "ab"[number % 2] / f"{number}", 4 + number, "f{:03d}.jpg")
    found = train(prepared(tmp_path / "mine", tmp_path / "to"), tmp_path / "to")
    assert [row["name"] for row in found["per_class"]] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here")
def test_real_videos_become_a_model_by_two_commands(tmp_path):
    for number, video in enumerate(sorted((SHARED / "asl_gestures").glob("*.mkv"))):
        folder = tmp_path / "signs" / ("first half" if number < 10 else "second half")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / video.name).symlink_to(video)
    summary = prepared(tmp_path / "signs", tmp_path / "to")
    assert train(summary, tmp_path / "to")["num_videos"] == 4


def test_too_few_videos_are_named_with_the_unreadable_ones(tmp_path):
    for label in "ab":
        write_video(tmp_path / "videos" / label / "1.mp4", 4)
    (tmp_path / "videos" / "a" / "2.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"for val.*left out: 1 .*a/2\.mp4 \("):
        prepared(tmp_path / "videos", tmp_path / "to")
