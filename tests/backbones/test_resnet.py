"""ResNets: shapes and sizes of the torchvision ones, and what their options freeze or change."""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.backbones.layers import BatchNorm, Conv, Frozen, max_pool
from trn_jax.backbones.resnet import BasicBlock, Bottleneck
from trn_jax.convert.names import variables
from trn_jax.errors import UserError

BASIC = ("resnet10", "resnet18", "resnet34")


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


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("resnet")])
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


# Blocks and the temporal hook


def flip_time(x):
    return x[::-1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("block_class", [BasicBlock, Bottleneck])
def test_temporal_op_comes_before_conv1_and_leaves_the_shortcut_alone(block_class, stride):
    def make():
        conv = partial(Conv, rngs=nnx.Rngs(0))
        hook = dict(temporal_op=lambda channels: flip_time)
        channels = 8 // block_class.expansion
        return block_class(8, channels, stride=stride, conv=conv, norm=BatchNorm, **hook)

    @nnx.jit
    def both(block, x):
        y = jax.nn.relu(block.bn1(block.conv1(flip_time(x))))
        y = block.bn2(block.conv2(y))
        if block_class is Bottleneck:
            y = block.bn3(block.conv3(jax.nn.relu(y)))
        shortcut = x if stride == 1 else block.downsample[1](block.downsample[0](x))
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

    model = abstract(name, width=4, temporal_op=temporal_op)
    blocks = [b for stage in range(1, 5) for b in getattr(model, f"layer{stage}")]
    assert made == [block.conv1.kernel.shape[2] for block in blocks]
    assert variables(model).keys() == variables(abstract(name, width=4)).keys()


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


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_bfloat16_computes_low_and_stores_high(name):
    model = abstract(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in variables(model).values()} == {jnp.dtype("float32")}
    features = stage_features(model, (1, 64, 64, 3))
    assert {f.dtype for f in features} == {jnp.dtype("bfloat16")}
