"""MobileNetV2: the sizes of torchvision's, its blocks by hand, and what its options change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import create_model
from trn_jax.backbones import BACKBONES
from trn_jax.backbones.mbconv import BlockShape, MBConv
from trn_jax.backbones.mobilenet import MobileNetV2
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Frozen


def abstract(name="mobilenetv2", **options):
    return nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0), **options))


def tiny(**options):
    return lambda: BACKBONES["mobilenetv2_tiny"](width_factor=0.25, rngs=nnx.Rngs(0), **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks_of(model):
    return {
        (number, index): block
        for number in range(1, 8)
        for index, block in enumerate(getattr(model, f"layer{number}"))
    }


# Sizes and shapes


def test_features_of_the_stages():
    model = abstract()
    frames = jax.ShapeDtypeStruct((2, 224, 193, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), model, frames)
    sides = [(112, 97), (56, 49), (28, 25), (14, 13), (7, 7)]
    assert [f.shape[1:3] for f in features] == sides
    assert tuple(f.shape[3] for f in features) == model.stage_channels == (16, 24, 32, 96, 1280)
    assert model.out_channels == 1280


# torchvision's and timm's, without their classifiers of 1000 classes.
@pytest.mark.parametrize(
    ("width_factor", "whole", "features"),
    [
        (0.5, 1_968_680, 1280),
        (0.75, 2_636_424, 1280),
        (1.0, 3_504_872, 1280),
        (1.4, 6_108_776, 1792),
    ],
)
def test_parameter_counts_of_torchvision(width_factor, whole, features):
    model = abstract(width_factor=width_factor)
    counted = sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert counted == whole - (features * 1000 + 1000)
    assert model.out_channels == features


def test_shortcuts_and_strides():
    blocks = blocks_of(abstract())
    assert len(blocks) == 17
    assert {place for place, block in blocks.items() if block.has_shortcut} == {
        *((2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (5, 1), (5, 2), (6, 1), (6, 2))
    }
    halving = {place for place, block in blocks.items() if block.depthwise.conv.stride == 2}
    assert halving == {(2, 0), (3, 0), (4, 0), (6, 0)}
    assert {place for place, block in blocks.items() if block.expand is None} == {(1, 0)}


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_by_hand(filled, stride):
    layers = dict(conv=lambda *a, **k: Conv(*a, **k, rngs=nnx.Rngs(0)), norm=BatchNorm)
    hook = TemporalHook(op=lambda channels: lambda x: x[::-1])
    shape = BlockShape(3, 24, 8, 0, "relu6", stride)
    block = filled(lambda: MBConv(8, shape, temporal=hook, **layers))
    x = draw(2, 5, 5, 8)

    @nnx.jit
    def both(block, x):
        y = x[::-1] if stride == 1 else x
        y = jnp.clip(block.expand.bn(block.expand.conv(y)), 0, 6)
        y = jnp.clip(block.depthwise.bn(block.depthwise.conv(y)), 0, 6)
        y = block.project.bn(block.project.conv(y))
        return block(x), x + y if stride == 1 else y

    found, expected = both(block, 10 * x)  # large enough for the 6
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.min() < 0  # no ReLU at the end


# Options


def test_the_temporal_op_is_in_the_blocks_with_a_shortcut():
    made = []

    def op(channels):
        made.append(channels)
        return lambda x: x

    blocks = blocks_of(abstract(temporal=TemporalHook(op=op)))
    # Those of the stream of the TSM repository: its blocks 2, 4, 5, 7, 8, 9, 11, 12, 14 and 15.
    shifted = [n for n, block in enumerate(blocks.values()) if block.temporal_op is not None]
    assert shifted == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]
    assert made == [24, 32, 32, 64, 64, 64, 96, 96, 160, 160]


def test_a_shift_needs_all_frames_of_a_clip():
    model = nnx.eval_shape(lambda: create_model("tsm_mobilenetv2", num_classes=5, num_segments=4))
    assert (model.num_segments, model.sees_frames) == (4, False)
    assert model.head.dropout_rate == 0.5
    assert nnx.eval_shape(lambda: create_model("tsn_mobilenetv2", num_classes=5)).sees_frames


def test_frozen_stages():
    frozen = {
        path for path, leaf in variables(abstract(frozen_stages=4)).items() if type(leaf) is Frozen
    }
    parts = {path.partition("/")[0] for path in frozen}
    assert parts == {"conv1", "bn1", *(f"layer{n}" for n in range(1, 6))}
    whole = variables(abstract(frozen_stages=5))
    assert all(p.endswith(("mean", "var")) or type(v) is Frozen for p, v in whole.items())


def test_partial_bn_leaves_only_the_first_norm_alive():
    found = variables(abstract(partial_bn=True))
    scales = {path: type(leaf) is Frozen for path, leaf in found.items() if path.endswith("scale")}
    assert len(scales) == 52
    assert [path for path, frozen in scales.items() if not frozen] == ["bn1/scale"]
    assert not any(type(leaf) is Frozen for p, leaf in found.items() if p.endswith("kernel"))


@pytest.mark.thorough
def test_training_reaches_all_parameters_and_statistics(filled, gradients):
    model = filled(tiny())
    found = gradients(model, draw(4, 32, 32, 3))
    assert found.keys() == {p for p in variables(model) if not p.endswith(("mean", "var"))}
    for path, gradient in found.items():
        assert np.isfinite(gradient).all() and np.any(gradient != 0), path


@pytest.mark.thorough
def test_bfloat16_is_close_to_float32(filled):
    run = nnx.jit(lambda model, x: model(x))
    low, high = (
        run(filled(tiny(dtype=dtype)), draw(2, 32, 32, 3)) for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert {f.dtype for f in low} == {jnp.dtype("bfloat16")}
    for a, b in zip(low, high, strict=True):
        assert np.abs(np.asarray(a, np.float32) - b).max() < 5e-2 * np.abs(b).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(width_factor=0.0), r"width_factor=0\.0"),
        (dict(width_factor=64), "width_factor=64"),
        (dict(frozen_stages=6), r"frozen_stages=6 .* -1\.\.5"),
        (dict(remat=6), r"remat=6 .* 0\.\.5"),
        (dict(temporal=TemporalHook(op=None, shift_place="block")), "shift_place='block'"),
        (dict(temporal=TemporalHook(op=None, shift_every=2)), "shift_every=2"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MobileNetV2(rngs=nnx.Rngs(0), **options)
