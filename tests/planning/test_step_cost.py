"""What the steps of a recipe cost."""

import types
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from trn_jax import create_model
from trn_jax.config import base
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.planning import hlo_cost, step_cost
from trn_jax.planning.topology import find_devices
from trn_jax.settings import resolved_views


def gradient_bytes(config):
    params = nnx.state(nnx.eval_shape(lambda: create_model(**config.model)), nnx.Param)
    return 4 * sum(leaf.size for leaf in jax.tree.leaves(nnx.as_pure(params)))


@pytest.mark.slow
def test_a_step_communicates_its_gradient_and_little_else(config):
    config.model.norm_group = 2  # clips of one device, so statistics stay there
    devices, memory = find_devices("cpu:8")
    assert len(devices) == 8 and memory is None
    cost = step_cost.training_cost(config, devices)
    assert {each.kind for each in cost.collectives} == {"all-reduce"}
    sent, gradient = sum(each.bytes for each in cost.collectives), gradient_bytes(config)
    assert gradient <= sent < 1.05 * gradient
    alone = step_cost.training_cost(config, devices[:1])
    assert alone.collectives == []
    assert 0 < cost.arguments < alone.arguments  # a part of the batch
    assert alone.flops > 4 * cost.flops > 0


@pytest.mark.thorough(1)
# The compiler warns of an old state that no part of the new one can take the place of.
@pytest.mark.filterwarnings("error:Some donated buffers")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_arguments_are_the_state_and_the_batch(config, dtype):
    config.model.update(norm_group=0, dtype=dtype)
    (device, *_), _ = find_devices("cpu:1")
    cost = step_cost.training_cost(config, [device])
    clips = 16 * 3 * 32 * 32 * 3
    # Parameters and momentum, and a little for statistics and counters.
    least = 2 * gradient_bytes(config) + clips
    assert least < cost.arguments < 1.05 * least
    assert cost.memory >= cost.arguments + cost.temporary
    assert cost.outputs < 1000  # the new state reuses the donated one


@pytest.mark.slow
def test_accumulated_parts_are_counted(config):
    config.model.norm_group = 2
    config.train.batch = 64
    devices, _ = find_devices("cpu:8")
    whole = step_cost.training_cost(config, devices)
    config.train.accumulation = 4
    parts = step_cost.training_cost(config, devices)
    assert parts.flops == pytest.approx(whole.flops, rel=0.1)  # and the mean over the parts
    assert parts.traffic > whole.traffic
    sent = [sum(each.bytes for each in cost.collectives) for cost in (whole, parts)]
    assert sent[1] == pytest.approx(4 * sent[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_operations_of_gpus_are_counted_before_compilation(config, monkeypatch, accumulation):
    config.model.norm_group = 2
    config.train.accumulation = accumulation
    (device, *_), _ = find_devices("cpu:8")
    expected = step_cost.training_cost(config, [device])
    # Stands for a GPU, whose compiled programs are opaque calls.
    gpu = types.SimpleNamespace(platform="gpu")
    trace, once = (partial(f, config) for f in (step_cost.trace_training, step_cost.trace_update))
    flops, traffic = hlo_cost.flops_and_traffic(trace, [gpu, gpu])
    flops_once, _ = hlo_cost.flops_and_traffic(once, [gpu, gpu])
    flops += (accumulation - 1) * (flops - flops_once)
    assert 2 * flops == pytest.approx(expected.flops, rel=0.3)
    assert np.isnan(traffic)
    monkeypatch.setattr(jax, "devices", lambda _: (_ for _ in ()).throw(RuntimeError("none")))
    assert np.isnan(hlo_cost.flops_and_traffic(trace, [gpu])).all()


def test_relations_that_are_drawn_in_evaluation_cost_more(config):
    (device,) = jax.devices()[:1]
    once = step_cost.evaluation_cost(config, device, View(**resolved_view(config)))
    drawn = View(**resolved_view(config) | dict(relations="sample", num_draws=50))
    assert step_cost.evaluation_cost(config, device, drawn).flops > 1.05 * once.flops
    config.model = base(dataset="frames", model="tsn_resnet10", num_classes=5).model
    config.model.update(width=4, num_segments=3)
    with pytest.raises(UserError, match="relations='sample' needs a TRN"):
        step_cost.evaluation_cost(config, device, drawn)


def resolved_view(config):
    return resolved_views(config)["protocols.efficient"].to_dict()


def test_batches_that_do_not_fit_the_chips_are_refused(config):
    config.train.batch = 12
    with pytest.raises(UserError, match=r"train\.batch=.* 8 devices"):
        step_cost.training_cost(config, find_devices("cpu:8")[0])
