"""Parameters and operations of the published networks."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from trn_jax import create_model
from trn_jax.models.cost import measure
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.layers import BatchNorm, Linear

# Of the tables in mmaction2's documentation: frames, pixels, parameters and GFLOPs.
PUBLISHED = {
    "tsn_resnet50": (dict(num_classes=400), 25, 224, 24_327_632, 102.7),
    "tsn_resnet101": (dict(num_classes=400), 25, 224, 43_319_760, 195.8),
    "tsn_resnext101_32x4d": (dict(num_classes=400), 25, 224, 42_948_304, 200.3),
    "tsn_densenet161": (dict(num_classes=400), 25, 224, 27_355_600, 194.6),
    "tsn_swin_base": (dict(num_classes=400), 25, 224, 87_153_224, 386.7),
    "tsn_mobileone_s4": (dict(num_classes=400), 25, 224, 13_721_848, 76.0),
    "tsm_resnet50": (dict(num_classes=174), 8, 224, 23_864_558, 32.88),
    "tsm_resnet101": (dict(num_classes=174), 8, 224, 42_856_686, 62.66),
    "tsm_mobilenetv2": (dict(num_classes=400), 8, 256, 2_736_272, 3.27),
    **{
        f"tsm_resnet50 {mode}": (dict(num_classes=400, non_local=mode), 8, 224, *numbers)
        for mode, numbers in {
            "embedded_gaussian": (31_682_000, 61.30),
            "dot_product": (31_682_000, 61.30),
            "gaussian": (28_007_888, 59.06),
        }.items()
    },
    "trn_resnet50": (dict(num_classes=174), 8, 256, 26_641_154, 42.94),
}


@pytest.mark.by_default("tsn_resnet50", "trn_resnet50", slow=("densenet", "swin"))
@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_is_the_published_one(name):
    options, frames, pixels, parameters, gflops = PUBLISHED[name]
    model = nnx.eval_shape(lambda: create_model(name.split()[0], num_segments=8, **options))
    cost = measure(model, 1, frames, pixels, pixels, 3)
    assert cost.parameters == parameters
    assert cost.flops == pytest.approx(gflops * 1e9, rel=5e-3)


# Millions per frame of 224 pixels, from the tables of timm (`infer_macts` of its benchmarks).
ACTIVATIONS = {
    "tsn_resnet50": 11.1,
    "tsn_resnet101": 16.2,
    "tsn_resnext101_32x4d": 21.2,
    "tsn_densenet161": 11.1,
    "tsn_swin_base": 36.6,
    "tsn_mobileone_s4": 17.7,
    "tsn_mobilenetv2": 6.68,
}


@pytest.mark.by_default("tsn_resnet50", slow=("densenet", "swin"))
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_published_ones(name):
    model = nnx.eval_shape(lambda: create_model(name, num_classes=400))
    cost = measure(model, 1, 8, 224, 224, 3)
    assert cost.activations == pytest.approx(8e6 * ACTIVATIONS[name], rel=5e-3)


def test_taps_over_time_put_out_one_map():
    conv = nnx.eval_shape(lambda: Conv3d(4, 8, (3, 1), rngs=nnx.Rngs(0)))
    cost = measure(conv, 2, 5, 6, 6, 4)
    assert cost.activations == 2 * 5 * 6 * 6 * 8
    assert cost.products == 3 * 4 * cost.activations


@pytest.mark.thorough
def test_deployed_mobileone_has_one_branch_per_block():
    trained, deployed = (
        nnx.eval_shape(lambda d=d: create_model("tsn_mobileone_s4", num_classes=400, deploy=d))
        for d in (False, True)
    )
    assert measure(deployed, 1, 1, 224, 224, 3).parameters == 13_608_952
    assert measure(deployed, 1, 1, 64, 64, 3).flops < measure(trained, 1, 1, 64, 64, 3).flops


def test_operations_are_counted_one_by_one():
    class Layers(nnx.Module):
        def __init__(self):
            self.fc = Linear(3, 5, rngs=nnx.Rngs(0))
            self.bn = BatchNorm(5)

        def __call__(self, x):
            return jax.nn.relu(self.bn(self.fc(x)) * 2)  # neither a norm nor a matrix product

    cost = measure(nnx.eval_shape(Layers), 7, 3)
    assert cost == (3 * 5 + 5 + 2 * 5, 7 * 3 * 5, 7 * 5, 7 * 5)
    assert cost.flops == 7 * 3 * 5 + 2 * 7 * 5


def test_branches_for_other_devices_are_counted_once():
    class Product(nnx.Module):
        def __call__(self, x):
            return jax.lax.platform_dependent(
                x, cpu=lambda x: x @ x, default=lambda x: jnp.sum(x * x) + x
            )

    assert measure(Product(), 4, 4).products == 64
