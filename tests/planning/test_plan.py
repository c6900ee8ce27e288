"""Plans for devices that are not attached."""

import importlib.util
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
from tiny_training import RECIPE

from trn_jax import checks, create_model
from trn_jax.config import base
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.planning import hlo_cost, plan
from trn_jax.settings import resolved_views


@pytest.fixture
def config():
    jax.devices()  # all eight, before a plan asks for fewer
    found = base(dataset="frames", model="trn_resnet10", num_classes=5)
    found.model.update(width=4, num_segments=3)
    for section in (found.data.train, found.data.val, found.protocols.efficient):
        section.update(num_segments=3, short_side=36, crop_size=32)
    found.train.batch = 16
    found.eval.max_views_per_step = 4
    return found


def gradient_bytes(config):
    params = nnx.state(nnx.eval_shape(lambda: create_model(**config.model)), nnx.Param)
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.as_pure(params)))


@pytest.mark.thorough
def test_a_step_communicates_its_gradient_and_little_else(config):
    config.model.norm_group = 2  # clips of one device, so statistics stay there
    devices, memory = plan.find_devices("cpu:8")
    assert len(devices) == 8 and memory is None
    cost = plan.training_cost(config, devices)
    assert {each.kind for each in cost.collectives} == {"all-reduce"}
    sent, gradient = sum(each.bytes for each in cost.collectives), gradient_bytes(config)
    assert gradient <= sent < 1.05 * gradient
    alone = plan.training_cost(config, devices[:1])
    assert alone.collectives == []
    assert 0 < cost.arguments < alone.arguments  # a part of the batch
    assert alone.flops > 4 * cost.flops > 0


@pytest.mark.thorough(1)
# The compiler warns of an old state that no part of the new one can take the place of.
@pytest.mark.filterwarnings("error:Some donated buffers")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_arguments_are_the_state_and_the_batch(config, dtype):
    config.model.update(norm_group=0, dtype=dtype)
    (device, *_), _ = plan.find_devices("cpu:1")
    cost = plan.training_cost(config, [device])
    clips = 16 * 3 * 32 * 32 * 3
    # Parameters and momentum, and a little for statistics and counters.
    least = 2 * gradient_bytes(config) + clips
    assert least < cost.arguments < 1.05 * least
    assert cost.memory >= cost.arguments + cost.temporary
    assert cost.outputs < 1000  # the new state reuses the donated one


PROGRAM = """
HloModule jit_train_step, is_scheduled=true

%sum (x: f32[], y: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%x, %y)
}

%inside (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(f32[8]{0} %p), channel_id=1, to_apply=%sum
}

%turn (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %i = f32[2]{0} all-reduce(f32[2]{0} %x), channel_id=2, to_apply=%sum
  ROOT %c = f32[8]{0} fusion(f32[8]{0} %y), kind=kLoop, calls=%inside
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(s32[] %i, s32[] %n), direction=LT
}

ENTRY %main (a: f32[8,4], b: bf16[3]) -> f32[7] {
  %all-reduce.1 = (f32[8,4]{1,0}, /*index=1*/bf16[3]{0}) all-reduce(%a, %b), to_apply=%sum
  %x = f32[2,16]{1,0:T(8,128)S(1)} all-gather(f32[1,16]{1,0} %c), dimensions={0}
  %s = (f32[1,16]{1,0}, f32[2,16]{1,0}) all-gather-start(f32[1,16]{1,0} %c), dimensions={0}
  %d = f32[2,16]{1,0} all-gather-done((f32[1,16]{1,0}, f32[2,16]{1,0}) %s)
  %p = pred[] collective-permute(pred[] %q), source_target_pairs={{0,1}}
  %w = (s32[], f32[8]) while((s32[], f32[8]) %t), condition=%condition, body=%turn CONFIG
  ROOT %f = f32[7]{0} fusion(f32[7]{0} %all-reduce.1), kind=kLoop
}
"""


@pytest.mark.parametrize(
    "trip_count", ["", ', backend_config={"known_init_step":{},"known_trip_count":{"n":"2"}}']
)
def test_collectives_are_read_from_programs(trip_count):
    program = PROGRAM.replace(" CONFIG", trip_count)
    found = [(each.kind, each.bytes) for each in hlo_cost.collectives(program, 3)]
    turns = 2 if trip_count else 3
    assert found == [
        *[("all-reduce", 8 * 4)] * turns,
        *[("all-reduce", 2 * 4)] * turns,
        ("all-reduce", 8 * 4 * 4 + 3 * 2),
        ("all-gather", 128),
        ("all-gather", 128),
        ("collective-permute", 1),
    ]


@pytest.mark.slow
def test_accumulated_parts_are_counted(config):
    config.model.norm_group = 2
    config.train.batch = 64
    devices, _ = plan.find_devices("cpu:8")
    whole = plan.training_cost(config, devices)
    config.train.accumulation = 4
    parts = plan.training_cost(config, devices)
    assert parts.flops == pytest.approx(whole.flops, rel=0.1)  # and the mean over the parts
    assert parts.traffic > whole.traffic
    sent = [sum(each.bytes for each in cost.collectives) for cost in (whole, parts)]
    assert sent[1] == pytest.approx(4 * sent[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_operations_of_gpus_are_counted_before_compilation(config, monkeypatch, accumulation):
    config.model.norm_group = 2
    config.train.accumulation = accumulation
    (device, *_), _ = plan.find_devices("cpu:8")
    expected = plan.training_cost(config, [device])
    # Stands for a GPU, whose compiled programs are opaque calls.
    gpu = types.SimpleNamespace(platform="gpu")
    trace, once = (partial(f, config) for f in (plan.trace_training, plan.trace_update))
    flops, traffic = hlo_cost.flops_and_traffic(trace, [gpu, gpu])
    flops_once, _ = hlo_cost.flops_and_traffic(once, [gpu, gpu])
    flops += (accumulation - 1) * (flops - flops_once)
    assert 2 * flops == pytest.approx(expected.flops, rel=0.3)
    assert np.isnan(traffic)
    monkeypatch.setattr(jax, "devices", lambda _: (_ for _ in ()).throw(RuntimeError("none")))
    assert np.isnan(hlo_cost.flops_and_traffic(trace, [gpu])).all()


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


def test_relations_that_are_drawn_in_evaluation_cost_more(config):
    (device,) = jax.devices()[:1]
    once = plan.evaluation_cost(config, device, View(**resolved_view(config)))
    drawn = View(**resolved_view(config) | dict(relations="sample", num_draws=50))
    assert plan.evaluation_cost(config, device, drawn).flops > 1.05 * once.flops
    config.model = base(dataset="frames", model="tsn_resnet10", num_classes=5).model
    config.model.update(width=4, num_segments=3)
    with pytest.raises(UserError, match="relations='sample' needs a TRN"):
        plan.evaluation_cost(config, device, drawn)


def resolved_view(config):
    return resolved_views(config)["protocols.efficient"].to_dict()


@pytest.mark.thorough
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


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e", "v5e:4x4"),
        ("v99:2x2", "v4, v5e, v5p, v6e"),
        ("cpu:none", "cpu:8"),
        ("cpu:0", "cpu:8"),
        ("gpu", "--topology=gpu"),
    ],
)
def test_unknown_topologies_are_explained(topology, message):
    with pytest.raises(UserError, match=message):
        plan.find_devices(topology)


def test_batches_that_do_not_fit_the_chips_are_refused(config):
    config.train.batch = 12
    with pytest.raises(UserError, match=r"train\.batch=.* 8 devices"):
        plan.training_cost(config, plan.find_devices("cpu:8")[0])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.31G of 15.75G hbm.",
            "8 clips .* 20.31G of 15.75G",
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying", "8 clips .* smaller"),
        (
            "RESOURCE_EXHAUSTED: CompileTimeScopedVmemOom:\nRan out of memory in memory space vmem "
            "while allocating",
            "8 clips .*vmem.*CompileTimeScopedVmemOom:\\)$",
        ),
    ],
)
def test_lack_of_memory_is_explained(error, message):
    def fail():
        raise jax.errors.JaxRuntimeError(error)

    lowered = types.SimpleNamespace(compile=fail)
    traced = types.SimpleNamespace(lower=lambda: lowered)
    with pytest.raises(UserError, match=message) as raised:
        hlo_cost.cost_of(lambda devices: traced, jax.devices("cpu"), "8 clips")
    assert isinstance(raised.value, hlo_cost.DoesNotFit) == ("vmem" not in message)


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
