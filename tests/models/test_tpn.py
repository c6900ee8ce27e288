"""The pyramid against its formulas, written out frame by frame."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import trn_jax
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.models.tpn import TPN, TPNHead
from trn_jax.nn.pooling import max_pool_time, scatter_frames_by_choice, scatter_frames_by_xla

pytestmark = pytest.mark.thorough

STAGES = (8, 8, 16, 16)


def fill(model):
    """Give an abstract model numbers from NumPy: compiling `jax.random` takes far longer."""
    rng = np.random.default_rng(0)
    for path, leaf in variables(model).items():
        value = rng.normal(size=leaf.shape)
        value /= math.sqrt(max(leaf.size // leaf.shape[-1], 1)) if path.endswith("kernel") else 4
        value = np.abs(value) + 0.5 if path.endswith(("var", "scale")) else value
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model


def neck(stage_channels=STAGES, **options):
    options = dict(num_classes=5, conv_groups=4) | options
    return fill(nnx.eval_shape(lambda: TPN(stage_channels, rngs=nnx.Rngs(0), **options)))


def model(name="tpn_slowonly_resnet14", **options):
    options = dict(num_classes=5, width=4, dropout_rate=0.0) | options
    return fill(nnx.eval_shape(lambda: trn_jax.create_model(name, **options)))


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def features(num_frames, stage_channels=STAGES):
    sizes = [2 ** (len(stage_channels) - i) for i in range(len(stage_channels))]
    return [draw(2, num_frames, s, s, c) for s, c in zip(sizes, stage_channels, strict=True)]


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=tolerance, atol=tolerance)


run = nnx.jit(lambda module, *arguments: module(*arguments))


def windows(num_frames, scale):
    return [slice(start, start + scale) for start in range(0, num_frames, scale)]


# Pooling over time


@pytest.mark.parametrize("scale", [1, 2, 3, 8])
@pytest.mark.parametrize("num_frames", [1, 7, 8, 9])
def test_pooling_over_time_keeps_the_incomplete_window(num_frames, scale):
    x = draw(2, num_frames, 2, 1, 3) - 5  # below zero, where padding with zeros would win
    expected = np.stack([x[:, w].max(1) for w in windows(num_frames, scale)], 1)
    np.testing.assert_array_equal(max_pool_time(x, scale), expected)


@pytest.mark.slow
def test_gradients_of_pooling_go_to_the_largest_frames():
    x, weight = draw(1, 7, 1, 1, 4), draw(1, 3, 1, 1, 4)
    found = jax.grad(lambda x: jnp.sum(max_pool_time(x, 3) * weight))(x)
    expected = np.zeros_like(x)
    for i, window in enumerate(windows(7, 3)):
        part = x[:, window]
        expected[:, window] = (part == part.max(1, keepdims=True)) * weight[:, i : i + 1]
    close(found, expected)


@pytest.mark.parametrize(("num_frames", "scale"), [(8, 4), (7, 3), (2, 5)])
def test_the_gradient_of_pooling_by_xla_and_by_choice(num_frames, scale):
    x = np.round(draw(2, num_frames, 2, 1, 9))  # many frames share a maximum
    y = max_pool_time(x, scale)
    dy = draw(*y.shape, seed=2)
    expected = scatter_frames_by_xla(jnp.asarray(x), y, dy, scale=scale)
    np.testing.assert_array_equal(scatter_frames_by_choice(x, y, dy, scale=scale), expected)
    np.testing.assert_array_equal(jax.vjp(lambda x: max_pool_time(x, scale), x)[1](dy)[0], expected)


# The flows


def test_cascade_without_its_convolution_leaves_the_top_down_levels():
    pyramid = neck(temporal_scales=(2, 4))
    levels = [draw(2, 4, 2, 2, 8), draw(2, 2, 2, 2, 8, seed=2)]
    pyramid.downsamples[0].kernel[...] *= 0
    down = pyramid.top_down(levels)
    assert len(down) == 2
    close(down[0], levels[0] + levels[1][:, [0, 0, 1, 1]])
    close(down[1], levels[1])
    for up, expected in zip(pyramid.bottom_up(down), down, strict=True):
        close(up, expected)


def test_coarse_frames_are_added_to_the_fine_ones_in_their_window():
    # 12 frames at scales 4 and 8: three fine windows, and the second coarse one is half empty.
    fine, coarse = draw(2, 3, 2, 2, 8), draw(2, 2, 2, 2, 8, seed=2)
    down = neck(temporal_scales=(4, 8)).top_down([fine, coarse])
    close(down[0], fine + coarse[:, [0, 0, 1]])


@pytest.mark.parametrize("flow", ["cascade", "parallel"])
def test_both_flows_follow_their_formulas(flow):
    pyramid, x = neck(temporal_scales=(2, 4, 8), flow=flow), features(8)

    @nnx.jit
    def both(pyramid, x):
        t = pyramid.modulate_time(pyramid.modulate_space(x))
        d = [None, None, t[2]]
        d[1] = t[1] + jnp.repeat(d[2], 2, axis=1)
        d[0] = t[0] + jnp.repeat(d[1], 2, axis=1)
        u = list(d if flow == "cascade" else t)
        for i in (0, 1):
            u[i + 1] = u[i + 1] + max_pool_time(pyramid.downsamples[i](u[i]), 2)
        fused = [pyramid.level_fusion_1(d), pyramid.level_fusion_2(u)]
        expected = pyramid.pyramid_fusion(jnp.concatenate(fused, axis=-1))
        return pyramid(x)[0], expected

    found, expected = both(pyramid, x)
    assert found.shape == (2, 1, 2, 2, 16)
    close(found, expected)


def test_the_flows_differ():
    x = features(8)
    outputs = [np.asarray(run(neck(flow=flow), x)[0]) for flow in ("cascade", "parallel")]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2


@pytest.mark.parametrize(
    ("scales", "num_frames", "remaining"),
    [
        ((8, 8), 3, 1),
        ((8, 8), 9, 2),
        ((4, 8), 12, 2),
        ((1, 2), 5, 3),
        ((8, 16), 32, 2),
        ((16, 32), 32, 1),
        ((1, 2, 6), 7, 2),
        ((1, 1, 1, 1), 2, 2),
    ],
)
def test_any_temporal_scales_and_any_number_of_frames(scales, num_frames, remaining):
    pyramid = neck(temporal_scales=scales)
    y, _ = nnx.eval_shape(lambda pyramid, x: pyramid(x), pyramid, features(num_frames))
    assert y.shape == (2, remaining, 2, 2, 16)
    assert pyramid.out_channels == 16


def test_every_level_halves_as_often_as_the_backbone_does():
    pyramid = neck(temporal_scales=(2, 2, 2))
    assert [len(convs) for convs in pyramid.spatial_modulation] == [2, 1, 0]
    # 9 pixels become 5 and 3 in the backbone, which rounds up.
    x = [draw(1, 2, size, size, c) for size, c in zip((18, 9, 5, 3), STAGES, strict=True)]
    levels = nnx.eval_shape(lambda pyramid, x: pyramid.modulate_space(x), pyramid, x)
    assert {level.shape for level in levels} == {(1, 2, 3, 3, 16)}


def test_kernels_are_uniform_and_classifiers_normal():
    pyramid = TPN((8, 64, 128), num_classes=50, rngs=nnx.Rngs(0))
    for path, leaf in variables(pyramid).items():
        if path.endswith("conv/kernel") or path.startswith("temporal_modulation"):
            taps = math.prod(leaf.shape[:3])
            bound = math.sqrt(6 / (taps * leaf.shape[3] + taps * leaf.shape[4]))
            assert 0.99 * bound < float(jnp.abs(leaf[...]).max()) <= bound, path
    head = TPNHead(128, 50, rngs=nnx.Rngs(0))
    for kernel in (head.fc.kernel[...], pyramid.auxiliary.fc.kernel[...]):
        assert float(kernel.std()) == pytest.approx(0.01, rel=0.05)


# The head


@pytest.mark.slow
def test_head_averages_over_time_and_space_and_merges_probabilities():
    head = fill(nnx.eval_shape(lambda: TPNHead(6, 5, rngs=nnx.Rngs(0))))
    x = draw(3, 2, 4, 4, 6)
    close(run(head, x), x.mean((1, 2, 3)) @ np.asarray(head.fc.kernel[...]) + head.fc.bias[...])
    assert head.merge_views == "probabilities"
    assert head.dropout_rate == 0.5


# Whole models


@nnx.jit(static_argnames="train")
def score(model, clips, *, train=False, seed=0, clip_index=None):
    rngs = nnx.Rngs(seed) if train else None
    return model.outputs(clips, train=train, rngs=rngs, clip_index=clip_index)


def random_clips(*shape, size=32):
    return np.random.default_rng(0).integers(0, 256, (*shape, size, size, 3), np.uint8)


@pytest.mark.slow
def test_auxiliary_logits_come_out_in_training_only():
    tpn, clips = model(), random_clips(2, 4)
    logits, auxiliary = score(tpn, clips)
    assert (logits.shape, auxiliary) == ((2, 5), None)
    logits, auxiliary = score(tpn, clips, train=True)
    assert logits.shape == auxiliary.shape == (2, 5)
    assert logits.dtype == auxiliary.dtype == jnp.float32
    assert np.abs(logits - auxiliary).max() > 1e-2


def test_auxiliary_classifier_sees_the_last_stage_but_one():
    pyramid, x = neck(dropout_rate=0.0), features(4)

    @nnx.jit
    def both(pyramid, x):
        convolved = pyramid.auxiliary.conv(x[2], train=True, num_groups=1)
        expected = pyramid.auxiliary.fc(convolved.mean((1, 2, 3)))
        return pyramid(x, train=True, clip_index=jnp.arange(2))[1], expected

    close(*both(pyramid, x))


def test_masks_belong_to_clips_and_differ_between_the_classifiers():
    tpn = model(dropout_rate=0.5, width=8)
    for head in (tpn.head.fc, tpn.neck.auxiliary.fc):
        head.kernel.set_value(jnp.ones_like(head.kernel[...]))
        head.bias.set_value(jnp.zeros_like(head.bias[...]))
    # So large that the last features have more than one place: batch norms of equal clips of a
    # single place would divide rounding errors by their own size.
    clips, index = random_clips(1, 2, size=96).repeat(4, 0), np.arange(4)
    straight = score(tpn, clips, train=True, clip_index=index)
    turned = score(tpn, clips, train=True, clip_index=index[::-1])
    for a, b in zip(straight, turned, strict=True):
        close(b[::-1], a, 1e-3)
        assert np.ptp(np.asarray(a)[:, 0]) > 1e-2  # equal clips, but a mask each


@pytest.mark.slow
@pytest.mark.parametrize("temporal_scales", [(2, 2), (1, 2)])
def test_tpn_sees_the_order_of_frames(temporal_scales):
    tpn, clips = model(temporal_scales=temporal_scales), random_clips(2, 4)
    logits, _ = score(tpn, clips)
    reversed_logits, _ = score(tpn, clips[:, ::-1])
    assert np.abs(logits - reversed_logits).max() > 1e-3
    # Each clip is scored by itself: in another place of the batch, the same.
    close(score(tpn, clips[::-1])[0], logits[::-1], 1e-4)


@pytest.mark.slow
def test_norm_groups_train_as_separate_gpus():
    clips = random_clips(4, 2)
    clips[2:] //= 4  # so that the groups have different statistics
    whole = score(model(norm_group=2), clips, train=True)
    halves = [score(model(), half, train=True) for half in (clips[:2], clips[2:])]
    for found, parts in zip(whole, zip(*halves, strict=True), strict=True):
        # The last norms see two numbers per channel, which makes rounding errors large.
        close(found, np.concatenate(parts), 1e-2)


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    clips = random_clips(2, 4)
    exact, _ = score(model(), clips)
    low, _ = score(model(dtype="bfloat16"), clips)
    assert low.dtype == jnp.float32
    assert np.abs(low - exact).max() < 3e-2 * np.abs(exact).max()


@pytest.mark.parametrize("backbone", ["resnet10", "resnet50"])
def test_the_pyramid_fits_networks_of_single_frames(backbone):
    tpn = model("tsn_resnet10", backbone=backbone, neck="tpn", head="tpn", conv_groups=8)
    clips = jax.ShapeDtypeStruct((2, 3, 64, 64, 3), jnp.uint8)
    logits = nnx.eval_shape(lambda tpn, clips: tpn(clips), tpn, clips)
    assert logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(flow="serial"), r"flow='serial' is not one of cascade, parallel"),
        (
            dict(temporal_scales=(8, 4)),
            r"\(8, 4\): each scale must be a multiple",
        ),
        (dict(temporal_scales=(0, 8)), r"\(0, 8\): each scale must be a multiple"),
        (dict(temporal_scales=(8,)), r"temporal_scales=\(8,\) "),
        (dict(temporal_scales=(8,) * 5), r"temporal_scales=.* 5 levels"),
        (dict(conv_groups=12), r"groups=12 .*16 and 8"),
    ],
)
def test_pyramids_that_cannot_be_built_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        neck(**options)


@pytest.mark.slow
def test_clip_networks_take_no_temporal_op(monkeypatch):
    monkeypatch.setitem(trn_jax.models.TEMPORAL_OPS, "flip", nnx.Module)
    with pytest.raises(UserError, match=r"'slowonly_resnet14' has no place for .*'flip'"):
        model(temporal_op="flip")
