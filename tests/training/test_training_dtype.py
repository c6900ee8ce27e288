"""Training in the dtype of the devices: what a run states, keeps and reaches."""

import json
import os
import subprocess
import sys
import types
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from optim_settings import optim_keys
from small_training import REPOSITORY

from trn_jax import optim
from trn_jax.checkpoints import checkpoint
from trn_jax.distributed.sharding import batch_sharding, make_mesh
from trn_jax.errors import UserError
from trn_jax.evaluation import evaluate
from trn_jax.loading import load_model
from trn_jax.models import create_model
from trn_jax.nn import precision
from trn_jax.prediction.contract import open_model
from trn_jax.training import initial_state, loop, train_step, workdir


def with_dtype(config, dtype, **train):
    """A copy of a configuration."""
    config = type(config)(config.to_dict())
    config.model.dtype = dtype
    config.train.update(train)
    return config


def about(folder):
    return checkpoint.open_checkpoint(folder).info


def test_a_run_states_what_it_computes_in(trained):
    """It is given as "auto"."""
    _, folder = trained
    stored = about(folder)
    assert (stored["config"]["model"]["dtype"], stored["dtype"]) == ("auto", "float32")
    assert json.loads((folder / "config.json").read_text())["model"]["dtype"] == "auto"
    assert json.loads((folder / "environment.json").read_text())["dtype"] == "float32"
    found = json.loads((folder / "results" / "efficient.json").read_text())
    assert found["dtype"] == found["config"]["model"]["dtype"] == "float32"


@pytest.mark.thorough
def test_auto_resumes_on_other_devices_in_the_dtype_of_the_run(trained, copy, capsys, monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    assert loop.train(with_dtype(trained[0], "auto", steps=7), str(copy)) == 0
    said = capsys.readouterr().err
    assert "compute in float32" in said and "model.dtype=auto is bfloat16" in said
    assert about(copy)["dtype"] == "float32"
    with pytest.raises(UserError, match=r"model\.dtype: 'float32' -> 'bfloat16'"):
        loop.train(with_dtype(trained[0], "bfloat16"), str(copy))


@pytest.mark.parametrize(
    ("now", "known", "expected"),
    [
        ("auto", {}, "bfloat16"),  # a new run
        ("auto", {"dtype": "float32"}, "float32"),
        ("auto", {"config": "float32"}, "float32"),  # a run from before "auto"
        ("auto", {"config": "float32", "dtype": "bfloat16"}, "bfloat16"),
        ("float32", {"dtype": "float32"}, "float32"),
        ("float32", {}, "float32"),
        ("float64", {}, "float64"),
    ],
)
def test_a_run_keeps_its_dtype(trained, monkeypatch, now, known, expected):
    config = with_dtype(trained[0], now)
    found = {}
    if known:
        found = {"config": with_dtype(config, known.get("config", "auto")).to_dict()}
        found |= {key: value for key, value in known.items() if key != "config"}
    tpu = [types.SimpleNamespace(platform="tpu")]
    monkeypatch.setattr(workdir.integrity, "newest_about", lambda _: found)
    assert workdir.check_config(config, "checkpoints") == found
    assert workdir.dtype_of_run(config, found, tpu) == expected


def test_checkpoints_are_evaluated_in_the_dtype_that_is_asked_for(
    trained, tmp_path, capsys, monkeypatch
):
    _, folder = trained
    monkeypatch.setattr(precision, "_has_bfloat16", lambda device: True)
    scores = {}
    for dtype in ("float32", "auto"):
        evaluate.evaluate(
            None, str(folder), str(tmp_path / dtype), protocols="efficient", dtype=dtype
        )
        said = capsys.readouterr().err
        found = json.loads((tmp_path / dtype / "results" / "efficient.json").read_text())
        assert found["dtype"] == {"float32": "float32", "auto": "bfloat16"}[dtype]
        assert ("trained in float32" in said) == (dtype == "auto")
        scores[dtype] = np.load(tmp_path / dtype / "results" / "efficient.npz")["scores"]
    np.testing.assert_allclose(scores["auto"], scores["float32"], atol=0.2)
    assert (scores["auto"] != scores["float32"]).any()
    assert load_model(folder).dtype == open_model(folder)[0].dtype == "bfloat16"
    model, _ = open_model(folder, dtype="float32")
    assert model.dtype == "float32"
    with pytest.raises(UserError, match="dtype=float32"):
        open_model(model, dtype="float32")


def learned(dtype):
    """Accuracy and loss of a tiny TSM on 8 clips that differ in their order, step by step."""
    mesh = make_mesh(jax.devices()[:1])
    settings = optim_keys(lr=0.05, schedule="constant")
    rate = optim.learning_rate(settings, batch=8, epochs=1, steps_per_epoch=1)
    options = dict(num_classes=2, num_segments=2, width=4, dropout_rate=0.0, dtype=dtype)
    graph, optimizer, state = initial_state.init_state(
        lambda: create_model("tsm_resnet10", **options, rngs=nnx.Rngs(0)),
        partial(optim.sgd, rate=rate, settings=settings),
        mesh,
    )
    step = train_step.jit_train_step(mesh, graph=graph, optimizer=optimizer, rate=rate, seed=0)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 4, 16, 16, 3), np.uint8)
    clips = np.concatenate([np.stack(frames, 1), np.stack(frames[::-1], 1)])
    batch = {"clip": clips, "label": np.arange(8, dtype=np.int32) // 4}
    found = []
    for _ in range(12):
        state, scalars = step(state, jax.device_put(batch, batch_sharding(mesh)))
        found.append((float(scalars["top1"]), float(scalars["loss"])))
    return np.array(found)


@pytest.mark.thorough
def test_bfloat16_learns_what_float32_learns():
    low, full = learned("bfloat16"), learned("float32")
    assert low[-1, 0] == full[-1, 0] == 1
    assert 0 < np.abs(low[:, 1] - full[:, 1]).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tin", "tpn", "trn", "tsm", "tsm_causal", "tsn"])
def test_synthetic_recipes_reach_the_accuracy_of_float32(tmp_path, method):
    recipe = f"{method}_synthetic"
    flags = [f"--config=configs/{recipe}.py", "--config.model.dtype=bfloat16"]
    done = subprocess.run(
        [sys.executable, "-m", "trn_jax.main", *flags, f"--workdir={tmp_path}/run"],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "compute in bfloat16" in done.stderr
    for name in ("efficient", "reversed"):
        found = json.loads((tmp_path / "run" / "results" / f"{name}.json").read_text())
        stored = REPOSITORY / "configs" / "results" / recipe / f"{name}.json"
        expected = json.loads(stored.read_text())["metrics"]["top1"]
        assert found["metrics"]["top1"] == pytest.approx(expected, abs=0.05), name
