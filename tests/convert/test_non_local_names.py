"""Names of the weights of non-local blocks, and models and files that differ in them."""

import numpy as np
import pytest
from flax import nnx
from state_dicts import SHIFTED, state_of

from trn_jax import convert, create_model
from trn_jax.backbones.non_local import MODES
from trn_jax.convert import variables
from trn_jax.errors import UserError

# In a ResNet-10, the first blocks of two stages are wrapped.
BLOCK = r"backbone/(layer[23])/0/"
NAMES = (
    (BLOCK + r"non_local/(g|phi)", r"backbone.\1.0.non_local_block.\2.0.conv"),
    (BLOCK + r"non_local/theta", r"backbone.\1.0.non_local_block.theta.conv"),
    (BLOCK + r"non_local/(conv|bn)", r"backbone.\1.0.non_local_block.conv_out.\2"),
    *(
        (BLOCK + ours, rf"backbone.\1.0.block.{theirs}")
        for ours, theirs in (
            ("conv1", "conv1.conv.net"),
            (r"conv(\d)", r"conv\2.conv"),
            (r"bn(\d)", r"conv\2.bn"),
            ("downsample/0", "downsample.conv"),
            ("downsample/1", "downsample.bn"),
        )
    ),
    *SHIFTED,
)


def make(**options):
    return create_model("tsm_resnet10", num_classes=5, num_segments=2, width=4, **options)


def abstract(**options):
    return nnx.eval_shape(lambda: make(**options))


def with_five_axes(state):
    """Kernels of non-local blocks have a time axis in mmaction2."""
    return {
        name: value[..., None] if value.ndim == 4 and "non_local" in name else value
        for name, value in state.items()
    }


def file_of(mode):
    """The values by our paths, and a file with the names of mmaction2."""
    expected, state = state_of(abstract(non_local=mode), NAMES if mode else SHIFTED)
    return expected, with_five_axes(state)


@pytest.mark.parametrize("mode", MODES)
def test_names_of_mmaction2(mode):
    expected, state = file_of(mode)
    assert state["backbone.layer3.0.non_local_block.g.0.conv.weight"].shape == (8, 16, 1, 1, 1)
    assert "backbone.layer2.0.block.conv1.conv.net.weight" in state
    model = abstract(non_local=mode)
    convert.load_state_dict(model, state)
    for path, leaf in variables(model).items():
        np.testing.assert_array_equal(leaf[...], expected[path], err_msg=path)


def test_names_are_those_of_the_published_files(golden):
    manifest = golden("cases/tsm_r50_nl_embedded_gaussian")["manifest"]
    published = {name for name, _, _ in manifest if "layer2.0." in name and "tracked" not in name}
    _, state = file_of("embedded_gaussian")
    found = {name for name in state if "layer2.0." in name}
    third = {name for name in published if ".conv3." in name}  # of a bottleneck
    assert published - third == found


@pytest.mark.parametrize(
    ("theirs", "mine", "hint"),
    [
        ("gaussian", None, "non_local=gaussian"),
        ("dot_product", None, "non_local=embedded_gaussian or dot_product"),
        ("gaussian", "dot_product", "non_local=gaussian"),
        ("embedded_gaussian", "gaussian", "embedded_gaussian or dot_product"),
        (None, "gaussian", "--backbone-only"),
    ],
)
def test_other_blocks_than_the_model_s_are_explained(theirs, mine, hint):
    _, state = file_of(theirs)
    with pytest.raises(UserError, match=hint):
        convert.load_state_dict(abstract(non_local=mine), state)


@pytest.mark.parametrize("options", [dict(backbone_only=True), dict(reset_temporal_op=None)])
def test_weights_without_them_start_a_model_with_new_ones(options):
    expected, state = file_of(None)
    model = nnx.jit(lambda: make(non_local="gaussian"))()
    before = {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}
    convert.load_state_dict(model, state, **options)
    for path, leaf in variables(model).items():
        kept = "non_local" in path or ("head" in path and "backbone_only" in options)
        np.testing.assert_array_equal(leaf[...], (before if kept else expected)[path])


def test_a_part_of_them_is_not_enough():
    _, state = file_of("gaussian")
    model = nnx.jit(lambda: make(non_local="dot_product"))()
    with pytest.raises(UserError, match="8 missing"):
        convert.load_state_dict(model, state, backbone_only=True)
