"""Small functions in onnxruntime against JAX: layouts, windows, indices, open sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
pytest.importorskip("onnxruntime", reason="exported models are run in onnxruntime")

from onnx_models import exported, operators, run, session

from trn_jax.errors import UserError
from trn_jax.nn.pooling import max_pool, max_pool_time


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(function, *arrays, dynamic=True):
    """Compare a function with its export of fixed sizes, and of any leading size."""
    for free in (False, True) if dynamic else (False,):
        model = exported(function, arrays, dynamic=free)
        loaded = session(model)
        for count in (1, 3) if free else (None,):
            given = [a if count is None else np.concatenate([a] * 3)[:count] for a in arrays]
            expected = np.asarray(jax.jit(function)(*given))
            (found,) = run(loaded, given)
            assert found.dtype == expected.dtype and found.shape == expected.shape
            scale = max(np.abs(expected).max(), 1)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)
    return operators(model)


KERNEL, WIDE = draw(3, 3, 6, 8, seed=1), draw(8, 5, seed=2)


def convolved(x, kernel=KERNEL, stride=1, padding=((1, 1), (1, 1)), groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


IMAGES = (2, 7, 9, 6)
LAYOUTS = {
    "plain": lambda x: convolved(x),
    "odd strides": lambda x: convolved(x, stride=2, padding=((0, 2), (1, 0))),
    "groups": lambda x: convolved(x, draw(3, 3, 3, 8), groups=2),
    "affine": lambda x: convolved(x) * draw(8) - draw(8, seed=3) / 2 + draw(8, seed=4),
    "a bias that is no channel's": lambda x: convolved(x) + draw(9, 1),
    "subtracted from": lambda x: draw(8) - convolved(x),
    "affine, used twice": lambda x: (y := convolved(x)) * draw(8) + y,
    "scaled pixels": lambda x: convolved((x - draw(6)) / (2 + draw(6, seed=5) ** 2)),
    "scaled places": lambda x: convolved(x * draw(9, 1)),
    "two layers": lambda x: convolved(jax.nn.relu(convolved(x)), draw(3, 3, 8, 8)),
    "skip over a layout": lambda x: x + convolved(x, draw(3, 3, 6, 6)),
    "gate": lambda x: (y := convolved(x)) * jnp.mean(y, (1, 2), keepdims=True),
    "split and merge": lambda x: convolved(x).reshape(-1, 1, 7, 9, 8)[:, 0] + 1,
    "flat": lambda x: convolved(x).reshape(x.shape[0], -1),
    "positions": lambda x: convolved(x).reshape(x.shape[0], 63, 8).sum(1),
    "channel groups": lambda x: convolved(x).reshape(x.shape[0], 7, 9, 2, 4).max(-1),
    "transposed": lambda x: convolved(x).transpose(0, 3, 1, 2).reshape(x.shape[0], 8, 63),
    "rows": lambda x: convolved(x) @ WIDE,
    "padded": lambda x: jnp.pad(convolved(x), ((0, 0), (1, 0), (0, 2), (0, 3))),
    "cropped": lambda x: lax.pad(convolved(x), 0.0, ((0, 0, 0), (-1, 1, 0), (0, -2, 0), (0, 0, 0))),
    "sliced": lambda x: convolved(x)[:, 1::2, ::3, 2:5],
    "sliced twice": lambda x: convolved(x)[:, 1:6][..., 3:],
    "reversed": lambda x: convolved(x)[:, ::-1],
    "joined": lambda x: jnp.concatenate([convolved(x), x], -1),
    "joined with a constant": lambda x: jnp.concatenate(
        [convolved(x), jnp.ones((*x.shape[:3], 2))], -1
    ),
    "stacked": lambda x: jnp.stack([convolved(x), -convolved(x)], 1),
    "rolled": lambda x: jnp.roll(convolved(x), 2, axis=1),
    "normalised": lambda x: jax.nn.standardize(convolved(x)) * draw(8) + draw(8, seed=3),
    "softmax over channels": lambda x: jax.nn.softmax(convolved(x)),
    "softmax over rows": lambda x: jax.nn.softmax(convolved(x), 1),
    "capped": lambda x: jnp.clip(convolved(x), 0, 6),
    "capped from below": lambda x: jnp.clip(convolved(x), -1, 0.5),
    "gelu": lambda x: jax.nn.gelu(convolved(x), approximate=False),
    "rough gelu": lambda x: jax.nn.gelu(convolved(x)),
    "silu": lambda x: jax.nn.silu(convolved(x)),
    "hard swish": lambda x: jax.nn.hard_swish(convolved(x)),
    "softmax, almost": lambda x: (
        (e := jnp.exp((y := x[:, :, :7] - 1) - y.max(1, keepdims=True))) / e.sum(1)[:, :, None]
    ),
    "softmax over rows of squares": lambda x: jax.nn.softmax(x[:, :, :7], 1),
    "one channel becomes many": lambda x: convolved(x, draw(3, 3, 6, 1)) * draw(8),
    "largest": lambda x: jnp.argmax(convolved(x), -1),
    "running sum": lambda x: jnp.cumsum(convolved(x), 2),
    "attention": lambda x: jnp.einsum("nhwc,nhvc->nhwv", convolved(x), convolved(x)),
    "mixed rows": lambda x: jnp.einsum("gh,nhwc->ngwc", draw(4, 7), convolved(x)),
    "two contractions": lambda x: jnp.einsum("nhwc,wcd->nhd", convolved(x), draw(9, 8, 3)),
    "max pool": lambda x: max_pool(convolved(x), 3, stride=2, padding=1),
    "max pool, ceil": lambda x: max_pool(convolved(x), 2, stride=2, ceil_mode=True),
    "max pool of an input": lambda x: max_pool(x, 3, stride=2, padding=1),
    "max over time": lambda x: max_pool_time(convolved(x)[:, :, :, None], 3),
    "sum of windows": lambda x: lax.reduce_window(
        convolved(x), 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 0), (0, 0))
    ),
    "mean of what is there": lambda x: (
        lax.reduce_window(convolved(x), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        / lax.reduce_window(
            jnp.ones((1, 7, 9, 1)), 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
        )
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    check(LAYOUTS[name], draw(*IMAGES))


def test_no_transposition_stays_between_convolutions():
    def network(x):
        y = jax.nn.relu(convolved(x))
        y = max_pool(y, 3, stride=2, padding=1)
        z = y.reshape(-1, 2, *y.shape[1:])
        z = jnp.concatenate(
            [lax.pad(z[..., :2], 0.0, [(0, 0, 0), (1, -1, 0)] + [(0, 0, 0)] * 3), z[..., 2:]], -1
        )
        y = convolved(z.reshape(y.shape), draw(3, 3, 8, 8)) + y
        return jnp.mean(y, (1, 2))

    found = check(network, draw(2, 7, 9, 6), dynamic=False)
    assert found.count("Transpose") == 1


VALUES = {
    "integers": lambda x: (jnp.int32(x * 10) // 3 + jnp.int32(x * 10) % 4).astype(jnp.float32),
    "logic": lambda x: jnp.where((x > 0) & ~(x > 1) | (x < -1), x, 2 * x),
    "powers": lambda x: x**2 + x**3 + jnp.abs(x) ** 1.5 + jnp.exp2(x) + lax.rsqrt(jnp.abs(x) + 1),
    "logarithms": lambda x: jnp.log1p(jnp.exp(x)) + jnp.expm1(x) + jax.nn.softplus(x),
    "rounding": lambda x: jnp.round(x * 3) + jnp.floor(x) + jnp.ceil(x) + jnp.sign(x),
    "waves": lambda x: jnp.sin(x) + jnp.cos(x) + jnp.tanh(x),
    "errors": lambda x: lax.erf(x) + lax.erfc(x) / 2 + lax.logistic(x),
    "finite": lambda x: jnp.isfinite(x / jnp.maximum(x, 0)) * 1.0,
    "any": lambda x: jnp.any(x > 1, axis=1) * 1.0 + jnp.all(x > -1, axis=1),
    "number of a broadcast sum": lambda x: jnp.sum(jnp.broadcast_to(x[:, :1], x.shape), 1),
    "outer": lambda x: x[:, :, None] - x[:, None, :],
    "outer of constants": lambda x: x + jnp.arange(6)[None] * jnp.ones((1, 6)),
    "joined constants": lambda x: jnp.concatenate([jnp.zeros_like(x), jnp.ones_like(x)], 1),
    "constant": lambda x: jnp.zeros_like(x) + 3,
    "mixed dtypes": lambda x: x.astype(jnp.float16).astype(jnp.float32) + x.astype(jnp.int32),
    "several cases": lambda x: lax.select_n(jnp.int32(x > 0) + jnp.int32(x > 1), x, 2 * x, -x),
    "smallest": lambda x: jnp.argmin(x, 1).astype(jnp.float32) * jnp.min(x, 1) * jnp.prod(x, 1),
    "taken": lambda x: x[:, np.array([3, 0, 0, 5])],
    "taken evenly": lambda x: x[:, np.array([1, 3, 5])],
    "table": lambda x: x.reshape(-1, 2, 3)[:, np.array([[0, 1], [1, 1]]), np.array([2, 0])],
    "grid": lambda x: x.reshape(-1, 2, 3)[:, np.array([[1], [0]]), np.array([[0, 2]])],
    "one taken several times": lambda x: x[:, np.array([2, 2])],
    "taken, clipped": lambda x: jnp.take(x, np.array([0, 9]), axis=1, mode="clip"),
    "computed place": lambda x: jnp.take(draw(7, 3), jnp.int32(jnp.abs(x)), axis=0, mode="clip"),
    "computed slice": lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(x[0, 0]) % 3, 2, axis=1),
    "repeated": lambda x: jnp.repeat(x, 3, axis=1),
    "tiled": lambda x: jnp.tile(x, (1, 2)),
    "parts": lambda x: sum(jnp.split(x, 3, axis=1)),
    "branch of a constant": lambda x: lax.switch(1, [jnp.sin, jnp.cos], x),
    "by row": lambda x: jax.vmap(lambda row: jnp.dot(row, row))(x),
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    check(VALUES[name], 1.5 * draw(2, 6))


def test_several_batch_axes():
    x, y = draw(2, 3, 4, 5), draw(2, 3, 6, 5, seed=1)
    check(lambda x, y: jnp.einsum("abqc,abkc->abqk", x, y), x, y)
    check(lambda x, y: jnp.einsum("abqc,abkc->akbq", x, y), x, y)
    check(lambda x: jnp.einsum("abqc,bck->qabk", x, draw(3, 5, 2)), x)
    check(lambda x, y: jnp.einsum("aqc,akc->qk", x[:, 0], y[:, 0]), x, y, dynamic=False)


def test_time_and_space_in_three_dimensions():
    def volume(x):
        y = lax.conv_general_dilated(
            x,
            draw(3, 1, 1, 4, 6),
            (1, 1, 1),
            ((1, 1), (0, 0), (0, 0)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return max_pool_time(jax.nn.relu(y), 2)

    found = check(volume, draw(1, 5, 4, 3, 4))
    assert found.count("Transpose") == 2  # the input and the output


def test_a_first_size_that_is_not_open_may_be_one():
    check(lambda x: jnp.mean(convolved(x), (0, 1, 2)), draw(1, 5, 5, 6), dynamic=False)
    check(lambda x: convolved(x)[0].reshape(-1, 4), draw(1, 5, 5, 6), dynamic=False)


def test_equal_layers_are_computed_once():
    found = check(lambda x: convolved(x) + jnp.sin(convolved(x)), draw(*IMAGES))
    assert found.count("Conv") == 1


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1))), "pad"),
        (lambda x: jnp.sort(x, axis=1), "sort"),
        (lambda x: x.at[:, jnp.int32(x[0, 0])].add(1), "scatter"),
        (lambda x: x + jnp.arange(x.shape[0])[:, None], "iota"),
    ],
)
def test_what_can_not_be_exported_is_named(function, found):
    with pytest.raises(UserError, match=found):
        exported(function, [draw(2, 6)], dynamic=True)
