"""Temporal interlacing against loops in NumPy, values and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.models.tin import TemporalInterlace, interlace

pytestmark = pytest.mark.thorough

SEGMENTS, CHANNELS = 4, 32


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def build(channels=CHANNELS, *, dtype="float32", scale=0.7, **options):
    """An interlacing layer with numbers from NumPy; compiling `jax.random` takes far longer."""
    options = dict(num_segments=SEGMENTS, dtype=jnp.dtype(dtype)) | options
    op = nnx.eval_shape(lambda: TemporalInterlace(channels, rngs=nnx.Rngs(0), **options))
    for seed, leaf in enumerate(variables(op).values()):
        leaf.set_value(jnp.asarray(scale * draw(*leaf.shape, seed=seed), leaf.dtype))
    return op


def sampled(x, offset):
    """Move `x` `[segments, ...]` by `offset` frames to later times, frame by frame."""
    whole = math.floor(offset)
    y = np.zeros_like(x)
    for t in range(len(x)):
        for step, share in ((whole, 1 - (offset - whole)), (whole + 1, offset - whole)):
            if 0 <= t - step < len(x):
                y[t] += share * x[t - step]
    return y


def interlaced(x, offsets, weights):
    """What `interlace` does, clip by clip and quarter by quarter."""
    y = np.zeros_like(x)
    width = x.shape[-1] // 4
    for clip in range(len(x)):
        for quarter in range(4):
            part = (clip, ..., slice(quarter * width, (quarter + 1) * width))
            sign = 1 if quarter < 2 else -1
            moved = sampled(x[part], sign * offsets[clip, quarter % 2])
            y[part] = moved * weights[clip, :, quarter % 2][:, None, None, None]
    return y


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def decisions(p, x):
    """The offsets and weights for `x` `[batch, segments, height, width, interlaced]`."""
    means = np.pad(x.mean((2, 3)), ((0, 0), (1, 1), (0, 0)))

    def conv(name):
        taps = [means[:, i : i + x.shape[1]] @ p[f"{name}/kernel"][i] for i in range(3)]
        return sum(taps) + p[f"{name}/bias"]

    hidden = conv("offset_conv")[..., 0] @ p["offset_fc1/kernel"] + p["offset_fc1/bias"]
    z = np.maximum(hidden, 0) @ p["offset_fc2/kernel"] + p["offset_fc2/bias"]
    return 4 * (sigmoid(z) - 0.5), 2 * sigmoid(conv("weight_conv"))


def layer(p, x, num_segments, shift_div=4):
    """The whole layer."""
    clips = x.reshape(-1, num_segments, *x.shape[1:])
    chosen = clips[..., : x.shape[-1] // shift_div]
    y = np.concatenate([interlaced(chosen, *decisions(p, chosen)), clips[..., 8:]], axis=-1)
    return y.reshape(x.shape)


def test_a_worked_example():
    x = jnp.broadcast_to(jnp.arange(1.0, 5)[None, :, None, None, None], (1, 4, 1, 1, 4))
    y = interlace(x, jnp.array([[0.5, 1]]), jnp.ones((1, 4, 2)))[0, :, 0, 0].T
    expected = [[0.5, 1.5, 2.5, 3.5], [0, 1, 2, 3], [1.5, 2.5, 3.5, 2], [2, 3, 4, 0]]
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("offset", [-2, -1.25, -1, -0.5, 0, 0.3, 1, 1.999, 2])
def test_what_comes_from_outside_the_clip_is_zero(offset):
    x = draw(2, 5, 1, 2, 8).astype(np.float32)
    offsets = np.array([[offset, -offset], [offset / 2, offset]], np.float32)
    weights = draw(2, 5, 2, seed=1).astype(np.float32)
    found = interlace(*map(jnp.asarray, (x, offsets, weights)))
    np.testing.assert_allclose(found, interlaced(x, offsets, weights), atol=1e-5)


def test_no_offset_and_unit_weights_are_the_identity():
    op = build(scale=0.0)  # the sigmoids are at 1/2: offsets of 0, weights of 1
    x = jnp.asarray(draw(2 * SEGMENTS, 3, 2, CHANNELS), jnp.float32)
    np.testing.assert_array_equal(op(x), x)


@pytest.mark.slow
def test_layer_and_gradients_are_those_of_the_loops():
    x = draw(2 * SEGMENTS, 1, 2, CHANNELS)
    direction = draw(*x.shape, seed=1)
    with jax.enable_x64(True):
        op = build(dtype="float64")
        graph, state = nnx.split(op)
        names = list(variables(op))

        def loss(state, x):
            y = nnx.merge(graph, state)(x)
            return (y * direction).sum(), y

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        (_, y), (state_grads, x_grads) = step(state, x)
        p = {name: np.asarray(leaf[...]) for name, leaf in variables(op).items()}
        grads = dict(zip(names, map(np.asarray, jax.tree.leaves(state_grads)), strict=True))
    np.testing.assert_allclose(y, layer(p, x, SEGMENTS), atol=1e-12)
    offsets, weights = decisions(p, x.reshape(2, SEGMENTS, 1, 2, CHANNELS)[..., :8])
    assert np.abs(offsets).max() > 1 and weights.std() > 0.1  # the test can fail

    def slope(p_step, x_step, epsilon=1e-6):
        up, down = (
            layer({n: v + s * p_step.get(n, 0) for n, v in p.items()}, x + s * x_step, SEGMENTS)
            for s in (epsilon, -epsilon)
        )
        return ((up - down) * direction).sum() / (2 * epsilon)

    for seed, (name, grad) in enumerate(grads.items(), start=2):
        along = draw(*grad.shape, seed=seed)
        expected = slope({name: along}, 0)
        assert abs(expected) > 1e-3, name
        assert (grad * along).sum() == pytest.approx(expected, rel=1e-6, abs=1e-7), name
    along = draw(*x.shape, seed=20)
    assert (np.asarray(x_grads) * along).sum() == pytest.approx(slope({}, along), rel=1e-6)


@pytest.mark.slow
def test_gradients_go_back_the_way_that_features_came():
    # Moved one frame later, the third frame is the second one: its gradient belongs there.
    def third(x):
        return interlace(x, jnp.array([[1.0, 1]]), jnp.ones((1, 4, 2)))[0, 2, 0, 0, 0]

    grads = jax.grad(third)(jnp.ones((1, 4, 1, 1, 4)))
    np.testing.assert_array_equal(grads[0, :, 0, 0, 0], [0, 1, 0, 0])


def test_whole_offsets_have_the_slope_to_their_right():
    x = draw(1, 4, 1, 1, 4).astype(np.float32)

    def first_quarter(offset):
        offsets = jnp.stack([offset, 0.5])[None]
        return interlace(jnp.asarray(x), offsets, jnp.ones((1, 4, 2)))[0, :, 0, 0, 0]

    slopes_at = jax.jit(jax.jacrev(first_quarter))
    for whole in (-1, 0, 1):
        slopes = slopes_at(jnp.float32(whole))
        expected = sampled(x[0], whole + 1) - sampled(x[0], whole)
        np.testing.assert_allclose(slopes, expected[:, 0, 0, 0], atol=1e-6)


def test_no_pass_indexes():
    op = build()
    graph, state = nnx.split(op)
    x = jnp.zeros((SEGMENTS, 1, 1, CHANNELS))
    loss = jax.grad(lambda state, x: (nnx.merge(graph, state)(x) ** 2).sum(), argnums=(0, 1))
    program = str(jax.make_jaxpr(loss)(state, x))
    assert not any(word in program for word in ("scatter", "gather", "dynamic_slice"))


@pytest.mark.slow
def test_bfloat16_decides_in_float32():
    x = jnp.asarray(draw(2 * SEGMENTS, 2, 3, CHANNELS), jnp.bfloat16)
    low = build(dtype="bfloat16")
    assert {leaf.dtype for leaf in variables(low).values()} == {jnp.dtype("float32")}
    assert low.offset_fc1.dtype == low.weight_conv.dtype == jnp.float32
    y = low(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(y, np.float32), build()(x.astype(jnp.float32)), rtol=2e-2, atol=2e-2
    )


def test_initial_parameters():
    op = TemporalInterlace(1024, num_segments=8, rngs=nnx.Rngs(0))
    found = {name: np.asarray(leaf[...]) for name, leaf in variables(op).items()}
    fan_in = {"offset_conv": 768, "offset_fc1": 8, "offset_fc2": 8, "weight_conv": 768}
    shapes = {"offset_conv": (3, 256, 1), "offset_fc1": (8, 8), "offset_fc2": (8, 2)}
    shapes["weight_conv"] = (3, 256, 2)
    assert found.keys() == {f"{name}/{leaf}" for name in fan_in for leaf in ("kernel", "bias")}
    for name, shape in shapes.items():
        kernel, bias = found[f"{name}/kernel"], found[f"{name}/bias"]
        assert (kernel.shape, bias.shape) == (shape, shape[-1:])
        assert 0.8 < np.abs(kernel).max() * math.sqrt(fan_in[name]) <= 1
        assert name in ("offset_fc2", "weight_conv") or np.abs(bias).max() <= fan_in[name] ** -0.5
    np.testing.assert_allclose(found["offset_fc2/bias"], 0.5108)
    np.testing.assert_array_equal(found["weight_conv/bias"], 0)
    op.offset_fc2.kernel.set_value(jnp.zeros((8, 2)))
    np.testing.assert_allclose(op.offsets(jnp.zeros((1, 8, 256))), 0.5, atol=1e-4)


def test_layers_that_cannot_work_are_explained():
    for channels, shift_div in ((8, 4), (24, 4), (64, 128)):
        with pytest.raises(UserError, match=rf"{channels} // {shift_div} = .* multiple of 4"):
            build(channels, shift_div=shift_div)
    with pytest.raises(UserError, match=r"6 frames .*num_segments=4"):
        build()(jnp.zeros((6, 1, 1, CHANNELS)))
