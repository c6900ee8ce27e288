"""Names and shapes of image networks, written down from the packages."""

import functools
import math
import re

import numpy as np
import pytest
import weights
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.convert import variables
from trn_jax.convert.image_name_tables import CLASSIFIER
from trn_jax.convert.layout import fitted, rearranged
from trn_jax.convert.name_tables import EXAMPLES, NAME_TABLES
from trn_jax.convert.recognition import layer, recognise
from trn_jax.errors import UserError

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


# Networks whose tensors aren't all of one layer each.
NETWORKS = {
    "torchvision convnext_tiny": ("torchvision_convnext", "convnext_tiny"),
    "timm convnext_tiny": ("timm_convnext", "convnext_tiny"),
    "mmpretrain convnext_tiny": ("mmpretrain", "convnext_tiny"),
    "torchvision efficientnet_b0": ("torchvision_efficientnet", "efficientnet_b0"),
    "timm efficientnet_b0": ("timm_efficientnet", "efficientnet_b0"),
    "torchvision mobilenet_v3_large": ("torchvision_mobilenetv3", "mobilenetv3_large"),
    "timm mobilenetv3_large": ("timm_mobilenetv3", "mobilenetv3_large"),
    "mmpretrain mobilenetv3_large": ("mmpretrain", "mobilenetv3_large"),
    "torchvision vit_b_16": ("torchvision_vit", "vit_base"),
    "timm vit_base": ("timm_vit", "vit_base"),
    "mmpretrain vit_base": ("mmpretrain", "vit_base"),
    "torchvision inception_v3": ("inceptionv3", "inceptionv3"),
}


@pytest.mark.by_default(
    "torchvision convnext", "timm mobilenetv3", "mmpretrain mobilenetv3", "vit_b"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_has_its_variable(name, golden):
    source, model = NETWORKS[name]
    shapes = names(golden("package_names")[name])
    state = {n: np.broadcast_to(np.float32(1), shape) for n, shape in shapes.items()}
    found = recognise({n: value.size for n, value in state.items()})
    assert found.source == source
    assert (
        convert.num_classes({n: state[foreign].shape for foreign, n in found.names.items()}) == 1000
    )
    built = nnx.eval_shape(lambda: create_model(f"tsn_{model}", num_classes=1000))
    targets = variables(built)
    places = [
        (convert.our_path(plain, source, targets), state[foreign])
        for foreign, plain in found.names.items()
    ]
    places = [(path.replace(CLASSIFIER, "head/fc"), value) for path, value in places if path != ""]
    assert sorted(path for path, _ in places) == sorted(targets)
    for path, value in places:
        assert fitted(value, path, targets[path].shape).shape == targets[path].shape


@pytest.mark.by_default("timm mobilenet")
@pytest.mark.parametrize(
    "name", [n for n in NETWORKS if re.match(r"(torchvision|timm) (convnext|mobile)", n)]
)
def test_parts_that_are_named_like_a_classifier_belong_to_the_backbone(name, golden):
    shapes = names(golden("package_names")[name])
    state = {n: np.broadcast_to(np.float32(1), shape) for n, shape in shapes.items()}
    options = dict(norm_epsilon=1e-5) if name == "timm mobilenetv3_large" else {}
    build = functools.partial(create_model, f"tsn_{NETWORKS[name][1]}", num_classes=0)
    model = nnx.eval_shape(lambda: build(**options))
    rows = convert.load_state_dict(model, state, backbone_only=True)
    unread = set(state) - {foreign for foreign, _, _ in rows}
    assert len(unread) == 2 and {n.rpartition(".")[2] for n in unread} == {"weight", "bias"}
    if options:
        other = nnx.eval_shape(build)
        with pytest.raises(UserError, match=r"norm_epsilon=1e-05"):
            convert.load_state_dict(other, state, backbone_only=True)


@pytest.mark.by_default("mobilenet", slow=("convnext", "vit", "inception", "efficientnet"))
@pytest.mark.parametrize(
    "name",
    [name for name in NETWORKS if name.startswith("torchvision ")],
)
def test_logits_are_those_of_torchvision(name, golden):
    expected = golden("image_logits")[name]
    shapes = names(golden("package_names")[name])
    # Attention has biases that are no `bias` of a layer.
    manifest = [(n.replace("in_proj_", "in_proj."), s, "float32") for n, s in shapes.items()]
    state = weights.deterministic_state_dict(manifest, expected["seed"])
    state = {n.replace("in_proj.", "in_proj_"): value for n, value in state.items()}
    pixels = expected["pixels"]
    clips = weights.deterministic_clip((1, 1, pixels, pixels, 3), expected["clip_seed"])
    build = functools.partial(create_model, f"tsn_{NETWORKS[name][1]}", num_classes=1000)
    model = nnx.eval_shape(lambda: build(num_segments=1))
    convert.load_state_dict(model, state, take_classifier=True)
    logits = np.asarray(nnx.jit(lambda model, clips: model(clips))(model, clips))[0]
    largest = expected["largest"]
    assert np.abs(logits).max() == pytest.approx(largest, rel=1e-4)
    np.testing.assert_allclose(logits[:16], expected["logits"], rtol=0, atol=1e-4 * largest)


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
