"""The command `trn-jax prepare` with public data sets."""

import errno
import os
import pathlib
import re
import subprocess
import sys

import miniature
import pytest

from trn_jax import cli
from trn_jax.data.datasets import DATASETS
from trn_jax.prepare import PREPARATIONS

REPOSITORY = pathlib.Path(__file__).parents[2]


def main(arguments):
    return cli.main(["prepare", *arguments])


def test_every_preparation_is_of_a_known_data_set(capsys):
    assert PREPARATIONS.keys() == DATASETS.keys() - {"synthetic", "frames"}
    with pytest.raises(SystemExit):
        main(["--help"])
    assert PREPARATIONS.keys() <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_the_printed_command_is_one_that_starts(tmp_path, capsys):
    miniature.jester(tmp_path / "in")
    to = tmp_path / "ein Ordner" / "jester"
    assert main(["jester", f"--archives={tmp_path}/in", f"--to={to}", "--workers=1"]) == 0
    output = capsys.readouterr().out
    assert f"{to} has 20bn-jester-v1, labels/labels.csv" in output and "nothing to do" not in output
    command = (
        output.splitlines()[-1].removeprefix("  trn-jax ").replace("runs/", f"{tmp_path}/runs/")
    )
    # Training stops at the first error, which must not concern the data.
    done = subprocess.run(
        f"{sys.executable} -m trn_jax.cli {command} --config.data.train.num_segments=9",
        shell=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "data.train.num_segments=9" in done.stderr
    assert main(["jester", f"--archives={tmp_path}/in", f"--to={to}"]) == 0
    assert "nothing to do: all files are up to date" in capsys.readouterr().out


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
    for flags, output in (
        (["jestr", "--archives=a"], "did you mean 'jester'?"),
        (["jester"], "jester needs --archives="),
        (["jester", "--archives=a", "--val-share=0.1"], "--val-share is not for --archives"),
        ([str(tmp_path), "--skip-video-check"], "--skip-video-check needs --archives"),
    ):
        assert main([*flags, f"--to={tmp_path}/to"]) == 2
        assert output in capsys.readouterr().err


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
    output = capsys.readouterr().err
    assert "No space left on device" in output and f"{tmp_path}/to" in output
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


@pytest.mark.parametrize(
    ("name", "make", "function", "calls"),
    [
        # Renames of Jester: the record, 14 frames, the record, 4 files of labels, 6 lists; of the
        # others: the record, 9 frames or 2 videos, the record, 3 files of annotations, lists.
        ("jester", miniature.jester, "replace", (1, 4, 16, 18, 22, 25)),
        ("sthv1", miniature.sthv1, "replace", (1, 5, 11, 13, 16, 20)),
        ("sthv2", miniature.sthv2, "replace", (1, 3, 4, 6, 8, 10)),
        ("charades", miniature.charades, "replace", (2, 50, 94, 97, 100)),
        ("moments", miniature.moments, "replace", (2, 4, 9, 12)),
        ("k400", miniature.kinetics, "replace", (1, 2, 4)),
        ("k400", miniature.kinetics, "symlink", (2,)),
    ],
)
def test_interrupted_and_run_again(tmp_path, name, make, function, calls):
    make(tmp_path / "in")
    miniature.prepare(name, tmp_path / "in", tmp_path / "whole")
    expected = miniature.tree(tmp_path / "whole")
    for call in calls:
        to = tmp_path / str(call)
        with miniature.interrupted(os, function, call):
            miniature.prepare(name, tmp_path / "in", to)
        assert miniature.prepare(name, tmp_path / "in", to).changed
        assert miniature.tree(to) == expected
