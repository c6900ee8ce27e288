"""Names and layouts of foreign weights, and what is said when they do not fit."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.convert.names import variables
from trn_jax.errors import UserError

HEADS = ("tsn", "trn", "trn_multiscale")

# Our path -> mmaction2's name, written down independently of the table under test.
LAYERS = (
    (r"backbone/conv1", "backbone.conv1.conv"),
    (r"backbone/bn1", "backbone.conv1.bn"),
    (r"backbone/(layer\d)/(\d+)/conv(\d)", r"backbone.\1.\2.conv\3.conv"),
    (r"backbone/(layer\d)/(\d+)/bn(\d)", r"backbone.\1.\2.conv\3.bn"),
    (r"backbone/(layer\d)/(\d+)/downsample/0", r"backbone.\1.\2.downsample.conv"),
    (r"backbone/(layer\d)/(\d+)/downsample/1", r"backbone.\1.\2.downsample.bn"),
    (r"head/fc", "cls_head.fc_cls"),
)
RELATIONS = {
    "trn": (
        (r"head/relations/0/hidden", "cls_head.consensus.classifier.1"),
        (r"head/relations/0/output", "cls_head.consensus.classifier.3"),
    ),
    "trn_multiscale": (
        (r"head/relations/(\d+)/hidden", r"cls_head.consensus.fc_fusion_scales.\1.1"),
        (r"head/relations/(\d+)/output", r"cls_head.consensus.fc_fusion_scales.\1.3"),
    ),
    "tsn": (),
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
LEAVES |= {"mean": "running_mean", "var": "running_var"}


def abstract(head="trn_multiscale", backbone="resnet50", dtype="float32"):
    options = dict(num_classes=5, num_segments=4, width=4, backbone=backbone, dtype=dtype)
    return nnx.eval_shape(lambda: create_model("trn_resnet50", head=head, **options))


def foreign_name(path, head):
    layer, _, leaf = path.rpartition("/")
    names = {
        match.expand(name)
        for pattern, name in LAYERS + RELATIONS[head]
        if (match := re.fullmatch(pattern, layer))
    }
    (name,) = names
    return f"{name}.{LEAVES[leaf]}"


def foreign_layout(value):
    """PyTorch's layout: output channels first."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    return value.transpose(axes[value.ndim]) if value.ndim in axes else value


def weights_of(model, head="trn_multiscale"):
    """Random numbers for every variable, and the state dict that should give them."""
    rng = np.random.default_rng(0)
    ours = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in variables(model).items()
    }
    theirs = {foreign_name(path, head): foreign_layout(value) for path, value in ours.items()}
    assert len(theirs) == len(ours)
    return ours, theirs


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("head", HEADS)
def test_every_name_is_mapped_and_every_tensor_arrives(head, backbone):
    model = abstract(head, backbone)
    ours, theirs = weights_of(model, head)
    convert.load_state_dict(model, theirs, source="mmaction2")
    for path, leaf in variables(model).items():
        np.testing.assert_array_equal(np.asarray(leaf[...]), ours[path], err_msg=path)


def test_names_of_published_checkpoints():
    _, theirs = weights_of(abstract())
    shapes = {name: value.shape for name, value in theirs.items()}
    assert shapes["backbone.conv1.conv.weight"] == (4, 3, 7, 7)
    assert shapes["backbone.conv1.bn.running_var"] == (4,)
    assert shapes["backbone.layer1.0.conv3.conv.weight"] == (16, 4, 1, 1)
    assert shapes["backbone.layer2.0.downsample.conv.weight"] == (32, 16, 1, 1)
    assert shapes["backbone.layer4.2.conv2.bn.running_mean"] == (32,)
    assert shapes["cls_head.fc_cls.weight"] == (256, 128)
    assert shapes["cls_head.consensus.fc_fusion_scales.0.1.weight"] == (256, 4 * 256)
    assert shapes["cls_head.consensus.fc_fusion_scales.2.3.bias"] == (5,)


def test_counters_preprocessing_and_copies_are_ignored_and_the_source_is_recognised():
    model = abstract()
    ours, theirs = weights_of(model)
    theirs["backbone.conv1.bn.num_batches_tracked"] = np.array(7)
    theirs["data_preprocessor.mean"] = np.zeros((3, 1, 1))
    theirs["cls_head.new_cls.weight"] = np.zeros((5, 4, 1, 1, 1))
    convert.load_state_dict(model, theirs)
    kernel = variables(model)["backbone/conv1/kernel"]
    np.testing.assert_array_equal(kernel[...], ours["backbone/conv1/kernel"])


def test_values_take_the_dtype_of_the_parameters():
    model = abstract(dtype="bfloat16")
    _, theirs = weights_of(model)
    halves = {name: value.astype(np.float16) for name, value in theirs.items()}
    convert.load_state_dict(model, halves)
    assert {leaf.dtype for leaf in variables(model).values()} == {jnp.dtype("float32")}


def test_all_problems_are_reported_at_once_and_nothing_is_loaded():
    model = abstract()
    ours, theirs = weights_of(model)
    convert.load_state_dict(model, theirs)
    broken = {name: value + 1 for name, value in theirs.items()}
    del broken["backbone.layer3.1.conv2.bn.running_var"]
    broken["cls_head.fc_cls.weight"] = np.zeros((128, 256))  # the right size, but transposed
    broken["backbone.layer5.0.conv1.conv.weight"] = np.zeros((1, 2, 3, 4))
    broken["backbone.conv1.conv.bias"] = np.zeros(4)
    broken["fc.weight"] = np.zeros((2, 3))
    with pytest.raises(UserError) as caught:
        convert.load_state_dict(model, broken)
    first, *problems = str(caught.value).splitlines()
    assert first == "the mmaction2 weights do not fit the model, 5 problems:"
    assert sorted(line.strip() for line in problems) == [
        "cls_head.fc_cls.weight has shape (256, 128), head/fc/kernel needs (128, 256)",
        "missing backbone/layer3/1/bn2/var",
        "unexpected backbone.conv1.conv.bias (4,)",
        "unexpected backbone.layer5.0.conv1.conv.weight (1, 2, 3, 4)",
        "unexpected fc.weight (2, 3)",
    ]
    for path, leaf in variables(model).items():
        np.testing.assert_array_equal(np.asarray(leaf[...]), ours[path], err_msg=path)


def test_weights_of_another_head_do_not_fit():
    _, theirs = weights_of(abstract("trn_multiscale"))
    with pytest.raises(UserError, match=r"unexpected cls_head\.consensus\.fc_fusion_scales"):
        convert.load_state_dict(abstract("tsn"), theirs)


def test_unknown_sources_are_refused():
    with pytest.raises(UserError, match=r"unknown source 'caffe' .*auto, mmaction2"):
        convert.load_state_dict(abstract(), {}, source="caffe")
