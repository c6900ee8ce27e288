"""Convolutions: the forms for CPUs equal XLA's own, in value and gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv, convolve

pytestmark = pytest.mark.thorough

# in_channels, out_channels, groups, kernel size, stride, padding
CASES = {
    "depthwise": (6, 6, 6, 3, 1, 1),
    "depthwise, strided": (6, 6, 6, 3, 2, 1),
    "depthwise, 5x5, too little padding": (4, 4, 4, 5, 2, 1),
    "depthwise, 1x1": (6, 6, 6, 1, 1, 0),
    "depthwise, 1x1, strided": (6, 6, 6, 1, 2, 0),
    "grouped": (8, 8, 2, 3, 1, 1),
    "grouped, strided": (8, 8, 4, 3, 2, 1),
    "grouped, 1x1": (8, 12, 4, 1, 1, 0),
    "grouped, widening, not padded": (6, 12, 3, 3, 2, 0),
    "two outputs for each input": (4, 8, 4, 3, 1, 1),
    "fewer pixels than taps": (5, 7, 1, 5, 1, 0),
    "fewer pixels than taps, strided": (5, 7, 1, 7, 2, 2),
    "one tap": (5, 7, 1, 1, 1, 0),
    "one tap, strided": (64, 6, 1, 1, 2, 0),
}


PARTS = ("evaluation", "training", "gradient of the input", "gradient of the kernel")


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def xla(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def value_and_gradients(conv, geometry):
    """A program from input, kernel and output gradient to the output and both gradients.

    The output comes twice, since it has a form of its own where no gradient is asked for.
    """

    def run(x, kernel, gradient):
        y, pull = jax.vjp(lambda x, kernel: conv(x, kernel, *geometry), x, kernel)
        return conv(x, kernel, *geometry), y, *pull(gradient)

    return jax.jit(run)


def arguments(case, dtype=np.float32):
    in_channels, out_channels, groups, size, stride, padding = CASES[case]
    x = draw(2, 7, 10, in_channels, dtype=dtype)
    kernel = draw(size, size, in_channels // groups, out_channels, seed=1, dtype=dtype)
    geometry = (stride, padding, groups)
    gradient = draw(*jax.eval_shape(lambda: xla(x, kernel, *geometry)).shape, seed=2, dtype=dtype)
    return (x, kernel, gradient), geometry


def check(found, expected, tolerance=1e-5):
    for name, a, b in zip(PARTS, found, expected, strict=True):
        assert a.shape == b.shape
        a, b = (np.asarray(array, np.float32) for array in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=name)


@pytest.mark.parametrize("form", ["cpu", "tpu", "default"])
@pytest.mark.parametrize("case", CASES)
def test_all_forms_equal_the_convolution_of_xla(case, form, monkeypatch):
    def choose(*operands, default, **forms):
        return forms.get(form, default)(*operands)

    monkeypatch.setattr(lax, "platform_dependent", choose)
    operands, geometry = arguments(case)
    found = value_and_gradients(convolve, geometry)(*operands)
    check(found, value_and_gradients(xla, geometry)(*operands))


@pytest.mark.parametrize(
    ("case", "on_cpu", "on_gpu"),
    [
        ("depthwise", 0, 4),
        ("depthwise, strided", 0, 4),
        ("grouped", 3, 4),
        ("fewer pixels than taps", 0, 4),
        ("one tap", 0, 0),
    ],
)
def test_programs_for_accelerators_keep_the_convolutions(case, on_cpu, on_gpu):
    operands, geometry = arguments(case)
    traced = value_and_gradients(convolve, geometry).trace(*operands)
    for platform, expected in (("cpu", on_cpu), ("tpu", 4), ("cuda", on_gpu)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == expected, platform


@pytest.mark.parametrize("case", ["depthwise", "grouped", "fewer pixels than taps"])
def test_bfloat16_sums_in_float32(case):
    operands, geometry = arguments(case)
    operands = [jnp.asarray(a, jnp.bfloat16) for a in operands]
    found = value_and_gradients(convolve, geometry)(*operands)
    assert {a.dtype for a in found} == {jnp.dtype("bfloat16")}
    exact = [a.astype(jnp.float32) for a in operands]
    # One rounding to 8 bits at the end, not one for each of the summands.
    check(found, value_and_gradients(xla, geometry)(*exact), tolerance=2**-8)


@pytest.mark.parametrize("case", ["depthwise", "grouped", "fewer pixels than taps"])
def test_batches_on_several_devices(case):
    (x, kernel, gradient), geometry = arguments(case)
    x, gradient = np.repeat(x, 4, axis=0), np.repeat(gradient, 4, axis=0)
    mesh = make_mesh()
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    placed = [jax.device_put(x, split), jax.device_put(kernel, whole)]
    placed.append(jax.device_put(gradient, split))
    found = value_and_gradients(convolve, geometry)(*placed)
    check(found, value_and_gradients(xla, geometry)(x, kernel, gradient))


# The layer


@pytest.mark.parametrize(("groups", "size"), [(2, 3), (6, 3), (6, 1), (1, 3)])
def test_layers_convolve_in_groups(groups, size):
    geometry = dict(stride=2, padding=size // 2, groups=groups)
    conv = nnx.eval_shape(lambda: Conv(6, 6, size, **geometry, rngs=nnx.Rngs(0)))
    assert conv.kernel.shape == (size, size, 6 // groups, 6)
    conv.kernel.set_value(jnp.asarray(draw(*conv.kernel.shape)))
    x = draw(2, 5, 6, 6, seed=1)
    expected = xla(x, conv.kernel[...], 2, size // 2, groups)
    np.testing.assert_allclose(nnx.jit(lambda c, x: c(x))(conv, x), expected, atol=1e-5)


def test_groups_do_not_change_the_spread_of_initial_kernels():
    rngs = nnx.Rngs(params=jax.random.key(0, impl="unsafe_rbg"))
    kernel = np.asarray(Conv(256, 256, 3, groups=32, rngs=rngs).kernel[...])
    # PyTorch's fan-out counts the channels of all groups.
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.05)


@pytest.mark.parametrize(
    ("channels", "groups"), [((6, 6), 4), ((4, 6), 4), ((6, 4), 4), ((4, 4), 0)]
)
def test_groups_that_do_not_divide_the_channels_are_refused(channels, groups):
    words = rf"groups={groups} .*{channels[0]} and {channels[1]}"
    with pytest.raises(UserError, match=words):
        Conv(*channels, 3, groups=groups, rngs=nnx.Rngs(0))
