"""The forms that layers compute in, chosen for speed, against the textbook ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from trn_jax.models.tin import gradients_by_copies, interlace_by_copies, interlace_by_product
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm
from trn_jax.nn.pooling import (
    max_pool,
    pick,
    scatter_by_index,
    scatter_by_position,
    scatter_by_product,
    scatter_by_window,
)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def with_gradients(function, *arguments):
    """The outcome, and what comes back for a random cotangent."""
    y, pull_back = jax.vjp(function, *arguments)
    return y, pull_back(draw(*y.shape, seed=1))


compiled = jax.jit(with_gradients, static_argnums=0)


def assert_same(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10),
        *(jax.tree.leaves(found), jax.tree.leaves(expected)),
    )


@pytest.mark.parametrize("kernel_size", [(1, 7), (7, 1), (3, 5)])
def test_oblong_kernels(kernel_size):
    padding = tuple(size // 2 for size in kernel_size)
    options = dict(padding=padding, dtype=jnp.float64, rngs=nnx.Rngs(0))
    conv = Conv(64, 3, kernel_size, **options)
    assert conv.kernel.shape == (*kernel_size, 64, 3)
    graph, params = nnx.split(conv)

    def textbook(params, x):
        return lax.conv_general_dilated(
            x,
            params["kernel"],
            window_strides=(1, 1),
            padding=[(size, size) for size in padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    arguments = nnx.as_pure(params), draw(2, 6, 5, 64)
    found = with_gradients(lambda params, x: nnx.merge(graph, params)(x), *arguments)
    assert_same(found, with_gradients(textbook, *arguments))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_1x1_convolution_as_a_product_of_matrices(stride, size):
    conv = Conv(3, 5, 1, stride=stride, dtype=jnp.float64, rngs=nnx.Rngs(0))
    graph, params = nnx.split(conv)
    params = nnx.as_pure(params)

    def ours(params, x):
        return nnx.merge(graph, params)(x)

    def textbook(params, x):
        return lax.conv_general_dilated(
            x,
            params["kernel"],
            window_strides=(stride, stride),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    x = draw(2, *size, 3)
    assert_same(with_gradients(ours, params, x), with_gradients(textbook, params, x))


def normalised(scale, bias, x, num_groups, epsilon=1e-5):
    """Batch normalisation of every group by itself, two passes, derived by JAX."""
    parts = []
    for part in jnp.split(x, num_groups):
        axes = tuple(range(part.ndim - 1))
        mean, var = jnp.mean(part, axes), jnp.var(part, axes)
        parts.append((part - mean) / jnp.sqrt(var + epsilon) * scale + bias)
    return jnp.concatenate(parts)


@pytest.mark.thorough(1)
@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_batch_norm_of_groups_in_one_pass(num_groups):
    norm = BatchNorm(5, dtype=jnp.float64)
    norm.mean[...] = draw(5, seed=2)  # the guess that the moments are taken about
    norm.scale[...] = 1 + 0.3 * draw(5, seed=3)
    norm.bias[...] = draw(5, seed=4)
    graph, *states = nnx.split(norm, nnx.Param, nnx.BatchStat)
    params, stats = nnx.as_pure(tuple(states))

    def ours(params, x):
        return nnx.merge(graph, params, stats)(x, train=True, num_groups=num_groups)

    def textbook(params, x):
        return normalised(params["scale"], params["bias"], x, num_groups)

    x = 2 + 3 * draw(4, 3, 2, 5)
    assert_same(with_gradients(ours, params, x), with_gradients(textbook, params, x))


@pytest.mark.parametrize("num_groups", [1, 2])
def test_running_statistics_are_the_mean_over_the_groups(num_groups):
    norm = BatchNorm(5, dtype=jnp.float64)
    x = 2 + 3 * draw(4, 3, 2, 5)
    norm(x, train=True, num_groups=num_groups)
    groups = x.reshape(num_groups, -1, 5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * groups.mean((0, 1)), rtol=1e-12)
    unbiased = groups.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * unbiased, rtol=1e-12)


def test_moments_of_a_distant_mean_do_not_cancel_in_float32():
    x = (1000 + 0.1 * draw(8, 5, 5, 3)).astype(jnp.float32)
    norm = BatchNorm(3)
    norm.mean[...] = jnp.full(3, 1000, jnp.float32)
    y = norm(x, train=True)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=2e-3)


def test_batch_norm_in_bfloat16_passes_on_bfloat16():
    norm = BatchNorm(3, dtype=jnp.bfloat16)
    graph, state = nnx.split(norm)
    state = nnx.as_pure(state)
    x = draw(2, 4, 4, 3).astype(jnp.bfloat16)

    def ours(x):
        return nnx.merge(graph, state)(x, train=True)

    y, pull_back = jax.vjp(ours, x)
    assert y.dtype == jnp.bfloat16
    assert pull_back(y)[0].dtype == jnp.bfloat16


@pytest.mark.by_default("2-2-0")
@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_the_gradient_of_max_pooling_by_position_and_by_window(window, stride, padding):
    x = jnp.round(draw(2, 7, 8, 3))  # many pixels share a maximum

    def pool(x):
        return max_pool(x, window, stride=stride, padding=padding)

    y = pool(x)
    dy = draw(*y.shape, seed=1)
    sizes = dict(window=window, stride=stride, borders=((padding, padding),) * 2)
    expected = scatter_by_window(x, y, dy, **sizes)
    assert_same(scatter_by_position(x, y, dy, **sizes), expected)
    assert_same(jax.vjp(pool, x)[1](dy)[0], expected)


@pytest.mark.by_default(1)
@pytest.mark.parametrize(
    ("axis", "indices"),
    [
        (0, ([[2, 0], [1, 2]],)),
        (1, ([0, 2, 2, 2],)),
        (1, ([0, 1], [[3, 0], [3, 1], [0, 1]])),  # broadcast against each other
        (2, ([[[1]]],)),
    ],
)
def test_the_gradient_of_picking_by_product_and_by_index(axis, indices):
    x = draw(3, 3, 4, 5)
    indices = tuple(jnp.asarray(index) for index in indices)
    picked, pull_back = jax.vjp(lambda x: pick(x, indices, axis), x)
    np.testing.assert_array_equal(picked, np.asarray(x)[(slice(None),) * axis + indices])
    dy = draw(*picked.shape, seed=1)
    expected = scatter_by_index(x, indices, dy, axis=axis)
    assert_same(scatter_by_product(x, indices, dy, axis=axis), expected)
    assert_same(pull_back(dy)[0], expected)
    entries = np.zeros(x.shape)
    np.add.at(entries, (slice(None),) * axis + indices, np.asarray(dy))
    assert_same(expected, entries)


@pytest.mark.parametrize("offsets", [[[0.5, -1.25], [1.999, 0]], [[-1, 2], [1e-9, -2]]])
def test_interlacing_by_copies_and_by_product(offsets):
    x, weights = draw(2, 4, 2, 1, 8), draw(2, 4, 2, seed=2)
    offsets = jnp.asarray(offsets)
    y, gradients = compiled(interlace_by_product, x, offsets, weights)

    @jax.jit
    def by_copies(dy, *inputs):
        return interlace_by_copies(*inputs), gradients_by_copies(dy, *inputs)

    other_y, others = by_copies(draw(*y.shape, seed=1), x, offsets, weights)
    assert_same((y, gradients[::2]), (other_y, others[::2]))
    # At 2 frames, which offsets never reach, a third frame would count.
    inside = jnp.abs(offsets) < 2
    assert_same(gradients[1] * inside, others[1] * inside)
