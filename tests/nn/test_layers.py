"""Layers against hand-made numbers and NumPy references with the numerics of PyTorch."""

import math
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from trn_jax.nn import layers
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Frozen, Linear, dropout
from trn_jax.nn.pooling import max_pool


def draw(*shape, seed=0, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape).astype(np.float32)


def filled(make):
    """The layer that `make` builds, with numbers from NumPy: `jax.random` compiles for longer."""
    layer = nnx.eval_shape(make)
    for seed, leaf in enumerate(jax.tree.leaves(nnx.state(layer), is_leaf=is_variable)):
        leaf.set_value(jnp.asarray(draw(*leaf.shape, seed=seed), leaf.dtype))
    return layer


def quick_rngs():
    """Keys of a generator that compiles in a fraction of the default one's time."""
    return nnx.Rngs(params=jax.random.key(0, impl="unsafe_rbg"))


def is_variable(leaf):
    return isinstance(leaf, nnx.Variable)


@nnx.jit(static_argnames=("train", "num_groups"))
def run(layer, x, **options):
    """Call a layer; one program compiles faster than its operations one by one."""
    return layer(x, **options)


def close(actual, expected, atol=2e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=2e-5, atol=atol)


# Batch normalisation


def norm_with(channels=3, *, seed=1, **options):
    """A batch norm whose parameters and running statistics are not the initial ones."""
    norm = nnx.eval_shape(lambda: BatchNorm(channels, **options))
    norm.scale.set_value(jnp.asarray(1 + 0.5 * draw(channels, seed=seed)))
    norm.bias.set_value(jnp.asarray(draw(channels, seed=seed + 1)))
    norm.mean.set_value(jnp.asarray(draw(channels, seed=seed + 2)))
    norm.var.set_value(jnp.asarray(0.5 + draw(channels, seed=seed + 3) ** 2))
    return norm


def values(norm):
    return [np.array(v[...]) for v in (norm.scale, norm.bias, norm.mean, norm.var)]


def torch_batch_norm(x, norm, num_groups=1):
    """Output and running statistics after one training step, as PyTorch has them per GPU."""
    scale, bias, mean, var = values(norm)
    outputs, means, variances = [], [], []
    for group in np.split(x.astype(np.float64), num_groups):
        axes = tuple(range(x.ndim - 1))
        biased = group.var(axes)
        outputs.append((group - group.mean(axes)) / np.sqrt(biased + 1e-5) * scale + bias)
        means.append(group.mean(axes))
        variances.append(group.var(axes, ddof=1))
    mean = 0.9 * mean + 0.1 * np.mean(means, axis=0)
    var = 0.9 * var + 0.1 * np.mean(variances, axis=0)
    return np.concatenate(outputs), mean, var


def test_batch_norm_of_two_numbers():
    norm = BatchNorm(1)
    y = run(norm, jnp.array([[1.0], [3.0]]), train=True)
    # Mean 2, biased variance 1, unbiased variance 2; the running ones start at 0 and 1.
    close(y, np.array([[-1.0], [1.0]]) / math.sqrt(1 + 1e-5), atol=1e-7)
    close(norm.mean[...], [0.2], atol=1e-7)
    close(norm.var[...], [1.1], atol=1e-7)


def test_batch_norm_evaluates_with_running_statistics_and_keeps_them():
    norm, x = norm_with(), draw(2, 4, 4, 3)
    scale, bias, mean, var = before = values(norm)
    y = run(norm, jnp.asarray(x))
    close(y, (x - mean) / np.sqrt(var + 1e-5) * scale + bias)
    for old, new in zip(before, values(norm), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_batch_norm_groups_are_the_gpus_of_the_reference(num_groups):
    norm, x = norm_with(), draw(8, 1, 2, 3, mean=2.0)
    x += np.arange(8).reshape(8, 1, 1, 1)  # so that groups differ, and that their order counts
    expected, mean, var = torch_batch_norm(x, norm, num_groups)
    y = run(norm, jnp.asarray(x), train=True, num_groups=num_groups)
    close(y, expected)
    close(norm.mean[...], mean)
    close(norm.var[...], var)


def test_batch_norm_of_two_groups_of_two_numbers():
    norm = BatchNorm(1)
    y = run(norm, jnp.array([[1.0], [3.0], [10.0], [14.0]]), train=True, num_groups=2)
    # Means 2 and 12, biased variances 1 and 4, unbiased ones 2 and 8; over all they would be 7 and
    # 26.5. The running statistics, which start at 0 and 1, take a tenth of the mean over groups.
    first, second = 1 / math.sqrt(1 + 1e-5), 2 / math.sqrt(4 + 1e-5)
    close(y, np.array([[-first], [first], [-second], [second]]), atol=1e-6)
    close(norm.mean[...], [0.1 * 7], atol=1e-6)
    close(norm.var[...], [0.9 + 0.1 * 5], atol=1e-6)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_batch_norm_groups_are_batches_of_pytorch(num_groups):
    torch = pytest.importorskip("torch")
    norm, x = norm_with(), draw(8, 3, 2, 3, mean=2.0)
    x += np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    outputs, statistics = [], []
    for group in np.split(x, num_groups):
        theirs = torch.nn.BatchNorm2d(3)
        names = ("weight", "bias", "running_mean", "running_var")
        state = {n: torch.from_numpy(v) for n, v in zip(names, values(norm), strict=True)}
        theirs.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
        channels_first = torch.from_numpy(group.transpose(0, 3, 1, 2).copy())
        outputs.append(theirs.train()(channels_first).detach().numpy().transpose(0, 2, 3, 1))
        statistics.append((theirs.running_mean.numpy(), theirs.running_var.numpy()))
    close(run(norm, jnp.asarray(x), train=True, num_groups=num_groups), np.concatenate(outputs))
    close(norm.mean[...], np.mean([mean for mean, _ in statistics], axis=0))
    close(norm.var[...], np.mean([var for _, var in statistics], axis=0))


def test_batch_norm_gradient_goes_through_the_statistics():
    graph, state = nnx.split(norm_with())
    x, weight = draw(4, 2, 3, seed=5), draw(4, 2, 3, seed=6)

    def ours(x):
        return jnp.sum(nnx.merge(graph, nnx.as_pure(state))(x, train=True, num_groups=2) * weight)

    def plain(x):
        x = x.reshape(2, -1, 3)
        mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        y = (x - mean) / jnp.sqrt(var + 1e-5) * state["scale"][...]
        return jnp.sum(y * weight.reshape(2, -1, 3))

    found, expected = jax.jit(lambda x: (jax.grad(ours)(x), jax.grad(plain)(x)))(x)
    close(found, expected)


def test_batch_norm_keeps_its_digits_when_the_mean_is_large():
    norm = BatchNorm(1)
    norm.mean.set_value(jnp.array([1000.0]))
    x = 1000 + 0.1 * draw(64, 1)
    expected, _, _ = torch_batch_norm(x, norm)
    # E[x^2] - E[x]^2 in float32 would be off by more than the variance itself.
    close(run(norm, jnp.asarray(x), train=True), expected, atol=1e-3)


def test_frozen_batch_norm_trains_as_it_evaluates():
    norm, x = norm_with(frozen=True), jnp.asarray(draw(2, 4, 4, 3))
    before = values(norm)
    np.testing.assert_array_equal(run(norm, x, train=True, num_groups=2), run(norm, x))
    for old, new in zip(before, values(norm), strict=True):
        np.testing.assert_array_equal(old, new)
    assert isinstance(norm.scale, Frozen) and isinstance(norm.bias, Frozen)
    assert not isinstance(norm.scale, nnx.Param)
    assert isinstance(norm_with().scale, nnx.Param)


def test_batch_norm_in_bfloat16_computes_statistics_in_float32():
    x = jnp.asarray(draw(64, 3, mean=4.0), jnp.bfloat16)
    half, full = norm_with(dtype=jnp.bfloat16), norm_with()
    y = run(half, x, train=True)
    close(y.astype(jnp.float32), run(full, x.astype(jnp.float32), train=True), atol=0.02)
    assert y.dtype == jnp.bfloat16
    for low, high in zip(values(half), values(full), strict=True):
        assert low.dtype == np.float32
        close(low, high, atol=1e-6)


# Convolution


def lax_conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def output_dtype(layer, *shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda layer, x: layer(x), layer, x).dtype


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pointwise_convolution_equals_that_of_xla(stride):
    conv = filled(lambda: Conv(3, 4, 1, stride=stride, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(conv)
    kernel, x = conv.kernel[...], draw(2, 6, 7, 3)
    weight = draw(2, math.ceil(6 / stride), math.ceil(7 / stride), 4, seed=1)

    def ours(x, kernel):
        y = nnx.merge(graph, {"kernel": kernel})(x)
        return jnp.sum(y * weight), y

    def reference(x, kernel):
        y = lax_conv(x, kernel, stride, 0)
        return jnp.sum(y * weight), y

    assert set(state) == {"kernel"}

    @jax.jit
    def both(x, kernel):
        return [jax.grad(f, (0, 1), has_aux=True)(x, kernel) for f in (ours, reference)]

    found, expected = both(x, kernel)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        close(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"), [(6, 3, 2, 1), (5, 3, 1, 1), (8, 7, 2, 3)]
)
def test_convolution_pads_both_sides_alike(size, kernel_size, stride, padding):
    conv = filled(lambda: Conv(2, 3, kernel_size, stride=stride, padding=padding, rngs=nnx.Rngs(0)))
    x = draw(2, size, size + 1, 2)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel_size,) * 2, axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # [batch, height, width, channels, row, column]
    expected = np.einsum("bhwirc,rcio->bhwo", windows, np.asarray(conv.kernel[...]))
    close(run(conv, x), expected, atol=1e-4)


def test_padded_pointwise_convolution_has_a_border_of_zeros():
    conv = filled(lambda: Conv(1, 1, 1, padding=1, rngs=nnx.Rngs(0)))
    y = np.asarray(run(conv, np.ones((1, 2, 2, 1))))[0, :, :, 0]
    kernel = np.asarray(conv.kernel[...]).item()
    close(y, np.pad(np.full((2, 2), kernel), 1))


def test_convolution_is_initialised_by_its_fan_out():
    kernel = np.asarray(Conv(8, 64, 3, rngs=quick_rngs()).kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    assert abs(kernel.mean()) < 0.05 * kernel.std()
    assert np.abs(kernel).max() > 2.5 * kernel.std()  # a normal distribution, not cut off


def test_dtypes_and_frozen_kernels_of_convolutions():
    conv = nnx.eval_shape(lambda: Conv(2, 2, 1, dtype=jnp.bfloat16, frozen=True, rngs=nnx.Rngs(0)))
    assert type(conv.kernel) is Frozen
    assert type(nnx.eval_shape(lambda: Conv(2, 2, 1, rngs=nnx.Rngs(0))).kernel) is nnx.Param
    assert conv.kernel.dtype == jnp.float32
    assert output_dtype(conv, 1, 2, 2, 2) == jnp.bfloat16


# Linear


def test_linear_multiplies_and_adds():
    layer = filled(lambda: Linear(3, 2, rngs=nnx.Rngs(0)))
    x = draw(4, 5, 3)
    close(run(layer, x), x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]))


def test_linear_is_initialised_as_asked():
    layer = Linear(100, 50, rngs=quick_rngs())
    for drawn in (np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])):
        assert 0.08 < np.abs(drawn).max() <= 0.1  # uniform up to 1 / sqrt(100)
        assert drawn.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.2)
    layer = Linear(100, 50, std=0.3, rngs=quick_rngs())
    assert np.asarray(layer.kernel[...]).std() == pytest.approx(0.3, rel=0.05)
    assert not np.asarray(layer.bias[...]).any()


def test_linear_in_bfloat16_keeps_its_parameters_in_float32():
    layer = nnx.eval_shape(lambda: Linear(3, 2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert layer.kernel.dtype == layer.bias.dtype == jnp.float32
    assert output_dtype(layer, 1, 3) == jnp.bfloat16


# Activations


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu_is_that_of_jax_and_keeps_only_its_output(dtype):
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0, -jnp.inf, jnp.inf], dtype)
    gradient = jnp.arange(1, 8, dtype=dtype)
    for found, expected in zip(
        *((y, *pull(gradient)) for y, pull in (jax.vjp(f, x) for f in (layers.relu, jax.nn.relu))),
        strict=True,
    ):
        assert found.dtype == expected.dtype == dtype
        np.testing.assert_array_equal(found, expected)
    assert "bool" not in str(jax.make_jaxpr(lambda x: jax.vjp(layers.relu, x))(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_relu6_is_that_of_pytorch_and_keeps_only_its_output(dtype):
    x = jnp.array([-2.0, -0.0, 0.0, 3.0, 5.96875, 6.0, 7.0, jnp.inf], dtype)
    y, pull = jax.vjp(layers.relu6, x)
    np.testing.assert_array_equal(y, jnp.array([0, 0, 0, 3, 5.96875, 6, 6, 6], dtype))
    (dx,) = pull(jnp.arange(1, 9, dtype=dtype))
    np.testing.assert_array_equal(dx, jnp.array([0, 0, 0, 4, 5, 0, 0, 0], dtype))
    assert (y.dtype, dx.dtype) == (dtype, dtype)
    assert "bool" not in str(jax.make_jaxpr(lambda x: jax.vjp(layers.relu6, x))(x))


# Pooling


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
def test_max_pool_and_its_gradient(height, width):
    x = draw(2, height, width, 3, mean=-4.0)  # negative, so that padding with zeros would win
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = (height - 1) // 2 + 1, (width - 1) // 2 + 1
    weight = draw(2, rows, columns, 3, seed=1)
    expected, gradient = np.zeros(weight.shape), np.zeros(padded.shape)
    for b, i, j, c in np.ndindex(*weight.shape):
        window = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, c]
        row, column = np.unravel_index(np.argmax(window), window.shape)
        expected[b, i, j, c] = window[row, column]
        gradient[b, 2 * i + row, 2 * j + column, c] += weight[b, i, j, c]

    def pooled(x):
        y = max_pool(x, 3, stride=2, padding=1)
        return jnp.sum(y * weight), y

    (_, y), found = jax.jit(jax.value_and_grad(pooled, has_aux=True))(x)
    close(y, expected)
    close(found, gradient[:, 1:-1, 1:-1])


def test_global_average_pool_accumulates_in_float32():
    x = draw(2, 7, 7, 3, mean=1.0)
    close(layers.global_average_pool(jnp.asarray(x)), x.mean((1, 2)))
    # 256 + 1 is not a bfloat16: adding up one by one in that dtype would stop at 256.
    y = layers.global_average_pool(jnp.ones((1, 32, 32, 1), jnp.bfloat16))
    assert y.dtype == jnp.float32
    assert y[0, 0] == 1


# Dropout


@partial(jax.jit, static_argnames="rate")
def dropped(x, rate, seed, clip_index):
    return dropout(x, rate, key=jax.random.key(seed), clip_index=clip_index)


@pytest.mark.parametrize(("window", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 3, 1)])
def test_ceil_mode_takes_every_window_that_starts_before_the_end(window, stride, padding):
    for height, width in product(range(3, 9), (5, 8)):
        x = draw(1, height, width, 2) - 5  # negative: a border of zeros would win
        starts = [
            [s for s in range(-padding, n, stride) if s - stride + window < n + padding]
            for n in (height, width)
        ]
        expected = [
            [x[0, max(r, 0) : r + window, max(c, 0) : c + window].max((0, 1)) for c in starts[1]]
            for r in starts[0]
        ]
        found = max_pool(x, window, stride=stride, padding=padding, ceil_mode=True)
        np.testing.assert_array_equal(found[0], expected)


def test_biases_are_optional():
    conv = filled(lambda: Conv(2, 3, 1, use_bias=True, rngs=nnx.Rngs(0)))
    plain = filled(lambda: Conv(2, 3, 1, rngs=nnx.Rngs(0)))
    plain.kernel.set_value(conv.kernel[...])
    x = draw(1, 2, 2, 2)
    close(run(conv, x), run(plain, x) + conv.bias[...])
    assert not hasattr(plain, "bias")
    linear = filled(lambda: Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0)))
    close(run(linear, x), x @ np.asarray(linear.kernel[...]))
    assert not hasattr(linear, "bias")


def test_dropout_belongs_to_the_clip_and_not_to_its_place():
    x = np.ones((6, 5, 40))
    whole = np.asarray(dropped(x, 0.5, 0, np.arange(6)))
    index = np.array([4, 1, 5])
    np.testing.assert_array_equal(dropped(x[:3], 0.5, 0, index), whole[index])
    masks = whole > 0
    for a in range(6):
        for b in range(a):
            assert (masks[a] != masks[b]).mean() > 0.3
    assert (masks[:, 0] != masks[:, 1]).mean() > 0.3  # rows of a clip have masks of their own
    assert (np.asarray(dropped(x, 0.5, 1, np.arange(6))) != whole).mean() > 0.3


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_dropout_keeps_the_expectation(rate):
    y = np.asarray(dropped(np.full((4, 5000), 3.0), rate, 0, np.arange(4)))
    assert (y == 0).mean() == pytest.approx(rate, abs=0.02)
    close(y[y != 0], np.full((y != 0).sum(), 3 / (1 - rate)))


def test_no_dropout_at_rate_zero():
    x = jnp.asarray(draw(2, 3))
    np.testing.assert_array_equal(dropout(x, 0.0, key=None, clip_index=None), x)
