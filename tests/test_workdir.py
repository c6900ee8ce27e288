"""Whose run, and whose labels: what a working directory and a checkpoint belong to."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from small_training import REPOSITORY
from test_checkpoint import copy, tiny_training, trained  # noqa: F401
from test_main import environment

from trn_jax import checkpoint, evaluate, recipe, train
from trn_jax.errors import STUCK, PassingError, UserError
from trn_jax.lock import RunLock


def copy_of(config):
    return type(config)(config.to_dict())


def contents(folder):
    """All files of a folder but the lock, with their bytes."""
    paths = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in paths if path.name != "run.lock"}


def own_data(config, folder):
    """The configuration with a copy of its data, and that folder."""
    config = copy_of(config)
    data = pathlib.Path(shutil.copytree(config.data_dir, folder / "data", symlinks=True))
    config.data_dir = str(data)
    return config, data


# One run at a time


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_second_run_changes_nothing(trained, copy, mode):  # noqa: F811
    config, _ = trained
    before = contents(copy)
    config = copy_of(config)
    config.train.steps, config.seed = 9, 1
    begin = {
        "train": lambda: train.train(config, str(copy)),
        "eval": lambda: evaluate.evaluate(None, str(copy), str(copy)),
    }[mode]
    with RunLock(str(copy)), pytest.raises(PassingError, match=f"process {os.getpid()} on"):
        begin()
    assert contents(copy) == before


def test_a_second_command_waits_by_its_status(trained, copy):  # noqa: F811
    config, _ = trained
    before = contents(copy)
    flags = [f"--config={pathlib.Path(config.data_dir).parent}/recipe.py"]
    flags += [f"--config.data_dir={config.data_dir}", f"--workdir={copy}"]
    with RunLock(str(copy)):
        done = subprocess.run(
            [sys.executable, "-m", "trn_jax.main", *flags],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == STUCK
    assert done.stderr.startswith(f"error: {copy} is in use by another run (process {os.getpid()}")
    assert contents(copy) == before


# The configuration


@pytest.mark.parametrize("damaged", ["", "{", None])
def test_the_checkpoint_knows_the_configuration(trained, copy, damaged):  # noqa: F811
    """Whatever happened to `config.json`."""
    config = copy_of(trained[0])
    if damaged is None:
        (copy / "config.json").unlink()
    else:
        (copy / "config.json").write_text(damaged)
    config.optim.lr = 0.1
    before = contents(copy)
    with pytest.raises(UserError, match=r"optim\.lr: 0\.05 -> 0\.1"):
        train.train(config, str(copy))
    assert contents(copy) == before
    config.optim.lr = 0.05
    assert train.train(config, str(copy)) == 0
    assert json.loads((copy / "config.json").read_text())["optim"]["lr"] == 0.05


# The lists


def test_the_lists_are_kept(trained):  # noqa: F811
    _, workdir = trained
    about = checkpoint.read_about(checkpoint.find(workdir))
    assert {split: found["videos"] for split, found in about["lists"].items()} == {
        "train": 24,
        "val": 4,
    }
    assert (workdir / "lists" / "val.txt").read_text().splitlines()[1] == "val1\t3\t1"


CHANGES = {
    "removed": (lambda lines: lines[1:], "removed: 'train0'"),
    "added": (lambda lines: [*lines, "train99 3 0"], "added: 'train99'"),
    "relabelled": (lambda lines: ["train0 3 1", *lines[1:]], "relabelled: 'train0', 0 -> 1"),
    "counted anew": (
        lambda lines: ["train0 2 0", *lines[1:]],
        "another number of frames: 'train0', 3 -> 2",
    ),
    "moved": (lambda lines: lines[::-1], "the same videos in another order"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_lists_that_change_are_noticed(trained, copy, tmp_path, case):  # noqa: F811
    config, data = own_data(trained[0], tmp_path)
    change, said = CHANGES[case]
    path = data / "train_list.txt"
    text = path.read_text()
    path.write_text(text.replace("\n", "\r\n"))  # which changes nothing
    config.train.steps = 6
    assert train.train(config, str(copy)) == 0
    path.write_text("\n".join(change(text.splitlines())))
    if case == "added":
        shutil.copytree(data / "rawframes" / "train0", data / "rawframes" / "train99")
    before = contents(copy)
    with pytest.raises(UserError, match="--ignore_lists") as raised:
        train.train(config, str(copy))
    assert said in str(raised.value)
    assert contents(copy) == before
    shutil.rmtree(copy / "lists")
    with pytest.raises(UserError, match=f"it had 24 videos, and has {len(change([0] * 24))}"):
        train.train(config, str(copy))
    config.train.steps = 7
    assert train.train(config, str(copy), ignore_lists=True) == 0
    assert train.train(config, str(copy)) == 0  # its last checkpoint is of these lists


# The classes


def permuted(data, order):
    """Give the classes of a data set other labels; `order[new] = old`."""
    names = (data / "label_map.txt").read_text().splitlines()
    (data / "label_map.txt").write_text("".join(f"{names[old]}\n" for old in order))
    for split in ("train", "val"):
        rows = [
            line.rsplit(" ", 1) for line in (data / f"{split}_list.txt").read_text().splitlines()
        ]
        lines = [f"{start} {order.index(int(label))}\n" for start, label in rows]
        (data / f"{split}_list.txt").write_text("".join(lines))


def result(workdir):
    return json.loads((workdir / "results" / "efficient.json").read_text())


@pytest.mark.parametrize("order", [[1, 0, 2, 3], [3, 0, 1, 2], [2, 3, 1, 0]])
def test_labels_in_another_order_are_mapped(trained, tmp_path, capsys, order):  # noqa: F811
    config, data = own_data(trained[0], tmp_path)
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"))
    assert "mapped" not in capsys.readouterr().err
    permuted(data, order)
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "b"))
    assert "mapped by name" in capsys.readouterr().err
    first, second = result(tmp_path / "a"), result(tmp_path / "b")
    assert first["metrics"] == second["metrics"]
    by_name = [
        {row["name"]: (row["videos"], row["accuracy"]) for row in found["per_class"]}
        for found in (first, second)
    ]
    assert by_name[0] == by_name[1]


def test_other_classes_are_refused(trained, tmp_path, copy):  # noqa: F811
    config, data = own_data(trained[0], tmp_path)
    (data / "label_map.txt").write_text("a\nb\nc\n\x1b[31md\n")
    with pytest.raises(UserError, match=r"class 3: 'd' -> '\\x1b\[31md'\n.*--ignore_class_names"):
        evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"))
    before = contents(copy)
    with pytest.raises(UserError, match=r"class 3: 'd' -> .*\n.*--ignore_class_names"):
        train.train(config, str(copy))
    assert contents(copy) == before
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"), ignore_class_names=True)
    evaluate.evaluate(trained[0], str(trained[1]), str(tmp_path / "b"))
    assert result(tmp_path / "a")["metrics"] == result(tmp_path / "b")["metrics"]


def test_a_run_is_not_resumed_with_its_classes_in_another_order(trained, copy, tmp_path):  # noqa: F811
    config, data = own_data(trained[0], tmp_path)
    permuted(data, [1, 0, 2, 3])
    with pytest.raises(UserError, match="class 0: 'a' -> 'b'"):
        train.train(config, str(copy))


def test_classes_have_names_of_their_own(trained, tmp_path):  # noqa: F811
    config, data = own_data(trained[0], tmp_path)
    (data / "label_map.txt").write_text("a\nb\nc\na\n")
    with pytest.raises(UserError, match=r"label_map\.txt .*twice: a"):
        recipe.Data(config, str(tmp_path))


def test_a_checkpoint_without_names_says_so(capsys):
    assert evaluate.class_order([], ["a", "b"]) is None
    assert "names no classes" in capsys.readouterr().err


# Somebody else's checkpoint


def test_a_checkpoint_does_not_choose_where_files_are_written(trained, tmp_path):  # noqa: F811
    target = tmp_path / "target"
    target.mkdir()
    config = copy_of(trained[0])
    config.data.dataset = "synthetic"
    config.data_dir = str(target)
    with pytest.raises(UserError, match=r"train_list|class names|label_map"):
        evaluate.evaluate(
            None, str(rewritten(trained[1], tmp_path, config.to_dict())), str(tmp_path)
        )
    assert list(target.iterdir()) == []
    values = trained[0].to_dict()
    values["protocols"] = {str(target / "x"): values["protocols"]["efficient"]}
    with pytest.raises(UserError, match=r"protocols\."):
        evaluate.evaluate(None, str(rewritten(trained[1], tmp_path, values)), str(tmp_path))
    assert list(target.iterdir()) == []


def rewritten(workdir, folder, config):
    """A checkpoint that says that it was made from another configuration."""
    about = checkpoint.read_about(checkpoint.find(workdir)) | {"config": config}
    model, _ = checkpoint.load_model(str(workdir))
    to = folder / f"rewritten{len(list(folder.iterdir()))}"
    checkpoint.save_model(to, model, about)
    return to


@dataclasses.dataclass
class Hosts:
    """Two hosts, one after the other in this process."""

    index: int = 0


def test_hosts_with_other_lists_are_told(monkeypatch):
    from trn_jax import hosts

    texts, here = {}, Hosts()

    class Texts:
        def __init__(self, folder):
            pass

        def write(self, name, text):
            texts[name] = text

        def read(self, folder):
            return {n.split("/")[1]: t for n, t in texts.items() if n.startswith(f"{folder}/")}

    monkeypatch.setattr(hosts, "Register", Texts)
    monkeypatch.setattr(hosts, "wait_for_all", lambda: None)
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: here.index)
    hosts.check_same(train_list="a 1 0\n", val_list="b")
    here.index = 1
    hosts.check_same(train_list="a 1 0\n", val_list="b")
    with pytest.raises(UserError, match="host 1 has another val_list than host 0"):
        hosts.check_same(train_list="a 1 0\n", val_list="c")
