"""What all preparations share: the script, the target folder, counting, progress."""

import errno
import fcntl
import os
import pathlib
import re
import subprocess
import sys

import miniature
import pytest

from trn_jax import cli
from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.prepare import PREPARATIONS, folder_lock, frame_folders, progress
from trn_jax.prepare.folder_lock import locked_folder

REPOSITORY = pathlib.Path(__file__).parents[2]


def main(arguments):
    return cli.main(["prepare", *arguments])


def test_every_preparation_is_of_a_data_set_in_the_catalogue(capsys):
    assert PREPARATIONS.keys() == DATASETS.keys() - {"synthetic", "frames"}
    with pytest.raises(SystemExit):
        main(["--help"])
    assert PREPARATIONS.keys() <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_the_printed_command_is_one_that_starts(tmp_path, capsys):
    miniature.jester(tmp_path / "in")
    to = tmp_path / "ein Ordner" / "jester"
    assert main(["jester", f"--archives={tmp_path}/in", f"--to={to}", "--workers=1"]) == 0
    said = capsys.readouterr().out
    assert f"{to} has 20bn-jester-v1, labels/labels.csv" in said and "nothing to do" not in said
    command = said.splitlines()[-1].removeprefix("  trn-jax ").replace("runs/", f"{tmp_path}/runs/")
    # It stops at its first complaint, which must not be one about the data.
    done = subprocess.run(
        f"{sys.executable} -m trn_jax.cli {command} --config.model.num_segments=9",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "model.num_segments=9" in done.stderr
    assert main(["jester", f"--archives={tmp_path}/in", f"--to={to}"]) == 0
    assert "nothing to do: all of this was there already" in capsys.readouterr().out


def test_unreadable_videos_end_with_status_1(tmp_path, capsys):
    videos = {"train": (("1", "Doing [x]", b"no video"),)}
    videos["validation"] = (("2", "Doing [x]", miniature.video()),)
    miniature.sthv2(tmp_path / "in", videos, ["Doing x"])
    flags = ["sthv2", f"--archives={tmp_path}/in", f"--to={tmp_path}/to", "--workers=1"]
    assert main(flags) == 1
    assert "1 training videos that cannot be read: videos/1.webm (" in capsys.readouterr().out
    train_list = tmp_path / "to" / "sthv2_train_list_videos.txt"
    assert train_list.read_text() == ""
    assert main([*flags, "--skip-video-check"]) == 0
    assert train_list.read_text() == "1.webm 0\n"
    assert not (tmp_path / "to" / "unreadable.txt").exists()
    assert cli.main(["prepare", *flags]) == 1


def test_errors_are_one_message(tmp_path, capsys):
    assert main(["jester", f"--archives={tmp_path}/none", f"--to={tmp_path}/to"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    for flags, said in (
        (["jestr", "--archives=a"], "did you mean 'jester'?"),
        (["jester"], "jester needs --archives="),
        (["jester", "--archives=a", "--val-share=0.1"], "--val-share is for own videos"),
        ([str(tmp_path), "--skip-video-check"], "--skip-video-check needs --archives"),
    ):
        assert main([*flags, f"--to={tmp_path}/to"]) == 2
        assert said in capsys.readouterr().err


def test_ctrl_c_is_no_error(tmp_path, capsys):
    miniature.jester(tmp_path / "in")
    with miniature.interrupted(os, "replace", 3, KeyboardInterrupt):
        assert main(["jester", f"--archives={tmp_path}/in", f"--to={tmp_path}/to"]) == 130
    assert "run the same command to resume" in capsys.readouterr().err


# Renames: the record, 14 frames, the record, 4 files of labels, 6 lists.
@pytest.mark.parametrize("call", [1, 9, 18, 24])
def test_a_full_disk_leaves_nothing_half_written_and_the_next_run_completes(tmp_path, capsys, call):
    miniature.jester(tmp_path / "in")
    flags = ["jester", f"--archives={tmp_path}/in", "--workers=1"]
    assert main([*flags, f"--to={tmp_path}/whole"]) == 0
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with miniature.interrupted(os, "replace", call, full):
        assert main([*flags, f"--to={tmp_path}/to"]) == 2
    said = capsys.readouterr().err
    assert "No space left on device" in said and f"{tmp_path}/to" in said
    expected = miniature.tree(tmp_path / "whole")
    left = miniature.tree(tmp_path / "to")
    assert len(left) == call - 1 - (call > 16)  # the record is written twice
    assert all(expected[path] == left[path] for path in left if path != "unpacked.json")
    assert main([*flags, f"--to={tmp_path}/to"]) == 0
    assert miniature.tree(tmp_path / "to") == expected


def test_a_target_that_is_a_file(tmp_path, capsys):
    (tmp_path / "to").write_text("")
    assert main(["jester", f"--archives={tmp_path}", f"--to={tmp_path}/to"]) == 2
    assert f"{tmp_path}/to: " in capsys.readouterr().err


def test_a_read_only_target(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with (
        pytest.raises(UserError, match=f"{tmp_path}.*read-only.*--to"),
        locked_folder(tmp_path),
    ):
        pass


def test_one_preparation_at_a_time(tmp_path):
    with locked_folder(tmp_path / "to"):
        handle = os.open(tmp_path / "to", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (
            pytest.raises(UserError, match=f"{tmp_path}/to"),
            locked_folder(tmp_path / "to"),
        ):
            pass
        os.close(handle)
    with locked_folder(tmp_path / "to"):
        pass
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_are_counted(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(frame_folders, "MIN_PARALLEL", 2)
    monkeypatch.setattr(frame_folders, "CHUNK_SIZE", 2)
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


def test_progress_is_told_in_lines_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    with progress.Progress("Unpacking", 200, "B") as bar:
        bar.add(50)
        bar.add(150)
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"Unpacking: 25%, [\d.]+ MB/s, \d+:\d\d:\d\d left", first)
    assert re.fullmatch(r"Unpacking: 100%, [\d.]+ MB/s, 0:00:00 left", last)
    with progress.Progress("Counting", 4, "videos") as bar:
        bar.add(1, "all well")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Counting: 1 of 4 videos (25%), all well, ")


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Progress("Unpacking", 200, "B") as bar:
        bar.add(200)
    assert "Unpacking: 100%|" in capsys.readouterr().err


def test_there_are_no_claims_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with locked_folder(tmp_path / "to"), locked_folder(tmp_path / "to"):
        assert (tmp_path / "to").is_dir()
