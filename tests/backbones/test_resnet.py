"""ResNets: shapes and sizes of the torchvision ones, and what their options freeze or change."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.backbones.resnet import BasicBlock, Bottleneck, ResNet, ResNeXtBottleneck
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Frozen, Linear
from trn_jax.nn.pooling import max_pool

RESNETS = [name for name in BACKBONES if name.startswith("resnet")]
BASIC = ("resnet10", "resnet18", "resnet34")
ALL = [name for name in BACKBONES if name.startswith("resn")]  # ResNets and ResNeXts


def build(name="resnet10", **options):
    return nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0), **options))


abstract = cache(build)


def fill(model):
    """Give an abstract model numbers from NumPy: compiling `jax.random` takes far longer."""
    rng = np.random.default_rng(0)
    for path, leaf in variables(model).items():
        value = rng.normal(0, 0.5, leaf.shape)
        value = np.abs(value) + 0.5 if path.endswith("var") else value
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model


def tiny(**options):
    return fill(build(width=4, **options))


def draw(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def stage_features(model, shape):
    frames = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda model, frames: model(frames), model, frames)


def norms(model):
    """The batch norms by path, without the names of their variables."""
    return {p.rpartition("/")[0] for p in variables(model) if p.endswith("/mean")}


@pytest.mark.by_default("resnet18", "resnet50", "resnext14_32x4d")
@pytest.mark.parametrize("name", ALL)
def test_features_of_the_stages(name):
    model = abstract(name)
    expansion = 1 if name in BASIC else 4
    # 97 pixels: strides round up, as symmetric padding does and XLA's "VALID" would not.
    features = stage_features(model, (2, 97, 64, 3))
    assert [f.shape for f in features] == [
        (2, math.ceil(97 / 2**i), 64 // 2**i, 64 * 2 ** (i - 2) * expansion) for i in range(2, 6)
    ]
    assert model.out_channels == features[-1].shape[-1]


def test_features_at_the_published_sizes():
    assert [f.shape[1:] for f in stage_features(abstract("resnet50"), (1, 224, 224, 3))] == [
        (56, 56, 256),
        (28, 28, 512),
        (14, 14, 1024),
        (7, 7, 2048),
    ]


@pytest.mark.by_default("resnet18", "resnet50")
@pytest.mark.parametrize(
    ("name", "with_classifier", "features"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
        ("resnet152", 60_192_808, 2048),
    ],
)
def test_parameter_counts_of_torchvision(name, with_classifier, features):
    counted = sum(p.size for p in jax.tree.leaves(nnx.state(abstract(name), nnx.Param)))
    assert counted == with_classifier - (features * 1000 + 1000)


@pytest.mark.parametrize(
    ("name", "num_norms"), [("resnet18", 20), ("resnet50", 53), ("resnet101", 104)]
)
def test_number_of_batch_norms(name, num_norms):
    assert len(norms(abstract(name))) == num_norms


def test_where_the_strides_and_the_downsampling_are():
    for name in ("resnet18", "resnet50"):
        model = abstract(name)
        strided = "conv2" if name == "resnet50" else "conv1"
        for stage in range(1, 5):
            for index, block in enumerate(getattr(model, f"layer{stage}")):
                strides = {
                    layer: getattr(block, layer).stride
                    for layer in ("conv1", "conv2", "conv3")
                    if hasattr(block, layer)
                }
                halved = stage > 1 and index == 0
                assert strides == dict.fromkeys(strides, 1) | {strided: 1 + halved}
                # The first stage of a bottleneck network widens its input, that of others does not.
                widened = index == 0 and (stage > 1 or name == "resnet50")
                assert (block.downsample is not None) == widened
                if widened:
                    assert block.downsample[0].stride == 1 + halved


@pytest.mark.by_default("16")
@pytest.mark.parametrize("width", [4, 16])
def test_width_sets_the_channels_of_all_stages(width):
    for name, expansion in (("resnet10", 1), ("resnet50", 4)):
        model = abstract(name, width=width)
        features = stage_features(model, (1, 32, 32, 3))
        assert model.conv1.kernel.shape == (7, 7, 3, width)
        assert [f.shape[-1] for f in features] == [expansion * width * 2**i for i in range(4)]


def test_stem_normalises_clips_at_zero_and_pools():
    @nnx.jit
    def both(model, x):
        y = jnp.maximum(model.bn1(model.conv1(x)), 0)
        return model.stem(x), max_pool(y, 3, stride=2, padding=1)

    found, expected = both(tiny(), draw(2, 16, 16, 3))
    assert expected.shape == (2, 4, 4, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


# ResNeXt


@pytest.mark.thorough
def test_resnext_has_the_published_size():
    model = abstract("resnext101_32x4d")
    assert sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == 42_128_704
    assert variables(model).keys() == variables(abstract("resnet101")).keys()
    assert len(norms(model)) == 104


def test_resnext_differs_from_resnet_inside_its_bottlenecks():
    for stage in range(1, 5):
        inner, outer = 128 * 2 ** (stage - 1), 256 * 2 ** (stage - 1)
        for block in getattr(abstract("resnext101_32x4d"), f"layer{stage}"):
            assert block.conv1.kernel.shape[3] == inner
            assert block.conv2.kernel.shape == (3, 3, inner // 32, inner)
            assert block.conv3.kernel.shape == (1, 1, inner, outer)
            assert (block.conv1.groups, block.conv2.groups, block.conv3.groups) == (1, 32, 1)


@pytest.mark.thorough
def test_residual_branches_of_resnext_start_at_zero():
    conv = partial(Conv, rngs=nnx.Rngs(params=jax.random.key(0, impl="unsafe_rbg")))
    for kind, expected in ((Bottleneck, 1), (ResNeXtBottleneck, 0)):
        block = kind(64, 16, stride=1, conv=conv, norm=BatchNorm)
        assert np.all(np.asarray(block.bn3.scale[...]) == expected)
        assert np.all(np.asarray(block.bn2.scale[...]) == 1)


def test_resnext_needs_a_channel_in_each_group():
    assert abstract("resnext14_32x4d", width=16).layer1[0].conv2.kernel.shape == (3, 3, 1, 32)
    with pytest.raises(UserError, match=r"8 channels .* ResNeXtBottleneck; width must be .* 16"):
        build("resnext14_32x4d", width=8)


def test_resnext_convolves_its_groups_one_by_one():
    class TwoGroups(ResNeXtBottleneck):
        groups = 2
        group_width = 16

    def make():
        conv = partial(Conv, rngs=nnx.Rngs(0))
        return TwoGroups(16, 16, stride=2, conv=conv, norm=BatchNorm)

    @nnx.jit
    def both(block, x):
        y = jax.nn.relu(block.bn1(block.conv1(x)))
        y = [
            jax.lax.conv_general_dilated(
                y[..., half],
                block.conv2.kernel[...][..., half],
                (2, 2),
                [(1, 1)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            for half in (slice(0, 4), slice(4, 8))
        ]
        y = jax.nn.relu(block.bn2(jnp.concatenate(y, -1)))
        shortcut = block.downsample[1](block.downsample[0](x))
        return block(x), jax.nn.relu(block.bn3(block.conv3(y)) + shortcut)

    found, expected = both(fill(nnx.eval_shape(make)), draw(2, 6, 6, 16))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# Blocks and the temporal hook


def flip_time(x):
    return x[::-1]


@pytest.mark.parametrize("shift_place", ["blockres", "block"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block_class", [BasicBlock, Bottleneck])
def test_temporal_op_comes_before_conv1_or_the_whole_block(block_class, stride, shift_place):
    def make():
        conv = partial(Conv, rngs=nnx.Rngs(0))
        hook = TemporalHook(op=lambda channels: flip_time, shift_place=shift_place)
        channels = 8 // block_class.expansion
        return block_class(8, channels, stride=stride, conv=conv, norm=BatchNorm, temporal=hook)

    @nnx.jit
    def both(block, x):
        y = jax.nn.relu(block.bn1(block.conv1(flip_time(x))))
        y = block.bn2(block.conv2(y))
        if block_class is Bottleneck:
            y = block.bn3(block.conv3(jax.nn.relu(y)))
        x_in = flip_time(x) if shift_place == "block" else x
        shortcut = x_in if stride == 1 else block.downsample[1](block.downsample[0](x_in))
        return block(x), jax.nn.relu(y + shortcut)

    block = fill(nnx.eval_shape(make))
    assert (block.downsample is None) == (stride == 1)
    found, expected = both(block, draw(3, 4, 4, 8))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_block_has_a_temporal_op_for_the_channels_of_its_input(name):
    made = []

    def temporal_op(channels):
        made.append(channels)
        return flip_time

    model = abstract(name, width=4, temporal=TemporalHook(op=temporal_op))
    blocks = [b for stage in range(1, 5) for b in getattr(model, f"layer{stage}")]
    assert made == [block.conv1.kernel.shape[2] for block in blocks]
    assert variables(model).keys() == variables(abstract(name, width=4)).keys()


def places(depths, **options):
    """For each stage, the numbers of the blocks with a temporal op."""
    hook = TemporalHook(op=lambda channels: flip_time, **options)
    options = dict(width=4, temporal=hook)
    model = nnx.eval_shape(lambda: ResNet(BasicBlock, depths, **options, rngs=nnx.Rngs(0)))
    stages = [getattr(model, f"layer{stage}") for stage in range(1, 5)]
    return [[i for i, block in enumerate(blocks) if block.temporal_op] for blocks in stages]


@pytest.mark.thorough
def test_deep_networks_have_a_temporal_op_in_every_second_block():
    deep, shallow = (1, 2, 23, 3), (1, 2, 6, 3)
    assert places(deep) == [[0], [0], list(range(0, 23, 2)), [0, 2]]
    assert places(deep, shift_place="block") == [list(range(depth)) for depth in deep]
    assert places(shallow) == [list(range(depth)) for depth in shallow]
    assert places(shallow, shift_every=3) == [[0], [0], [0, 3], [0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(shift_place="middle"), r"shift_place='middle'.* blockres, block"),
        (dict(shift_every=0), r"shift_every=0"),
    ],
)
def test_places_that_do_not_exist_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TemporalHook(op=lambda channels: flip_time, **options)


# Freezing


def frozen_paths(model):
    return {path for path, leaf in variables(model).items() if type(leaf) is Frozen}


def parameter_paths(model):
    return {p for p in variables(model) if p.rpartition("/")[2] not in ("mean", "var")}


def changed_statistics(model):
    """The batch norms whose running statistics a training step changes."""
    before = {path: np.array(leaf[...]) for path, leaf in variables(model).items()}
    nnx.jit(lambda model, x: model(x, train=True))(model, draw(2, 32, 32, 3))
    changed = {p for p, leaf in variables(model).items() if np.any(leaf[...] != before[p])}
    found = {path.rpartition("/")[0] for path in changed}
    assert changed == {f"{norm}/{leaf}" for norm in found for leaf in ("mean", "var")}
    return found


@pytest.mark.parametrize("stages", [-1, 0, 1, 4])
def test_frozen_stages_are_the_stem_and_the_first_stages(stages):
    model = abstract(frozen_stages=stages)
    prefixes = [f"layer{i}/" for i in range(1, stages + 1)]
    prefixes += ["conv1/", "bn1/"] if stages >= 0 else []
    assert frozen_paths(model) == {
        p for p in parameter_paths(model) if p.startswith(tuple(prefixes))
    }


def test_frozen_stages_freeze_their_temporal_ops():
    def temporal_op(channels):
        return Linear(channels, channels, rngs=nnx.Rngs(0))

    hook = TemporalHook(op=temporal_op)
    model = abstract(width=4, temporal=hook, frozen_stages=2)
    found = {path for path in frozen_paths(model) if "temporal_op" in path}
    leaves = ("kernel", "bias")
    assert found == {f"layer{i}/0/temporal_op/{leaf}" for i in (1, 2) for leaf in leaves}
    assert set(variables(model)) == set(variables(abstract(width=4, temporal=hook)))


@pytest.mark.thorough
def test_frozen_stages_keep_their_statistics():
    model = tiny(frozen_stages=2)
    frozen = {n for n in norms(model) if n == "bn1" or n.startswith(("layer1/", "layer2/"))}
    assert changed_statistics(model) == norms(model) - frozen
    assert 0 < len(frozen) < len(norms(model))


def test_partial_bn_leaves_only_the_first_norm_alive():
    model = tiny(partial_bn=True)
    frozen = norms(model) - {"bn1"}
    assert frozen_paths(model) == {f"{n}/{leaf}" for n in frozen for leaf in ("scale", "bias")}
    assert changed_statistics(model) == {"bn1"}


@pytest.mark.parametrize("stages", [-2, 5])
def test_frozen_stages_out_of_range_are_refused(stages):
    with pytest.raises(UserError, match=rf"frozen_stages={stages} is not in -1\.\.4"):
        abstract(frozen_stages=stages)


# Dtypes


@pytest.mark.by_default("resnet10")
@pytest.mark.parametrize("name", ["resnet10", "resnet50", "resnext101_32x4d"])
def test_bfloat16_computes_low_and_stores_high(name):
    model = abstract(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in variables(model).values()} == {jnp.dtype("float32")}
    features = stage_features(model, (1, 64, 64, 3))
    assert {f.dtype for f in features} == {jnp.dtype("bfloat16")}
