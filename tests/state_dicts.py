"""State dicts with the names of other code bases, for models of ours.

The names are written down independently of the tables under test: our path -> their name.
"""

import re

import numpy as np

from trn_jax.convert import variables

# mmaction2.
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


# torchvision, and the original repositories.
RESNET = (
    (r"backbone/(conv1|bn1)", r"\1"),
    (r"backbone/(layer\d)/(\d+)/(conv\d|bn\d)", r"\1.\2.\3"),
    (r"backbone/(layer\d)/(\d+)/downsample/(\d)", r"\1.\2.downsample.\3"),
)
TRN_PYTORCH = (
    *((ours, f"module.base_model.{theirs}") for ours, theirs in RESNET),
    (r"head/fc", "module.new_fc"),
    (r"head/relations/(\d+)/hidden", r"module.consensus.fc_fusion_scales.\1.1"),
    (r"head/relations/(\d+)/output", r"module.consensus.fc_fusion_scales.\1.3"),
)
ORIGINAL_TSM = (
    (r"backbone/(layer\d)/(\d+)/conv1", r"module.base_model.\1.\2.conv1.net"),
    *TRN_PYTORCH[:4],
)
NETS = r"backbone/(layer\d)/(\d+)/temporal_op/"
ORIGINAL_TIN = (
    (NETS + "offset_conv", r"module.base_model.\1.\2.conv1.net1.biasnet.net.conv"),
    (NETS + "offset_fc1", r"module.base_model.\1.\2.conv1.net1.biasnet.net.fc"),
    (NETS + "offset_fc2", r"module.base_model.\1.\2.conv1.net1.biasnet.net.lastlayer"),
    (NETS + "weight_conv", r"module.base_model.\1.\2.conv1.net1.weightnet.net.lastlayer"),
    (r"backbone/(layer\d)/(\d+)/conv1", r"module.base_model.\1.\2.conv1.net2"),
    *TRN_PYTORCH[:4],
)
SHIFTED = ((r"backbone/(layer\d)/(\d+)/conv1", r"backbone.\1.\2.conv1.conv.net"), *LAYERS)
INTERLACED = (
    (NETS + r"(offset|weight)_(\w+)", r"backbone.\1.\2.conv1.conv.net1.\3_net.\4"),
    (r"backbone/(layer\d)/(\d+)/conv1", r"backbone.\1.\2.conv1.conv.net2"),
    *LAYERS,
)


def state_of(model, layers, *, seed=0):
    """Random numbers for every variable, and the state dict that should give them."""
    rng = np.random.default_rng(seed)
    ours, theirs = {}, {}
    for path, leaf in variables(model).items():
        ours[path] = rng.normal(size=leaf.shape).astype(np.float32)
        layer, _, name = path.rpartition("/")
        pattern, foreign = next(pair for pair in layers if re.fullmatch(pair[0], layer))
        foreign = re.fullmatch(pattern, layer).expand(foreign)
        value = ours[path]
        if name == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        theirs[f"{foreign}.{LEAVES[name]}"] = value
    assert len(theirs) == len(ours)
    return ours, theirs


def weights_of(model, head="trn_multiscale"):
    """The same, with the names of mmaction2 for a model with this head."""
    return state_of(model, LAYERS + RELATIONS[head])


def check(model, expected, *, but=()):
    """The model has the expected values, and its own at the paths that match one of `but`."""
    for path, leaf in variables(model).items():
        kept = any(re.search(part, path) for part in but)
        np.testing.assert_array_equal(leaf[...], 7 if kept else expected[path], err_msg=path)
