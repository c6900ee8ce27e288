"""Trainings whose loss is no longer a number: stopped before it is saved, or kept from it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import stored, tiny_training

from trn_jax import build
from trn_jax.checkpoints import finding
from trn_jax.errors import UserError
from trn_jax.recipe_data import Data
from trn_jax.training import loop, start

pytestmark = pytest.mark.thorough

BAD_STEPS = [2, 5]  # one in each epoch, neither a log line nor a checkpoint


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A training on one device that meets a certain video once per epoch: the configuration."""
    config = tiny_training(tmp_path)
    config.train.update(log_every=3, eval_every=0.0)
    device = loop.make_mesh(jax.devices()[:1])
    monkeypatch.setattr(loop, "make_mesh", lambda: device)
    return config


def bad_video(config, workdir):
    """The name of a video that is in the batches of `BAD_STEPS`, and the names of all in them."""
    data = Data(config, str(workdir))
    batches = data.train_batches(0)
    taken = [data.train_names(next(batches)["example"]) for _ in range(6)]
    batches.close()
    inside = [set(taken[step - 1]) for step in BAD_STEPS]
    name = min(set.intersection(*inside))
    return name, taken


def spoil(config, tmp_path, monkeypatch):
    """Give one video, and no other, a class whose loss is not a number; returns the batches."""
    name, batches = bad_video(config, tmp_path / "run")
    path = tmp_path / "data" / "train_list.txt"
    lines = [line.split() for line in path.read_text().splitlines()]
    labels = {video: 3 if video == name else int(label) % 3 for video, _, label in lines}
    path.write_text("".join(f"{video} {num} {labels[video]}\n" for video, num, _ in lines))
    set_loss(monkeypatch, class_weights=[1.0, 1.0, 1.0, float("nan")])
    return batches


def set_loss(monkeypatch, **options):
    """Replace the options of the loss."""
    original = build.parts

    def parts(*args, **kwargs):
        return dataclasses.replace(original(*args, **kwargs), loss_options=options)

    monkeypatch.setattr(build, "parts", parts)


@pytest.mark.thorough("2")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_stops_before_it_saves_what_is_not_finite(
    training, tmp_path, monkeypatch, accumulation
):
    batches = spoil(training, tmp_path, monkeypatch)
    training.train.update(accumulation=accumulation, checkpoint_every=1, log_every=1)
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=r"the loss is nan, .* at step 2: .* checkpoint 1 is from"):
        loop.train(training, str(workdir))
    assert finding.find(workdir).name == "1"
    named = (workdir / "not_finite_step_2.txt").read_text().splitlines()
    assert named == batches[1]


def test_the_first_of_the_steps_since_the_last_line_is_named(training, tmp_path, monkeypatch):
    batches = spoil(training, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"at step 2: .* there is no checkpoint yet") as raised:
        loop.train(training, str(tmp_path / "run"))
    path = tmp_path / "run" / "not_finite_step_2.txt"
    assert str(path) in str(raised.value)
    assert path.read_text().splitlines() == batches[1]
    assert [found.name for found in (tmp_path / "run").glob("not_finite*")] == [path.name]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.thorough("1")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_goes_on_without_such_steps(
    training, tmp_path, monkeypatch, capsys, accumulation
):
    spoil(training, tmp_path, monkeypatch)
    workdir = tmp_path / "run"
    training.train.accumulation = accumulation
    with pytest.raises(UserError):
        loop.train(training, str(workdir))
    training.train.on_nan = "skip"
    assert loop.train(training, str(workdir)) == 0
    said = capsys.readouterr().err
    assert said.count("left  1 steps skipped") == 2
    assert "2 steps were skipped, their loss or gradient not finite: 2, 5" in said
    assert all(
        np.isfinite(array).all()
        for arrays in stored(finding.find(workdir)).values()
        for array in arrays.values()
    )
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [entry for entry in log if entry["group"] == "train"]
    assert [(entry["step"], entry["skipped"]) for entry in told] == [(3, 1), (6, 1)]
    assert all(np.isfinite(entry["loss"]) for entry in told)


@pytest.mark.slow
def test_steps_are_not_skipped_for_ever(training, tmp_path, monkeypatch):
    set_loss(monkeypatch, weight=float("nan"))
    training.train.update(on_nan="skip", steps=400, log_every=400, checkpoint_every=400)
    with pytest.raises(UserError, match=r"20 steps in a row, which were skipped.*no checkpoint"):
        loop.train(training, str(tmp_path / "run"))
    (batch,) = (tmp_path / "run").glob("not_finite_step_*.txt")
    assert 20 <= int(batch.stem.rpartition("_")[2]) < 400


@pytest.mark.slow
@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_a_state_that_is_not_finite_is_not_saved_whatever_the_loss_says(
    training, tmp_path, monkeypatch, on_nan
):
    training.train.on_nan = on_nan

    def spoiling(*args, **kwargs):
        step_fn = jit_train_step(*args, **kwargs)

        def step(state, arrays):
            state, scalars = step_fn(state, arrays)
            if int(state.step) == 6:
                stats = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.inf), state.stats)
                state = state.replace(stats=stats)
            return state, scalars

        return step

    jit_train_step = start.jit_train_step
    monkeypatch.setattr(start, "jit_train_step", spoiling)
    with pytest.raises(UserError, match=r"statistics .* not finite after step 6: .* checkpoint 3"):
        loop.train(training, str(tmp_path / "run"))
    assert finding.find(tmp_path / "run").name == "3"
    assert len((tmp_path / "run" / "not_finite_step_6.txt").read_text().splitlines()) == 8


def test_only_what_exists_can_be_done_about_it(training, tmp_path):
    training.train.on_nan = "pass"
    with pytest.raises(UserError, match=r"train\.on_nan='pass'.*'stop', 'skip'"):
        loop.train(training, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
