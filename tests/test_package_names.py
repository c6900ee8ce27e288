"""Names and shapes of image networks, written down from the packages."""

import functools
import math
import re

import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.convert import variables
from trn_jax.convert.image_name_tables import CLASSIFIER
from trn_jax.convert.layout import rearranged
from trn_jax.convert.name_tables import EXAMPLES, NAME_TABLES
from trn_jax.convert.recognition import layer, recognise

CASES = {
    "torchvision swin_b": ("torchvision_swin", "tsn_swin_base"),
    "torchvision mobilenet_v2": ("torchvision_mobilenetv2", "tsn_mobilenetv2"),
    "timm mobilenetv2_100": ("timm_mobilenetv2", "tsn_mobilenetv2"),
    "timm mobileone_s4": ("timm_mobileone", "tsn_mobileone_s4"),
    "timm mobileone_s4 deployed": ("timm_mobileone", "tsn_mobileone_s4"),
    "transformers resnet18": ("hugging_face_resnet", "tsn_resnet18"),
    "transformers resnet50": ("hugging_face_resnet", "tsn_resnet50"),
    "transformers swin": ("hugging_face_swin", "tsn_swin_base"),
    "mmpretrain densenet161": ("mmpretrain_densenet", "tsn_densenet161"),
    "mmpretrain swin": ("mmpretrain", "tsn_swin_base"),
}


def names(tree):
    """Names and shapes in a tree of their components; "0-5" stands for six of the same."""
    if isinstance(tree, list):
        return {"": tree}
    found = {}
    for key, inner in tree.items():
        first, _, last = key.partition("-")
        keys = range(int(first), int(last) + 1) if last else [key]
        inside = names(inner)
        found |= {f"{k}.{name}".rstrip("."): shape for k in keys for name, shape in inside.items()}
    return found


@functools.cache
def layers(model, **options):
    """The sizes of all variables of our model, sorted, by layer."""
    built = nnx.eval_shape(lambda: create_model(model, num_classes=1000, **options))
    return grouped((p.rpartition("/")[0], math.prod(v.shape)) for p, v in variables(built).items())


def grouped(pairs):
    found = {}
    for name, size in pairs:
        found.setdefault(name, []).append(size)
    return {name: sorted(sizes) for name, sizes in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_name_has_its_place(golden, name):
    source, model = CASES[name]
    shapes = names(golden("package_names")[name])
    state = rearranged({n: np.broadcast_to(np.float32(1), shape) for n, shape in shapes.items()})
    found = recognise({n: value.size for n, value in state.items()})
    assert found.source == source
    plain = {n: state[foreign] for foreign, n in found.names.items()}
    assert convert.num_classes({n: np.shape(value) for n, value in plain.items()}) == 1000
    theirs = grouped((layer(n, source), value.size) for n, value in plain.items())
    theirs["head/fc"] = theirs.pop(CLASSIFIER, theirs.get("head/fc"))
    assert theirs == layers(model, **(dict(deploy=True) if "deployed" in name else {}))


def test_the_hub_s_names_of_swin(golden):
    """transformers renames the tensors of the hub's files when it reads them."""
    shapes = names(golden("package_names")["transformers swin"])
    older = (
        (r"attention\.([qkv])_proj", lambda m: "attention.self." + HUB[m[1]]),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"attention\.relative_position_bias\.", "attention.self."),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    )
    found = {}
    for now, shape in shapes.items():
        name = now
        for pattern, replacement in older:
            name = re.sub(pattern, replacement, name)
        found[name] = np.broadcast_to(np.float32(1), shape)
    found["swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"] = np.zeros(9)
    state = rearranged(found)
    known = recognise({n: value.size for n, value in state.items()})
    theirs = grouped((layer(n, known.source), state[f].size) for f, n in known.names.items())
    theirs["head/fc"] = theirs.pop(CLASSIFIER)
    assert theirs == layers("tsn_swin_base")


HUB = {"q": "query", "k": "key", "v": "value"}


def test_query_key_and_value_become_one():
    rng = np.random.default_rng(0)
    parts = {n: rng.normal(size=(4, 3)) for n in ("query", "key", "value")}
    state = {f"a.self.{n}.weight": value for n, value in parts.items()} | {
        "b.key.weight": np.ones(2)
    }
    found = rearranged(dict(reversed(state.items())))
    assert found.keys() == {"b.key.weight", "a.self.query+key+value.weight"}
    np.testing.assert_array_equal(
        found["a.self.query+key+value.weight"], np.concatenate(list(parts.values()))
    )


def test_unfolded_patches_get_the_order_of_the_original():
    channels = 3
    x = np.random.default_rng(0).normal(size=(2, 2, channels))  # [rows, columns, channels]
    unfolded = x.transpose(2, 0, 1).reshape(-1)  # as nn.Unfold gives them
    original = np.concatenate([x[0, 0], x[1, 0], x[0, 1], x[1, 1]])
    kernel = np.random.default_rng(1).normal(size=(5, 4 * channels))
    name = "backbone.stages.0.downsample.reduction.weight"
    np.testing.assert_allclose(rearranged({name: kernel})[name] @ original, kernel @ unfolded)
    norm = "stages.2.downsample.norm.bias"
    np.testing.assert_array_equal(rearranged({norm: unfolded})[norm], original)


@pytest.mark.parametrize("source", NAME_TABLES)
def test_examples_are_names_of_their_source(source):
    assert layer(EXAMPLES[source], source)


def test_mobileone_as_apple_has_it(golden):
    shapes = names(golden("package_names")["timm mobileone_s4"])
    rules = (
        (r"^stem\.", "stage0."),
        (r"^stages\.(\d)", lambda m: f"stage{int(m[1]) + 1}"),
        (r"conv_kxk", "rbr_conv"),
        (r"conv_scale", "rbr_scale"),
        (r"\.identity\.", ".rbr_skip."),
        (r"attn\.fc1", "se.reduce"),
        (r"attn\.fc2", "se.expand"),
        (r"^head\.fc", "linear"),
    )
    found = {}
    for now, shape in shapes.items():
        name = now
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = math.prod(shape)
    known = recognise(found)
    assert known.source == "apple_mobileone"
    theirs = grouped((layer(n, known.source), found[f]) for f, n in known.names.items())
    theirs["head/fc"] = theirs.pop(CLASSIFIER)
    assert theirs == layers("tsn_mobileone_s4")
