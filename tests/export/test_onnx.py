"""Exported models in onnxruntime against JAX."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("onnx", reason="ONNX export needs the package onnx")
pytest.importorskip("onnxruntime", reason="exported models are run in onnxruntime")

from filled_models import filled
from onnx_models import exported, operators, run, session
from small_versions import small

import trn_jax
from trn_jax import models
from trn_jax.errors import UserError
from trn_jax.export.onnx import OPSET, to_onnx

FRAMES, CLASSES, TOLERANCE = 4, 5, 1e-4
OPTIONS = {
    "one_relation": ("trn_resnet10", dict(head="trn")),
    "first_relations": ("trn_resnet10", dict(eval_relations="first")),
    "gaussian": ("tsm_resnet10", dict(non_local="gaussian")),
    "embedded_gaussian": ("tsm_resnet10", dict(non_local="embedded_gaussian")),
    "dot_product": ("tsn_resnet10", dict(non_local="dot_product")),
    "shift_whole_block": ("tsm_resnet10", dict(shift_place="block", shift_segments=2)),
    "causal": ("tsm_resnet10", dict(causal=True)),
    "parallel_flow": (
        "tpn_tsm_resnet10",
        dict(conv_groups=4, temporal_scales=(2, 4), flow="parallel"),
    ),
}


def make(name, *, num_classes=CLASSES, num_segments=FRAMES, **options):
    sizes = dict(num_classes=num_classes, num_segments=num_segments)
    return filled(nnx.eval_shape(lambda: models.create_model(name, **sizes, **options)))


def clips(count, frames, pixels, seed=0):
    shape = (count, frames, pixels, pixels, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


scored = nnx.jit(lambda model, x: model(x))
featured = nnx.jit(lambda model, x: model.features(x))


def close(found, expected, tolerance=TOLERANCE):
    expected = np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert np.isfinite(expected).all() and np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def check(model, frames, pixels, *, function=scored):
    """Compare a model of one clip, and one of any number of clips, with JAX."""
    method = {scored: lambda x: model(x), featured: model.features}[function]
    x = clips(3, frames, pixels)
    expected = np.asarray(function(model, x))
    close(run(session(exported(method, [x[:1]])), [x[:1]])[0], expected[:1])
    free = session(exported(method, [x[:1]], dynamic=True))
    for count in (1, 2, 3):
        close(run(free, [x[:count]])[0], expected[:count])


@pytest.mark.parametrize("name", trn_jax.list_models())
def test_small_versions_of_all_models_agree(name):
    options, pixels = small(name)
    check(make(name, **options), FRAMES, pixels)


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPTIONS)
def test_options_agree(name):
    name, options = OPTIONS[name]
    check(make(name, width=8, **options), FRAMES, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", trn_jax.list_models())
def test_all_models_agree_at_full_size(name):
    pixels = 299 if "inceptionv3" in name else 224
    check(make(name, num_segments=8), 8, pixels)


@pytest.mark.by_default("tsn_resnet10")
@pytest.mark.parametrize("name", ["tsn_resnet10", "tpn_tsm_resnet10", "tsn_swin_tiny"])
def test_features_agree(name):
    options, pixels = small(name)
    check(make(name, **options), FRAMES, pixels, function=featured)


@pytest.mark.by_default(1)
@pytest.mark.parametrize("name", ["tsm_resnet50", "trn_resnet50", "tsn_convnext_tiny"])
def test_half_precision(name):
    options, pixels = small(name)
    model = make(name, dtype="float16", **options)
    x = clips(2, FRAMES, pixels)
    found = run(session(exported(lambda x: model(x), [x])), [x])[0]
    # Both round to 11 bits after every layer, in different orders.
    close(found, scored(model, x), tolerance=2e-2)


# Graphs


def test_a_network_of_convolutions_has_one_transposition():
    options, pixels = small("tsm_resnet50")
    model = make("tsm_resnet50", **options)
    for dynamic in (False, True):
        found = operators(exported(lambda x: model(x), [clips(1, FRAMES, pixels)], dynamic=dynamic))
        assert found.count("Transpose") == 1 and found.index("Transpose") < found.index("Cast")
        # Batch norms and the scale of the pixels are in kernels and biases.
        assert not {"Mul", "Div", "Expand", "Identity"} & set(found)
        assert found.count("Conv") == 12 and found.count("Sub") == 1


def test_layers_become_single_operators():
    for name in ("tsn_swin_tiny", "tsn_convnext_tiny", "tsn_mobilenetv2"):
        options, pixels = small(name)
        model = make(name, **options)
        found = operators(exported(lambda x, m=model: m(x), [clips(1, FRAMES, pixels)]))
        assert not {"Exp", "Erf", "Sqrt", "Min", "ReduceSum"} & set(found)
        if name == "tsn_swin_tiny":
            assert {"Softmax", "Gelu", "LayerNormalization"} <= set(found)
            assert found.count("LayerNormalization") == 11
        if name == "tsn_mobilenetv2":
            assert "Clip" in found


def test_the_model_names_its_inputs_and_outputs():
    model = to_onnx(
        lambda x, y: (x + y, x),
        [jax.ShapeDtypeStruct((2, 3), np.float32)] * 2,
        input_names=["a", "b"],
        output_names=["sum", "same"],
    )
    assert [each.name for each in model.graph.input] == ["a", "b"]
    assert [each.name for each in model.graph.output] == ["sum", "same"]
    assert model.opset_import[0].version == OPSET
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    total, same = run(session(model), [a, b])
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(same, a)


def test_names_may_look_like_those_of_tensors():
    given = jax.ShapeDtypeStruct((3,), np.float32)
    names = dict(input_names=["constant_1"], output_names=["add_2"])
    model = to_onnx(lambda x: (jnp.sin(x) + 1) * 2 + 3, [given], **names)
    (found,) = run(session(model), [np.zeros(3, np.float32)])
    np.testing.assert_array_equal(found, np.full(3, 5, np.float32))


# Streams


@cache
def stream_of(name, pooling, **options):
    return trn_jax.streaming(make(name, width=8, **options), pooling=pooling)


@pytest.mark.by_default(1)
@pytest.mark.parametrize(
    ("name", "pooling", "options"),
    [
        ("tsm_resnet10", "window", dict(causal=True)),
        ("tsn_resnet10", "exponential", {}),
        ("tsn_resnet10", "mean", {}),
        ("trn_resnet10", "window", {}),
    ],
)
def test_streams_agree_step_by_step(name, pooling, options):
    pixels, batch = 32, 2
    stream = stream_of(name, pooling, **options)
    state = stream.init(batch, pixels)
    leaves, tree = jax.tree.flatten(state)

    def step(frames, *leaves):
        logits, state = stream.apply(stream.parameters, jax.tree.unflatten(tree, leaves), frames)
        return [logits, *jax.tree.leaves(state)]

    frames = clips(batch, 2 * FRAMES, pixels).swapaxes(0, 1)
    arrays = [frames[0], *map(np.asarray, leaves)]
    loaded = session(exported(step, arrays, dynamic=True, outputs=len(arrays)))
    carried = arrays[1:]
    for frame in frames:
        expected, state = stream.step(state, frame)
        logits, *carried = run(loaded, [frame, *carried])
        close(logits, expected)
    for found, leaf in zip(carried, jax.tree.leaves(state), strict=True):
        close(found, leaf)


# Errors


def test_an_unknown_primitive_is_named_with_its_place():
    x = np.ones((4, 4), np.float32)
    with pytest.raises(UserError, match=r"cumprod.*test_onnx\.py"):
        exported(lambda x: jax.lax.cumprod(x), [x])


def test_a_computed_branch_is_refused():
    def function(x):
        return jax.lax.cond(x[0] > 0, lambda x: x, lambda x: -x, x)

    with pytest.raises(UserError, match="cond"):
        exported(function, [np.ones(3, np.float32)])


def test_bfloat16_is_refused():
    options, pixels = small("tsn_resnet50")
    model = make("tsn_resnet50", dtype="bfloat16", **options)
    with pytest.raises(UserError, match=r"bfloat16.*float32 or float16"):
        exported(lambda x: model(x), [clips(1, FRAMES, pixels)])


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (dict(input_names=["a", "b"]), "2 input names"),
        (dict(output_names=[]), "0 output names"),
        (dict(output_names=["a"]), "repeat"),
        (dict(opset=17), "opset=17"),
    ],
)
def test_wrong_names_and_versions(changed, found):
    options = dict(input_names=["a"], output_names=["b"]) | changed
    with pytest.raises(UserError, match=found):
        to_onnx(jnp.sin, [jax.ShapeDtypeStruct((2,), np.float32)], **options)
