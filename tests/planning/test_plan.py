"""Plans for devices that are not attached."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_training import RECIPE

from trn_jax import checks
from trn_jax.planning import hlo_cost, plan


def test_unknown_costs_are_dashes(config):
    row = str(plan_of(config, flops=1234.56e9, traffic=float("nan"))).splitlines()[2]
    assert row.split()[-2:] == ["1,234.6", "-"]


def plan_of(config, **costs):
    """A plan with made-up costs of the training step."""
    step = hlo_cost.HloCost(
        **dict.fromkeys(("arguments", "outputs", "temporary", "code"), 0), **costs, collectives=[]
    )
    return plan.Plan(config, "cpu:8", 8, 0, {"training step": step}, None)


def test_the_learning_rate_is_that_of_the_largest_batch(config, monkeypatch):
    def training_cost(changed, devices):
        return hlo_cost.HloCost(1000 + 10 * changed.train.batch, 0, 0, 0, 0.0, 0.0, [])

    config.train.batch, config.optim.lr, config.optim.base_batch = 32, 0.01, 100
    monkeypatch.setattr(plan, "training_cost", training_cost)
    first = training_cost(config, [None])
    search = plan.search_batch(config, 16 * [None], 11_000, first)
    found = plan.Plan(config, "v5e:4x4", 16, 11_000, {"training step": first}, search)
    lines = str(found).splitlines()
    assert ": 944 clips (0.000 GiB per chip)" in lines[2]
    assert lines[3].endswith(": 0.0944")
    values = found.to_dict()
    assert (values["largest_batch"], values["memory"]) == (944, 11_000)
    assert values["largest_batch_lr"] == pytest.approx(0.0944)


def test_batches_fill_devices_parts_and_groups(config):
    assert plan.batch_step(config, 8) == 8
    config.train.accumulation = 3
    assert plan.batch_step(config, 8) == 24
    config.model.norm_group = 16
    assert plan.batch_step(config, 8) == 384  # 16 clips in each of 3 parts on each of 8 devices
    config.train.batch = 384
    checks.check_batch(config, 8)
    config.train.accumulation = 1
    assert plan.batch_step(config, 8) == 16
    config.model.norm_group = 12
    assert plan.batch_step(config, 8) == 24


@pytest.mark.slow
def test_a_plan_names_every_step(config):
    text = str(plan.make_plan(config, "cpu:2"))
    rows = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert text.startswith("trn_resnet10 in float32, 16 clips on 2 chips (cpu:2)\n")
    assert rows["training step"] != rows["evaluation, efficient"]
    for name in ("training step", "evaluation, efficient"):
        numbers = [float(cell.replace(",", "")) for cell in rows[name]]
        assert len(numbers) == 6 and all(np.isfinite(numbers))
    assert "x all-reduce, " in text


def test_a_plan_names_what_saves_memory(config):
    config.model.remat = 2
    config.train.update(accumulation=4, shard_state="fsdp")
    expected = ", model.remat=2, train.accumulation=4, train.shard_state=fsdp"
    text = str(plan_of(config, flops=0.0, traffic=0.0))
    assert text.splitlines()[0].endswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x2"])
def test_tpus_that_are_not_attached(config, topology):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    config.model.norm_group = 2
    text = str(plan.make_plan(config, topology))
    assert "GiB of memory per chip" in text and "largest batch known to fit: " in text
    assert "all-reduce" in text and "all-gather" not in text


def command(tmp_path, *flags):
    (tmp_path / "recipe.py").write_text(RECIPE)
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from trn_jax.cli import main; raise SystemExit(main())",
            "plan",
            *flags,
        ],
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command(tmp_path):
    done = command(tmp_path, "--config=recipe.py", "--topology=cpu:2", "--batch=16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trn_resnet10 in float32, 16 clips on 2 chips (cpu:2)\n")
    assert "evaluation, accurate" in done.stdout
    done = command(tmp_path, "recipe.py", "--topology=cpu:2", "--batch=16", "--json")
    found = json.loads(done.stdout)
    assert (found["batch"], found["num_devices"], found["memory"]) == (16, 2, None)
    assert found["steps"].keys() >= {"training step", "evaluation, accurate"}
    assert found["steps"]["training step"]["collectives"][0]["kind"] == "all-reduce"


@pytest.mark.by_default(1)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:4x4"], "a recipe is needed: --config="),
        (["--config=recipe.py", "--topology=v5e"], "such as v5e:4x4 or v5p:8x8x8"),
        (["--config=recipe.py", "--topology=cpu:3"], "train.batch=8"),
    ],
)
def test_bad_flags_are_explained(tmp_path, flags, message):
    done = command(tmp_path, *flags)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
