"""Names of the weights of BN-Inception, DenseNet and Swin in all their publications."""

import functools
import re

import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.convert import variables
from trn_jax.convert.image_name_tables import CLASSIFIER
from trn_jax.convert.name_tables import NAME_TABLES


def abstract(name, **options):
    return nnx.eval_shape(lambda: create_model(name, num_classes=5, **options))


@functools.cache
def tiny_graph(name):
    small = {
        "trn_bninception": dict(width=2),
        "tsn_densenet161": dict(growth=2, width=4),
        "tsn_swin_base": dict(width=4, head_channels=2, window=2),
    }
    return nnx.split(abstract(name, **small[name]))


def tiny(name):
    return nnx.merge(*tiny_graph(name))


def numbered(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def state_dict(model, manifest):
    """Random tensors with the recorded names and the shapes that our tiny model should have."""
    targets = variables(model)
    source = max(
        NAME_TABLES, key=lambda s: sum(path_of(n, NAME_TABLES[s]) is not None for n in manifest)
    )
    state = {}
    for seed, name in enumerate(manifest):
        shape = list(targets[leaf_path(name, NAME_TABLES[source], targets)].shape)
        if re.search(r"relative_position_bias_table$", name) is None:
            shape = shape[::-1] if len(shape) == 2 else shape
            shape = [shape[i] for i in (3, 2, 0, 1)] if len(shape) == 4 else shape
        state[name] = numbered(shape, seed)
    return state


def path_of(name, table):
    layer = name.rpartition(".")[0]
    return next((re.sub(p, r, layer) for p, r in table if re.fullmatch(p, layer)), None)


def leaf_path(name, table, targets):
    leaves = {"weight": ("scale", "kernel"), "running_mean": ("mean",), "running_var": ("var",)}
    leaf = name.rpartition(".")[2]
    paths = [f"{path_of(name, table)}/{ours}" for ours in leaves.get(leaf, (leaf,))]
    return next(path for path in paths if path in targets)


CASES = {
    "trn_bninception": "trn_bninception_multiscale",
    "tsn_densenet161": "tsn_densenet161",
    "tsn_swin_base": "tsn_swin_base",
}


@pytest.fixture(params=CASES)
def foreign(request, golden):
    """A model's name, and weights for its tiny form as the reference names them."""
    manifest = [entry[0] for entry in golden(f"cases/{CASES[request.param]}")["manifest"]]
    manifest = [name for name in manifest if not name.endswith("num_batches_tracked")]
    return request.param, state_dict(tiny(request.param), manifest)


def loaded(name, state, source="auto"):
    model = tiny(name)
    convert.load_state_dict(model, state, source=source)
    return {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}


def wrapped_by_several_gpus(name):
    return f"module.{name}"


def published_by_torchvision(name):
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name)


def merged_at_the_end(name):
    """Timm before 0.9: patches are merged at the end of a stage."""
    return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)


VARIANTS = {
    "trn_bninception": (wrapped_by_several_gpus, "trn"),
    "tsn_densenet161": (published_by_torchvision, "mmaction2"),
    "tsn_swin_base": (merged_at_the_end, "mmaction2_swin_old"),
}


@pytest.mark.slow
def test_every_publication_gives_the_same_model(foreign):
    name, state = foreign
    expected = loaded(name, state)
    rename, source = VARIANTS[name]
    other = {rename(key): value for key, value in state.items()}
    assert other.keys() != state.keys()
    # What the old files have besides parameters.
    other["backbone.layers.0.blocks.1.attn_mask"] = np.zeros(1)
    other["backbone.layers.0.blocks.1.attn.relative_position_index"] = np.zeros(1, int)
    for chosen in ("auto", source):
        for path, value in loaded(name, other, chosen).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_files_without_a_head_use_the_same_names():
    for whole, part, prefix in (
        ("mmaction2", "torchvision_densenet", r"backbone\."),
        ("mmaction2", "timm_swin", r"backbone\."),
        ("mmaction2_swin_old", "timm_swin_old", r"backbone\."),
        ("trn", "bninception", r"base_model\."),
    ):
        rows = {(prefix + p, ours) for p, ours in NAME_TABLES[part] if ours not in ("", CLASSIFIER)}
        assert rows <= set(NAME_TABLES[whole])


@pytest.mark.thorough
def test_the_first_kernel_of_bninception_changes_to_rgb(golden):
    manifest = [entry[0] for entry in golden("cases/trn_bninception_multiscale")["manifest"]]
    manifest = [name for name in manifest if not name.endswith("num_batches_tracked")]
    state = state_dict(tiny("trn_bninception"), manifest)
    found = loaded("trn_bninception", state)
    blue_first = state["base_model.conv1_7x7_s2.weight"]
    np.testing.assert_array_equal(
        found["backbone/conv1_7x7_s2/conv/kernel"][:, :, 0], blue_first[:, 2].transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(
        found["backbone/conv2_3x3/conv/kernel"],
        state["base_model.conv2_3x3.weight"].transpose(2, 3, 1, 0),
    )
    first_mmaction = {
        f"backbone.{name.removeprefix('base_model.')}": value
        for name, value in state.items()
        if name.startswith("base_model.") and "new_fc" not in name
    }
    model = tiny("trn_bninception")
    convert.load_state_dict(
        model, first_mmaction, source="mmaction_bninception", backbone_only=True
    )
    for path, leaf in variables(model).items():
        if path.startswith("backbone/"):
            np.testing.assert_array_equal(leaf[...], found[path], err_msg=path)


@pytest.mark.thorough
def test_position_biases_are_not_transposed(golden):
    manifest = [entry[0] for entry in golden("cases/tsn_swin_base")["manifest"]]
    state = state_dict(tiny("tsn_swin_base"), manifest)
    found = loaded("tsn_swin_base", state)
    table = "backbone.layers.2.blocks.17.attn.relative_position_bias_table"
    assert state[table].shape == (9, 8)
    path = "backbone/layers/2/17/attn/relative_position_bias_table"
    np.testing.assert_array_equal(found[path], state[table])
