"""Swin: windows, masks and attention against brute force, and whose keys drop path draws from."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.backbones import BACKBONES, swin
from trn_jax.backbones.swin import LayerNorm, PatchMerging, Swin, WindowAttention
from trn_jax.errors import UserError
from trn_jax.models.cost import measure
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.layers import Linear

pytestmark = pytest.mark.thorough


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tiny(**options):
    """Frames of 16x16 pixels give maps of 4x4 and 2x2 patches, in windows of 2x2."""
    options = dict(width=8, head_channels=4, window=2) | options
    return lambda: Swin((2, 2), rngs=nnx.Rngs(0), **options)


def linear(*sizes, **options):
    return Linear(*sizes, std=0.5, rngs=nnx.Rngs(0), **options)


@nnx.jit(static_argnames="train")
def run(model, frames, *, train=False, clip_index=None, seed=0):
    rngs = nnx.Rngs(dropout=jax.random.key(seed))
    return model(frames, train=train, rngs=rngs, clip_index=clip_index)


def test_published_sizes_and_cost():
    model = nnx.eval_shape(lambda: BACKBONES["swin_base"](rngs=nnx.Rngs(0)))
    frames = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), model, frames)
    shapes = [(2, 56 // 2**i, 56 // 2**i, 128 * 2**i) for i in range(4)]
    assert [f.shape for f in features] == shapes
    assert model.stage_channels == (128, 256, 512, 1024)
    assert model.out_channels == 1024
    assert [block.attn.num_heads for blocks in model.layers for block in blocks][::23] == [4, 32]
    cost = measure(model, 1, 224, 224, 3)
    assert cost.parameters == 86_743_224
    assert cost.products == pytest.approx(15.430e9, rel=1e-3)


# Windows


@pytest.mark.parametrize(("height", "width", "window"), [(6, 4, 2), (3, 9, 3), (7, 7, 7)])
def test_windows_are_cut_out_and_put_back(height, width, window):
    x = draw(2, height, width, 3 * 4)
    windows = swin.partition(x, window, num_heads=3)
    corners = itertools.product(range(0, height, window), range(0, width, window))
    for index, (row, column) in enumerate(corners):
        cut = x[:, row : row + window, column : column + window]
        heads = np.moveaxis(cut.reshape(2, -1, 3, 4), 2, 1)
        np.testing.assert_array_equal(windows[:, index], heads)
    np.testing.assert_array_equal(swin.merge(windows, height, width), x)


@pytest.mark.parametrize("window", [2, 3, 7])
def test_relative_positions_count_rows_then_columns(window):
    pixels = list(itertools.product(range(window), repeat=2))
    expected = [
        [(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for b in pixels]
        for a in pixels
    ]
    np.testing.assert_array_equal(swin.relative_positions(window), expected)


@pytest.mark.parametrize(("height", "width", "window"), [(4, 6, 2), (14, 21, 7), (14, 7, 7)])
def test_mask_separates_the_nine_regions_of_the_paper(height, width, window):
    shift = [window // 2 if size > window else 0 for size in (height, width)]
    regions = np.zeros((height, width), int)
    bounds = [
        (0, n - window, n - s, n) if s else (0, n)
        for n, s in zip((height, width), shift, strict=True)
    ]
    for i, rows in enumerate(itertools.pairwise(bounds[0])):
        for j, columns in enumerate(itertools.pairwise(bounds[1])):
            regions[slice(*rows), slice(*columns)] = 3 * i + j
    mask = swin.shift_mask(height, width, window, shift)
    corners = itertools.product(range(0, height, window), range(0, width, window))
    for index, (row, column) in enumerate(corners):
        inside = regions[row : row + window, column : column + window].ravel()
        expected = np.where(inside[:, None] == inside, 0, -100)
        np.testing.assert_array_equal(mask[index], expected)
    assert mask.min() == -100 and mask.max() == 0


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(6, 9), (3, 6), (3, 3)])
@pytest.mark.parametrize("shifted", [False, True])
def test_attention_looks_at_the_pixels_of_a_window(filled, shifted, height, width):
    window, heads, channels = 3, 2, 8
    options = dict(num_heads=heads, window=window, shifted=shifted, linear=linear)
    layer = filled(lambda: WindowAttention(channels, rngs=nnx.Rngs(0), **options))
    x = draw(1, height, width, channels)
    found = nnx.jit(lambda layer, x: layer(x))(layer, x)

    # Every pixel by itself, without rolling: windows begin at the shift and end at the border.
    offsets = [1 if shifted and size > window else 0 for size in (height, width)]
    qkv = x[0] @ np.asarray(layer.qkv.kernel[...]) + np.asarray(layer.qkv.bias[...])
    query, key, value = qkv.reshape(height, width, 3, heads, -1).transpose(2, 0, 1, 3, 4)
    table = np.asarray(layer.relative_position_bias_table[...])
    pixels = list(itertools.product(range(height), range(width)))

    def window_of(pixel):
        return [(p - offset) // window for p, offset in zip(pixel, offsets, strict=True)]

    mixed = np.zeros((height, width, heads, channels // heads))
    for q in pixels:
        seen = [k for k in pixels if window_of(k) == window_of(q)]
        for head in range(heads):
            scores = [
                query[q][head] @ key[k][head] / (channels // heads) ** 0.5
                + table[(q[0] - k[0] + 2) * 5 + q[1] - k[1] + 2, head]
                for k in seen
            ]
            share = np.exp(scores) / np.exp(scores).sum()
            mixed[q][head] = sum(s * value[k][head] for s, k in zip(share, seen, strict=True))
    expected = mixed.reshape(height, width, channels) @ np.asarray(layer.proj.kernel[...])
    np.testing.assert_allclose(found[0], expected + layer.proj.bias[...], atol=1e-5)


def test_every_second_block_is_shifted():
    model = nnx.eval_shape(tiny())
    shifted = [[block.attn.shifted for block in blocks] for blocks in model.layers]
    assert shifted == [[False, True], [False, True]]


@pytest.mark.slow
def test_merging_goes_down_the_columns():
    layer = PatchMerging(2, norm=lambda channels: lambda x: x, linear=lambda *_, **__: lambda x: x)
    x = draw(1, 4, 6, 2)
    corners = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    np.testing.assert_array_equal(layer(x), np.concatenate(corners, axis=-1))


def test_layer_norm_is_that_of_pytorch():
    layer = LayerNorm(5)
    x = draw(3, 5) * 1e-2  # so small that the epsilon counts
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5)


# Drop path


def test_drop_path_takes_whole_frames_and_keeps_the_expectation():
    x, index = np.ones((2000, 2, 2, 3), np.float32), jnp.arange(500)
    found = np.asarray(swin.drop_path(x, 0.2, key=jax.random.key(0), clip_index=index))
    frames = found[:, 0, 0, 0]
    np.testing.assert_array_equal(found, np.broadcast_to(frames[:, None, None, None], x.shape))
    assert set(np.unique(frames)) == {0, np.float32(1.25)}
    assert (frames == 0).mean() == pytest.approx(0.2, abs=0.03)
    # The frames of a clip are dropped independently.
    assert len(np.unique(frames.reshape(500, 4) == 0, axis=0)) > 8


def test_no_two_branches_share_a_key_and_rates_rise(monkeypatch, filled):
    keys, rates = [], []

    def record(x, rate, *, key, clip_index):
        keys.append(jax.random.key_data(key))
        rates.append(rate)
        return x

    def keys_of(model, train):
        keys.clear()
        model(jnp.zeros((1, 16, 16, 3)), train=train, rngs=nnx.Rngs(dropout=0))
        return list(keys)

    monkeypatch.setattr(swin, "drop_path", record)
    model = filled(tiny())
    found = nnx.jit(keys_of, static_argnums=1)(model, True)
    assert len({tuple(key.tolist()) for key in found}) == len(found) == 2 * 4
    np.testing.assert_allclose(rates, np.repeat(np.linspace(0, 0.1, 4), 2))
    assert nnx.jit(keys_of, static_argnums=1)(model, False) == []


def recognizer():
    rngs = nnx.Rngs(0)
    backbone = Swin((2, 2), width=8, head_channels=4, window=2, drop_path_rate=0.5, rngs=rngs)
    return Recognizer(backbone, TSNHead(16, 5, dropout_rate=0.0, rngs=rngs))


@pytest.mark.slow
def test_dropped_paths_belong_to_the_clip_and_not_to_its_place(filled):
    model, clips = filled(recognizer), draw(4, 3, 16, 16, 3) * 50 + 128
    index, order = np.arange(4), np.array([2, 0, 3, 1])
    straight = np.asarray(run(model, clips, train=True, clip_index=index))
    moved = run(model, clips[order], train=True, clip_index=index[order])
    np.testing.assert_allclose(moved, straight[order], atol=1e-5)
    other = run(model, clips, train=True, clip_index=index + 4)
    assert np.abs(other - straight).max() > 1e-2
    assert np.abs(run(model, clips, train=True, clip_index=index, seed=1) - straight).max() > 1e-2
    # The same frames in different clips are dropped differently.
    same = np.repeat(clips[:1], 4, axis=0)
    assert np.ptp(run(model, same, train=True, clip_index=index), axis=0).max() > 1e-2


@pytest.mark.slow
def test_training_without_keys_is_explained():
    frames = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(UserError, match=r"drop path needs random keys: .*rngs=nnx\.Rngs"):
        nnx.eval_shape(lambda model: model(frames, train=True), nnx.eval_shape(tiny()))
    quiet = nnx.eval_shape(tiny(drop_path_rate=0.0))
    assert len(nnx.eval_shape(lambda model: model(frames, train=True), quiet)) == 2


# The whole network


@pytest.mark.slow
def test_training_has_finite_gradients(filled, gradients):
    found = gradients(filled(tiny(drop_path_rate=0.0)), draw(2, 16, 16, 3))
    assert all(np.isfinite(value).all() for value in found.values())
    assert all(np.any(value) for value in found.values())


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(filled):
    x = draw(2, 16, 16, 3)
    exact = run(filled(tiny()), x)
    rough = run(filled(tiny(dtype=jnp.bfloat16)), x)
    for found, expected in zip(rough, exact, strict=True):
        assert found.dtype == jnp.bfloat16
        scale = float(jnp.abs(expected).max())
        assert np.abs(found.astype(np.float32) - expected).max() < 3e-2 * scale


def test_sizes_that_do_not_fit_are_explained():
    model = nnx.eval_shape(lambda: BACKBONES["swin_base"](rngs=nnx.Rngs(0)))
    frames = jax.ShapeDtypeStruct((1, 256, 224, 3), jnp.float32)
    with pytest.raises(UserError, match=r"256x224 pixels.* multiples of 224"):
        nnx.eval_shape(lambda model, x: model(x), model, frames)
