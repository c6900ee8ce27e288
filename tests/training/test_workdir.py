"""Whose run, and whose labels: what a working directory and a checkpoint belong to."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import pytest
from small_training import REPOSITORY
from tiny_training import environment

from trn_jax.checkpoints import checkpoint, finding
from trn_jax.distributed.run_lock import RunLock
from trn_jax.errors import STUCK, PassingError, UserError
from trn_jax.evaluation import evaluate
from trn_jax.recipe_data import Data
from trn_jax.training import loop


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
def test_a_second_run_changes_nothing(trained, copy, mode):
    config, _ = trained
    before = contents(copy)
    config = copy_of(config)
    config.train.steps, config.seed = 9, 1
    begin = {
        "train": lambda: loop.train(config, str(copy)),
        "eval": lambda: evaluate.evaluate(None, str(copy), str(copy)),
    }[mode]
    with RunLock(str(copy)), pytest.raises(PassingError, match=f"process {os.getpid()} on"):
        begin()
    assert contents(copy) == before


def test_a_second_command_waits_by_its_status(trained, copy):
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


@pytest.mark.by_default(1, slow=("{",))
@pytest.mark.parametrize("damaged", [None, "", "{"])
def test_the_checkpoint_knows_the_configuration(trained, copy, damaged):
    """Whatever happened to `config.json`."""
    config = copy_of(trained[0])
    if damaged is None:
        (copy / "config.json").unlink()
    else:
        (copy / "config.json").write_text(damaged)
    config.optim.lr = 0.1
    (copy / "first_batch.png").write_bytes(b"of the first start")
    before = contents(copy)
    with pytest.raises(UserError, match=r"optim\.lr: 0\.05 -> 0\.1"):
        loop.train(config, str(copy))
    assert contents(copy) == before
    config.optim.lr = 0.05
    assert loop.train(config, str(copy)) == 0
    assert json.loads((copy / "config.json").read_text())["optim"]["lr"] == 0.05
    assert (copy / "first_batch.png").read_bytes() == b"of the first start"


def test_a_training_leaves_a_picture_of_its_first_batch(trained):
    _, workdir = trained
    image = cv2.imread(str(workdir / "first_batch.png"))
    assert image.shape[0] > 8 * 64 and image.shape[1] > 3 * 64  # 8 clips of 3 frames
    assert not list(workdir.glob("*.partial"))


# The lists


@pytest.mark.smoke
def test_the_lists_are_kept(trained):
    _, workdir = trained
    about = checkpoint.open_checkpoint(workdir).info
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


@pytest.mark.by_default(slow=("added", "removed", "counted", "moved", "relabelled"))
@pytest.mark.parametrize("case", CHANGES)
def test_lists_that_change_are_noticed(trained, copy, tmp_path, case):
    config, data = own_data(trained[0], tmp_path)
    change, said = CHANGES[case]
    path = data / "train_list.txt"
    text = path.read_text()
    path.write_text(text.replace("\n", "\r\n"))  # which changes nothing
    config.train.steps = 6
    assert loop.train(config, str(copy)) == 0
    path.write_text("\n".join(change(text.splitlines())))
    if case == "added":
        shutil.copytree(data / "rawframes" / "train0", data / "rawframes" / "train99")
    before = contents(copy)
    with pytest.raises(UserError, match="--ignore_lists") as raised:
        loop.train(config, str(copy))
    assert said in str(raised.value)
    assert contents(copy) == before
    shutil.rmtree(copy / "lists")
    with pytest.raises(UserError, match=f"it had 24 videos, and has {len(change([0] * 24))}"):
        loop.train(config, str(copy))
    config.train.steps = 7
    assert loop.train(config, str(copy), ignore_lists=True) == 0
    assert loop.train(config, str(copy)) == 0  # its last checkpoint is of these lists


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


@pytest.mark.by_default(1)
@pytest.mark.parametrize("order", [[2, 3, 1, 0], [1, 0, 2, 3], [3, 0, 1, 2]])
def test_labels_in_another_order_are_mapped(trained, tmp_path, capsys, order):
    config, data = own_data(trained[0], tmp_path)
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"))
    assert "mapped" not in capsys.readouterr().err
    permuted(data, order)
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "b"))
    assert "by name" in capsys.readouterr().err
    first, second = result(tmp_path / "a"), result(tmp_path / "b")
    assert first["metrics"] == second["metrics"]
    by_name = [
        {row["name"]: (row["videos"], row["accuracy"]) for row in found["per_class"]}
        for found in (first, second)
    ]
    assert by_name[0] == by_name[1]


def test_other_classes_are_refused(trained, tmp_path, copy):
    config, data = own_data(trained[0], tmp_path)
    (data / "label_map.txt").write_text("a\nb\nc\n\x1b[31md\n")
    with pytest.raises(UserError, match=r"class 3: 'd' -> '\\x1b\[31md'\n.*--ignore_class_names"):
        evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"))
    before = contents(copy)
    with pytest.raises(UserError, match=r"class 3: 'd' -> .*\n.*--ignore_class_names"):
        loop.train(config, str(copy))
    assert contents(copy) == before
    evaluate.evaluate(config, str(trained[1]), str(tmp_path / "a"), ignore_class_names=True)
    evaluate.evaluate(trained[0], str(trained[1]), str(tmp_path / "b"))
    assert result(tmp_path / "a")["metrics"] == result(tmp_path / "b")["metrics"]


def test_a_run_is_not_resumed_with_its_classes_in_another_order(trained, copy, tmp_path):
    config, data = own_data(trained[0], tmp_path)
    permuted(data, [1, 0, 2, 3])
    with pytest.raises(UserError, match="class 0: 'a' -> 'b'"):
        loop.train(config, str(copy))


def test_classes_have_names_of_their_own(trained, tmp_path):
    config, data = own_data(trained[0], tmp_path)
    (data / "label_map.txt").write_text("a\nb\nc\na\n")
    with pytest.raises(UserError, match=r"label_map\.txt .*twice: a"):
        Data(config, str(tmp_path))


def test_a_checkpoint_without_names_says_so(capsys):
    assert evaluate.class_order([], ["a", "b"]) is None
    assert "no class names" in capsys.readouterr().err


# Somebody else's checkpoint


def test_a_checkpoint_does_not_choose_where_files_are_written(trained, tmp_path):
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
    about = checkpoint.open_checkpoint(workdir).info | {"config": config}
    model = checkpoint.open_checkpoint(str(workdir)).load()
    to = folder / f"rewritten{len(list(folder.iterdir()))}"
    checkpoint.save_model(to, model, about)
    return to


@dataclasses.dataclass
class Hosts:
    """Two hosts, one after the other in this process."""

    index: int = 0


def test_hosts_with_other_lists_are_told(monkeypatch):
    from trn_jax.distributed import processes

    texts, here = {}, Hosts()

    class Texts:
        def __init__(self, folder):
            pass

        def write(self, name, text):
            texts[name] = text

        def read(self, folder):
            return {n.split("/")[1]: t for n, t in texts.items() if n.startswith(f"{folder}/")}

    monkeypatch.setattr(processes, "KeyValueStore", Texts)
    monkeypatch.setattr(processes, "barrier", lambda: None)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.jax, "process_index", lambda: here.index)
    processes.check_same(train_list="a 1 0\n", val_list="b")
    here.index = 1
    processes.check_same(train_list="a 1 0\n", val_list="b")
    with pytest.raises(UserError, match=r"process 1 .* val_list"):
        processes.check_same(train_list="a 1 0\n", val_list="c")


# Which checkpoint


def log_in(capsys):
    return capsys.readouterr().err


def test_checkpoints_are_named_by_their_step_or_as_the_best(trained, copy, capsys):
    best = finding.find_best(copy / "checkpoints")
    assert finding.find(copy).name == finding.find(f"{copy}/checkpoints").name == "6"
    assert finding.find(f"{copy}@best").name == str(best)
    assert finding.find(f"{copy}@3").name == finding.find(f"{copy}/checkpoints@3").name == "3"
    for wanted in ("4", "newest", "-1", ""):
        with pytest.raises(UserError, match=r"@3, @6"):
            finding.find(f"{copy}@{wanted}" if wanted else f"{copy}@x")
    evaluate.evaluate(None, f"{copy}@3", str(copy))
    assert "evaluating" in (said := log_in(capsys)) and "checkpoints/3" in said
    assert result(copy)["step"] == 3
    opened = checkpoint.open_checkpoint(f"{copy}@3")
    opened.load()
    assert opened.info["step"] == 3


def test_the_best_needs_an_evaluation(trained, copy):
    for path in (copy / "checkpoints").glob("*/metrics.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"@best; available: @3, @6"):
        finding.find(f"{copy}@best")


def test_a_folder_may_have_an_at_in_its_name(trained, tmp_path):
    folder = shutil.copytree(trained[1], tmp_path / "a@best")
    assert finding.find(folder).name == "6"
    assert finding.find(f"{folder}@3").name == "3"


def changed_classes(config, folder, num_classes):
    config, data = own_data(config, folder)
    (data / "label_map.txt").write_text("".join(f"new {n}\n" for n in range(num_classes)))
    config.model.num_classes = num_classes
    config.train.steps = 1
    config.optim.lr = 0.0
    return config


@pytest.mark.slow
@pytest.mark.parametrize("init_head", [True, False])
def test_a_training_starts_from_another_one(trained, tmp_path, capsys, init_head):
    config = changed_classes(trained[0], tmp_path, 7)
    config.init_from, config.init_head = f"{trained[1]}@best", init_head
    assert loop.train(config, str(tmp_path / "run")) == 0
    said = log_in(capsys)
    assert f"weights from {trained[1]}/checkpoints/" in said and "arrays start at random" in said
    ours = checkpoint.open_checkpoint(tmp_path / "run").weights()
    theirs = checkpoint.open_checkpoint(f"{trained[1]}@best").weights()
    same = {name for name in ours if ours[name].shape == theirs[name].shape}
    kernels = {name for name in same if name.endswith(("kernel", "scale"))}
    assert {name for name in kernels if name.startswith("backbone.")}
    for name in kernels:
        taken = init_head or name.startswith("backbone.")
        assert (ours[name] == theirs[name]).all() == taken, name
    assert any(ours[name].shape != theirs[name].shape for name in ours)


@pytest.mark.thorough
def test_a_training_does_not_start_from_another_backbone(trained, tmp_path):
    config = changed_classes(trained[0], tmp_path, 4)
    config.model.width = 8
    config.init_from = str(trained[1])
    with pytest.raises(UserError, match=r"(?s)init_from=.*backbone.*problems.*backbone\."):
        loop.train(config, str(tmp_path / "run"))


# The command line


def command_line(folder, *flags):
    return subprocess.run(
        [sys.executable, "-m", "trn_jax.main", *flags],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.thorough
def test_settings_of_a_checkpoint_are_changed_without_its_recipe(trained, tmp_path):
    lines = (pathlib.Path(trained[0].data_dir) / "val_list.txt").read_text().splitlines()
    (tmp_path / "two.txt").write_text("\n".join(lines[:2]))
    done = command_line(
        tmp_path,
        *("--mode=eval", f"--checkpoint={trained[1]}@best", "--workdir=out"),
        f"--config.data.val_list={tmp_path}/two.txt",
        "--config.protocols.efficient.short_side=40",
    )
    assert done.returncode == 0, done.stderr
    found = result(tmp_path / "out")
    assert (found["num_videos"], found["view"]["short_side"]) == (2, 40)
    assert found["step"] == finding.find_best(trained[1] / "checkpoints")
    done = command_line(tmp_path, "--mode=eval", f"--checkpoint={trained[1]}", "--config.data.no=1")
    assert done.returncode == 2 and "--config.data.no=1" in done.stderr
    done = command_line(tmp_path, "--config.data.val_list=x")
    assert done.returncode == 2 and "--config=<recipe>" in done.stderr


@pytest.mark.slow
def test_a_recipe_alone_is_a_command(trained, tmp_path):
    """It says what it looked for; where that is, it trains in a folder of the recipe's name."""
    source = pathlib.Path(trained[0].data_dir)
    text = (source.parent / "recipe.py").read_text()
    text = text.replace('base(dataset="frames"', 'base(dataset="sthv1"').replace(
        "config.protocols.accurate", 'config.protocols["25x10"]'
    )
    (tmp_path / "my_recipe.py").write_text(text)
    done = command_line(tmp_path, "--config=my_recipe.py")
    assert done.returncode == 2
    assert f"{tmp_path}/data/sthv1" in done.stderr and "trn-jax prepare sthv1" in done.stderr
    assert not (tmp_path / "runs").exists()
    data = shutil.copytree(source, tmp_path / "data" / "sthv1")
    for split in ("train", "val"):
        (data / f"{split}_list.txt").rename(data / f"sthv1_{split}_list_rawframes.txt")
    flags = ["--config=my_recipe.py", "--config.train.steps=2"]
    done = command_line(tmp_path, *flags, "--config.protocols.25x10.merge_views=logits")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "runs/my_recipe/results/25x10.json").read_text())
    assert found["view"]["merge_views"] == "logits"
