"""Devices that are named, not attached."""

import re
import types

import pytest

from trn_jax.errors import UserError
from trn_jax.nn.precision import compute_dtype
from trn_jax.planning import topology as topologies
from trn_jax.planning.plan import make_plan
from trn_jax.planning.topology import find_devices

GPUS = ["a100", "h100", "h200", "l4", "rtx4090"]


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e", "v5e:4x4"),
        ("v99:2x2", "v4, v5e, v5p, v6e"),
        ("b99:8", "a100, h100, h200, l4, rtx4090"),
        ("cpu:none", "cpu:8"),
        ("cpu:0", "cpu:8"),
        ("gpu", "--topology=gpu"),
        ("h100", "h100:8"),
        ("h100:0", "h100:8"),
        ("h100:2x4", "h100:8"),
        ("h100:12", "multiple"),
    ],
)
def test_unknown_topologies_are_explained(topology, message):
    with pytest.raises(UserError, match=message):
        find_devices(topology)


def test_without_the_compiler_for_gpus_the_extra_is_named(monkeypatch):
    from jax.experimental import topologies as of_jax

    def missing(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(of_jax, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"for cuda.*trn_jax\[plan-gpu\]"):
        find_devices("h200:8")


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize(("count", "shape"), [(1, "1x1x1"), (8, "1x1x8"), (16, "1x2x8")])
def test_gpus_are_described(monkeypatch, name, count, shape):
    from jax.experimental import topologies as of_jax

    given = {}

    def describe(**options):
        given.update(options)
        return types.SimpleNamespace(devices=[0] * count)

    monkeypatch.setattr(of_jax, "get_topology_desc", describe)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    devices, memory = find_devices(f"{name}:{count}")
    assert topologies.gpu_names() == GPUS
    assert (len(devices), given["platform"], given["topology"]) == (count, "cuda", shape)
    text = given["target_config"]
    assert memory == int(re.search(r"device_memory_size: (\d+)", text)[1]) // 2
    assert text.count("{") == text.count("}") == 3


def test_options_are_for_gpus_that_are_only_described():
    def gpu(**more):
        return types.SimpleNamespace(platform="gpu", **more)

    attached, described = gpu(local_hardware_id=0), gpu(local_hardware_id=None)
    assert topologies.compiler_options([attached]) == {}
    assert topologies.compiler_options([types.SimpleNamespace(platform="tpu")]) == {}
    options = topologies.compiler_options([described])
    assert options == {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


@pytest.mark.thorough
def test_a_plan_for_gpus(config):
    """Where the compiler is installed."""
    pytest.importorskip("jax_plugins.xla_cuda12")
    devices, _ = find_devices("a100:2")
    assert compute_dtype("auto", devices) == "bfloat16"
    config.train.batch = 4
    plan = make_plan(config, "a100:2")
    step = plan.to_dict()["steps"]["training step"]
    assert step["kernels"] > 50 and step["traffic"] > 1e6
    assert {each["kind"] for each in step["collectives"]} == {"all-reduce"}
    assert plan.to_dict()["dtype"] == "bfloat16"
    assert "autotuning" in str(plan) and "kernels" in str(plan)
