"""MobileOne: its published sizes and shapes, and that both of its forms give the same scores."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_models import filled
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.backbones import BACKBONES
from trn_jax.backbones.mobileone import MobileOneBlock, SqueezeExcite, reparameterize
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.nn.layers import BatchNorm

pytestmark = pytest.mark.thorough


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def abstract(name="mobileone_tiny", **options):
    return nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0), **options))


def recognizer(backbone="mobileone_tiny", **options):
    options = dict(num_classes=5, backbone=backbone) | options
    return nnx.eval_shape(lambda: create_model("tsn_mobileone_s4", **options))


def frames(*shape):
    return draw(*shape, seed=99)


@nnx.jit(static_argnames="train")
def run(model, x, *, train=False):
    return model(x, train=train)


def close(actual, expected, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


# Sizes and shapes


@pytest.mark.parametrize("deploy", [False, True])
def test_features_of_the_stages(deploy):
    model = abstract("mobileone_s4", deploy=deploy)
    x = jax.ShapeDtypeStruct((2, 224, 193, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), model, x)
    sides = [(56, 49), (28, 25), (14, 13), (7, 7)]
    assert [f.shape[1:3] for f in features] == sides
    assert tuple(f.shape[3] for f in features) == model.stage_channels == (192, 448, 896, 2048)
    assert model.out_channels == 2048
    assert not model.sees_clips


@pytest.mark.parametrize(
    ("deploy", "backbone", "whole"),
    [(False, 12_902_248, 13_721_848), (True, 12_789_352, 13_608_952)],
)
def test_parameter_counts_of_the_published_models(deploy, backbone, whole):
    model = recognizer("mobileone_s4", num_classes=400, deploy=deploy)
    for part, expected in ((model.backbone, backbone), (model, whole)):
        assert sum(p.size for p in jax.tree.leaves(nnx.state(part, nnx.Param))) == expected


def test_where_the_branches_and_the_squeezes_are():
    model = abstract("mobileone_s4")
    assert [len(getattr(model, f"stage{i}")) for i in range(1, 5)] == [4, 16, 20, 2]
    for stage, squeezed in zip(range(1, 5), (0, 0, 10, 2), strict=True):
        blocks = getattr(model, f"stage{stage}")
        for index, block in enumerate(blocks):
            conv = block.branch_conv_list[0].conv
            in_channels, out_channels = conv.kernel.shape[2] * conv.groups, conv.kernel.shape[3]
            depthwise = index % 2 == 0
            assert conv.groups == (in_channels if depthwise else 1)
            assert conv.kernel.shape[0] == (3 if depthwise else 1)
            assert conv.stride == (2 if index == 0 else 1)
            kept = conv.stride == 1 and in_channels == out_channels
            assert (block.branch_norm is not None) == kept
            assert (block.branch_scale is not None) == depthwise
            assert (block.se is not None) == (index >= len(blocks) - squeezed)
    assert model.stage3[10].se.conv1.kernel.shape == (1, 1, 896, 56)
    assert model.stage4[1].se.conv1.kernel.shape == (1, 1, 2048, 128)


def test_squeeze_excite_by_hand():
    layer = filled(nnx.eval_shape(lambda: SqueezeExcite(4, dtype=jnp.float32, rngs=nnx.Rngs(0))))
    x = draw(2, 3, 5, 4)
    weights = [np.asarray(c.kernel[...])[0, 0] for c in (layer.conv1, layer.conv2)]
    biases = [np.asarray(c.bias[...]) for c in (layer.conv1, layer.conv2)]
    assert weights[0].shape == (4, 8)
    hidden = np.maximum(x.mean((1, 2)) @ weights[0] + biases[0], 0)
    factor = 1 / (1 + np.exp(-(hidden @ weights[1] + biases[1])))
    close(nnx.jit(lambda layer, x: layer(x))(layer, x), x * factor[:, None, None])


def test_a_block_is_the_sum_of_its_branches():
    def make():
        return MobileOneBlock(4, 4, 3, groups=4, squeeze_excite=True, rngs=nnx.Rngs(0))

    @nnx.jit
    def both(block, x):
        y = block.branch_norm(x)
        for branch in (block.branch_scale, block.branch_conv_list[0]):
            y += branch.norm(branch.conv(x))
        return block(x), jax.nn.relu(block.se(y))

    found, expected = both(filled(nnx.eval_shape(make)), draw(2, 5, 5, 4))
    close(found, expected)


# The two forms


@pytest.mark.parametrize(
    "options",
    [
        dict(kernel_size=3, groups=8),
        dict(kernel_size=3, groups=8, stride=2),
        dict(kernel_size=1),
        dict(kernel_size=3, groups=2, num_convs=3),
        dict(kernel_size=5),
    ],
)
def test_fused_blocks_do_the_same(options):
    block = filled(nnx.eval_shape(lambda: MobileOneBlock(8, 8, rngs=nnx.Rngs(0), **options)))
    fused = reparameterize(block)
    x = draw(2, 5, 6, 8)
    close(run_block(fused, x), run_block(block, x))
    assert set(variables(fused)) == {"branch_reparam/kernel", "branch_reparam/bias"}


@nnx.jit
def run_block(block, x):
    return block(x)


@pytest.mark.slow
def test_reparameterized_models_score_the_same():
    model = filled(recognizer())
    # Statistics of a few steps of training, on top of the random ones.
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 24, 24, 3), np.uint8)
    train = nnx.jit(lambda model, clips: model(clips, train=True, rngs=nnx.Rngs(0)))
    for _ in range(3):
        train(model, clips)
    before = {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}
    fused = nnx.jit(reparameterize)(model)
    score = nnx.jit(lambda model, clips: model(clips))
    expected = np.asarray(score(model, clips))
    close(score(fused, clips), expected)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    for path, leaf in variables(model).items():  # the given model stays as it was
        np.testing.assert_array_equal(leaf[...], before[path])
    assert not any(isinstance(m, BatchNorm) for _, m in nnx.iter_modules(fused))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["mobileone_tiny", "mobileone_s4"])
def test_reparameterized_models_are_those_built_for_deployment(backbone):
    fused = nnx.eval_shape(reparameterize, recognizer(backbone))
    built = recognizer(backbone, deploy=True)
    assert nnx.graphdef(fused) == nnx.graphdef(built)
    shapes = [{p: (v.shape, v.dtype) for p, v in variables(m).items()} for m in (fused, built)]
    assert shapes[0] == shapes[1]


@pytest.mark.slow
def test_there_must_be_something_to_reparameterize():
    for model in (recognizer(deploy=True), recognizer("resnet10")):
        with pytest.raises(UserError, match="no MobileOne block in train form: other backbones"):
            reparameterize(model)


# Training, time and precision


@pytest.mark.slow
def test_training_moves_all_statistics_and_reaches_all_parameters():
    model = filled(abstract())
    before = {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}

    @nnx.jit
    def gradients(model, x):
        return nnx.grad(lambda model: sum(jnp.sum(f**2) for f in model(x, train=True)))(model)

    found = gradients(model, frames(4, 16, 16, 3))
    for path, leaf in variables(model).items():
        if path.endswith(("mean", "var")):
            assert np.any(leaf[...] != before[path]), path
    for path, gradient in variables(found).items():
        assert np.isfinite(gradient[...]).all() and np.any(gradient[...] != 0), path


@pytest.mark.slow
def test_norm_groups_are_trained_as_separate_batches():
    x = frames(4, 16, 16, 3)
    grouped = nnx.jit(lambda model, x: model(x, train=True, num_groups=2))(filled(abstract()), x)
    halves = [run(filled(abstract()), half, train=True) for half in (x[:2], x[2:])]
    close(grouped, [np.concatenate(pair) for pair in zip(*halves, strict=True)], 1e-4)


@pytest.mark.slow
def test_the_temporal_op_sees_the_whole_input_of_every_block_but_the_stem():
    made = []

    def temporal_op(channels):
        made.append(channels)
        return lambda x: x[::-1]

    model = filled(abstract(temporal=TemporalHook(op=temporal_op)))
    assert len(model.stage1) + len(model.stage2) == 6
    assert made == [8, 8, 8, 8, 16, 16]
    plain = filled(abstract())
    assert variables(model).keys() == variables(plain).keys()
    x = frames(3, 16, 16, 3)
    # Each stage reverses the order of frames an even number of times.
    close(run(model, x), run(plain, x))
    odd, even = model.stage1[0], plain.stage1[0]
    y = draw(3, 4, 4, 8)
    close(run_block(odd, y), run_block(even, y[::-1]))
    close(run(reparameterize(model), x), run(plain, x))


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True])
def test_bfloat16_is_close_to_float32(deploy):
    low, high = (filled(abstract(deploy=deploy, dtype=d)) for d in (jnp.bfloat16, jnp.float32))
    assert {leaf.dtype for leaf in variables(low).values()} == {jnp.dtype("float32")}
    x = frames(2, 32, 32, 3)
    found, expected = run(low, x), run(high, x)
    assert {f.dtype for f in found} == {jnp.dtype("bfloat16")}
    close(found, expected, 3e-2)


# Names


@pytest.mark.parametrize("wrapper", ["", ".net"])
@pytest.mark.parametrize("deploy", [False, True])
def test_published_names_are_understood(deploy, wrapper):
    shift = dict(temporal_op="tsm", num_segments=2) if wrapper else {}
    options = dict(deploy=deploy) | shift
    source, target = filled(recognizer(**options)), recognizer(**options)
    state = {}
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    for path, variable in variables(source).items():
        layer, _, leaf = path.rpartition("/")
        name = layer.replace("/", ".").replace("head.fc", "cls_head.fc_cls")
        name = re.sub(r"se\.(conv\d)", r"se.\1.conv", name)
        name = re.sub(r"(stage0|stage[1-4]\.\d+)", rf"\1{wrapper}", name)
        value = np.asarray(variable[...])
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        state[f"{name}.{leaves.get(leaf, leaf)}"] = value.transpose(axes)
    block = f"backbone.stage1.1{wrapper}."
    leaf = "branch_reparam.weight" if deploy else "branch_conv_list.0.norm.running_var"
    assert block + leaf in state
    assert f"backbone.stage2.2{wrapper}.se.conv1.conv.bias" in state
    convert.load_state_dict(target, state)
    for path, leaf in variables(source).items():
        np.testing.assert_array_equal(variables(target)[path][...], leaf[...])
