"""Checkpoints that were damaged after they were written: found, named, and never gone on from."""

import itertools
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import stored

from trn_jax.checkpoints import checkpoint, checksums, finding, integrity, manager
from trn_jax.errors import UserError
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.training import loop

ABOUT = {"config": {}, "class_names": []}


@pytest.fixture(scope="module")
def expected(trained):
    _, workdir = trained
    return {step: stored(workdir / "checkpoints" / str(step)) for step in (3, 6)}


def restored(kept, like):
    """The newest checkpoint, as a training reads it into arrays that were there before."""
    blank = {item: jax.tree.map(jnp.zeros_like, values) for item, values in like.items()}
    (model,), optimizer = kept.restore(kept.latest_step(), (blank["model"],), blank["optimizer"])
    return {"model": model, "optimizer": optimizer}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def truncate(path, rng):
    with path.open("r+b") as file:
        file.truncate(rng.integers(path.stat().st_size))


def flip_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def delete(path, _):
    path.unlink()


DAMAGES = (truncate, flip_bit, delete)
# Of Orbax, from which nothing is read; and of the evaluation, which can be made again.
UNUSED = ("_CHECKPOINT_METADATA", "commit_success.txt", "metrics.json", "calibration.json")


@pytest.mark.by_default(6, slow=tuple(f"{seed}]" for seed in range(8, 20)))
@pytest.mark.parametrize("seed", range(20))
def test_damage_is_found_or_does_not_matter(copy, expected, seed):
    rng = np.random.default_rng(seed)
    newest = copy / "checkpoints" / "6"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    DAMAGES[seed % 3](path, rng)
    kept = manager.Checkpoints(newest.parent, keep=3, about=ABOUT)
    step = kept.latest_step()
    assert_equal(restored(kept, expected[6]), expected[step])
    if path.parent == newest and path.name in UNUSED:
        assert (step, kept.set_aside) == (6, [])
        assert bool(kept.metrics(6)) == (path.name != "metrics.json")
    else:
        assert step == 3
        (message,) = kept.set_aside
        assert path.name in message
        assert re.search("step 6 .* 6.damaged, .* step 3$", message)
        arrays = jax.tree.map(jnp.asarray, expected[6])
        kept.save(6, (arrays["model"],), arrays["optimizer"])
    kept.close()
    assert finding.find(copy) == newest
    assert_equal(stored(newest), expected[6])


@pytest.mark.by_default(6)
@pytest.mark.parametrize("seed", range(20))
def test_damaged_metrics_are_none(copy, seed):
    newest = copy / "checkpoints" / "6"
    kept = manager.Checkpoints(newest.parent, keep=3, about=ABOUT)
    found = kept.metrics(6)
    assert 0 <= found["top1"] <= 1
    DAMAGES[seed % 3](newest / "metrics.json", np.random.default_rng(seed))
    # A flipped bit may have made one blank of another.
    assert kept.metrics(6) in ({}, found)
    kept.close()


# Evaluations that do not come to their end


def log_of(workdir, group):
    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = {}
    for entry in entries:
        if entry.pop("group") == group:
            step = entry.pop("step")
            assert step not in found
            found[step] = entry
    return found


@pytest.fixture
def evaluations(monkeypatch):
    """Lets something happen in an evaluation, by its number: `{number: function}`."""
    happens: dict = {}
    numbers = itertools.count(1)
    original = Evaluator.run

    def run(self, *args):
        happens.get(next(numbers), lambda: None)()
        return original(self, *args)

    monkeypatch.setattr(Evaluator, "run", run)
    return happens


@pytest.mark.by_default(slow=("1-3", "2-6"))
@pytest.mark.parametrize(("number", "stops_at"), [(1, 3), (2, 6), (3, 6)])
def test_a_signal_ends_an_evaluation_which_is_made_later(
    trained, tmp_path, evaluations, capsys, number, stops_at
):
    """Of those after steps 3 and 6, and of all protocols in the end."""
    config, undisturbed = trained
    evaluations[number] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert loop.train(config, str(tmp_path)) == loop.INTERRUPTED
    assert f"stopped by SIGTERM after step {stops_at};" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert finding.find(tmp_path) == tmp_path / "checkpoints" / str(stops_at)
    about = checkpoint.open_checkpoint(tmp_path).info
    assert bool(about["metrics"]) == (number == 3)

    assert loop.train(config, str(tmp_path)) == 0
    assert f"resuming after step {stops_at}" in capsys.readouterr().err
    assert log_of(tmp_path, "val") == log_of(undisturbed, "val")
    for step in (3, 6):
        ours, theirs = (
            checkpoint.open_checkpoint(folder / "checkpoints" / str(step)).info["metrics"]
            for folder in (tmp_path, undisturbed)
        )
        assert ours == theirs != {}
    assert_equal(stored(tmp_path / "checkpoints/6"), stored(undisturbed / "checkpoints/6"))
    assert (tmp_path / "results" / "efficient.json").exists()


@pytest.mark.thorough
def test_an_evaluation_that_fails_loses_no_steps(trained, tmp_path, evaluations):
    def fail():
        raise UserError("a video cannot be read")

    evaluations[1] = fail
    with pytest.raises(UserError, match="a video cannot be read"):
        loop.train(trained[0], str(tmp_path))
    assert finding.find(tmp_path).name == "3"
    assert checkpoints_are_intact(tmp_path)


@pytest.mark.slow
def test_an_evaluation_is_in_the_log_once(trained, tmp_path, monkeypatch):
    """Also if the run ends just before its metrics are beside the checkpoint."""
    config, undisturbed = trained

    def fail(*_):
        raise UserError("no room for the metrics")

    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write_metrics", fail)
        with pytest.raises(UserError, match="no room for the metrics"):
            loop.train(config, str(tmp_path))
    assert list(log_of(tmp_path, "val")) == [3]
    assert loop.train(config, str(tmp_path)) == 0
    assert log_of(tmp_path, "val") == log_of(undisturbed, "val")
    assert log_of(tmp_path, "train").keys() == log_of(undisturbed, "train").keys()


def checkpoints_are_intact(workdir):
    folders = (workdir / "checkpoints").iterdir()
    return [integrity.problem(folder) for folder in folders] == [""]


def test_results_tell_the_step_that_they_are_of(trained, copy):
    config = copy_of(trained[0])
    config.train.steps = 3  # which has been passed
    assert loop.train(config, str(copy)) == 0
    assert json.loads((copy / "results" / "efficient.json").read_text())["step"] == 6


def copy_of(config):
    return type(config)(config.to_dict())


@pytest.mark.thorough(1)
@pytest.mark.parametrize("case", ["flipped bit", "half deleted"])
def test_a_training_goes_on_from_the_checkpoint_before(trained, expected, copy, capsys, case):
    newest = copy / "checkpoints" / "6"
    if case == "half deleted":
        shutil.rmtree(newest / "model")
        (newest / "about" / "metadata").unlink()
    else:
        data = max(newest.glob("optimizer/**/d/*"), key=lambda path: path.stat().st_size)
        flip_bit(data, np.random.default_rng(0))
    config, _ = trained
    assert loop.train(config, str(copy)) == 0
    said = capsys.readouterr().err
    named = "about/metadata is missing" if case == "half deleted" else f"{data.name} .*checksum"
    assert re.search(f"checkpoint of step 6 .*{named}", said)
    assert "resuming after step 3" in said
    assert_equal(stored(newest), expected[6])
    log = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if entry["group"] == "train"] == [2, 3, 4, 6]
    # Another time there is nothing to say, and another damage gets another name.
    assert manager.Checkpoints(newest.parent, keep=3, about=ABOUT).set_aside == []
    delete(newest / checksums.NAME, None)
    (message,) = manager.Checkpoints(newest.parent, keep=3, about=ABOUT).set_aside
    assert re.search(r"checksums.json is missing.* 6.damaged-2", message)


def test_without_an_intact_checkpoint_nothing_begins(trained, copy):
    for step in ("3", "6"):
        truncate(next((copy / "checkpoints" / step).glob("model/**/d/*")), np.random.default_rng(0))
    with pytest.raises(UserError, match=r"checkpoint(.|\n)*  6: model/(.|\n)*  3: mod"):
        loop.train(trained[0], str(copy))
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"3", "6"}


def forget_checksums(directory):
    """Make a checkpoint what it was before there were checksums."""
    (directory / checksums.NAME).unlink()
    path = directory / "about" / "metadata"
    about = json.loads(path.read_text())
    assert about.pop("checksums") == checksums.NAME
    path.write_text(json.dumps(about))


def test_checkpoints_of_before_there_were_checksums_are_read(copy, expected):
    newest = copy / "checkpoints" / "6"
    forget_checksums(newest)
    kept = manager.Checkpoints(newest.parent, keep=3, about=ABOUT)
    assert kept.set_aside == []
    assert_equal(restored(kept, expected[6]), expected[6])
    opened = checkpoint.open_checkpoint(copy)
    assert opened.info["step"] == 6
    opened.load()
    for path in newest.glob("model/ocdbt.process_0/d/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/6 .*previous"):
        restored(kept, expected[6])
    kept.close()


def test_a_damaged_checkpoint_is_not_evaluated(copy):
    rng = np.random.default_rng(0)
    newest = copy / "checkpoints" / "6"
    truncate(next(newest.glob("optimizer/**/d/*")), rng)
    opened = checkpoint.open_checkpoint(copy)
    assert opened.info["step"] == 6
    opened.load()  # doesn't read the momentum
    flip_bit(next(newest.glob("model/**/d/*")), rng)
    with pytest.raises(UserError, match=r"6 .*: model/.*checkpoints/3"):
        checkpoint.open_checkpoint(copy).load()
    for path in (newest / "about").iterdir():
        path.unlink()
    for given in (copy, newest):
        with pytest.raises(UserError, match=r"6 .*: about/.* is missing"):
            checkpoint.open_checkpoint(given)
    shutil.rmtree(newest / "about")
    with pytest.raises(UserError, match=r"6 .*: about/.* is missing"):
        checkpoint.open_checkpoint(newest).load()


def test_checksums_that_cannot_be_written_are_a_save_that_failed(tmp_path, monkeypatch):
    states = ({"weight": jnp.zeros(2)},)
    kept = manager.Checkpoints(tmp_path, keep=3, about=ABOUT)
    kept.save(1, states, states)
    kept.wait()

    def write(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checksums, "write", write)
    kept.save(2, states, states)
    with pytest.raises(UserError, match=r"No space left on device; the last good one is step 1\."):
        kept.wait()
    assert finding.find(tmp_path).name == "1"
    monkeypatch.undo()
    again = manager.Checkpoints(tmp_path, keep=3, about=ABOUT)
    again.save(2, states, states)
    again.close()
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}
