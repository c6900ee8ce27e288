"""Names of the weights of MobileNetV2 in all their publications.

They are written down here from the code of their authors, independently of the tables under test.
"""

import re

import numpy as np
import pytest
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.convert import variables
from trn_jax.convert.diagnosis import describe_network
from trn_jax.errors import UserError

FIRST = {1: 1, 2: 2, 3: 4, 4: 7, 5: 11, 6: 14, 7: 17}  # block of each layer, in one sequence


def renamed(state, conv1, conv2, block, head):
    """Other names for those of mmaction2.

    Args:
        state: `{name: array}`.
        conv1: the first convolution and its norm, two names.
        conv2: the last ones.
        block: function of the numbers of a layer, of a block and of a part, whether it is the norm,
            and the wrapper of a shifted convolution.
        head: the classifier.
    """

    def rename(name):
        layer, _, leaf = name.rpartition(".")
        if match := re.fullmatch(r"backbone\.conv([12])\.(conv|bn)", layer):
            layer = (conv1, conv2)[int(match[1]) - 1][match[2] == "bn"]
        elif layer == "cls_head.fc_cls":
            layer = head
        else:
            match = re.fullmatch(r"backbone\.layer(\d)\.(\d)\.conv\.(\d)(\.net)?\.(conv|bn)", layer)
            numbers = map(int, match.groups()[:3])
            layer = block(*numbers, match[5] == "bn", match[4] or "")
        return f"{layer}.{leaf}"

    found = {rename(name): value for name, value in state.items()}
    assert len(found) == len(state)
    return found


def tsm_repository(layer, block, part, norm, wrapper):
    return f"features.{FIRST[layer] + block}.conv.{3 * part + norm}{'' if norm else wrapper}"


def torchvision(layer, block, part, norm, wrapper):
    last = part == (2 if layer > 1 else 1)
    inside = str(part + norm) if last else f"{part}.{int(norm)}"
    return f"features.{FIRST[layer] + block}.conv.{inside}"


def timm(layer, block, part, norm, wrapper):
    parts = ("conv_pw", "conv_dw", "conv_pwl") if layer > 1 else ("conv_dw", "conv_pw")
    return f"blocks.{layer - 1}.{block}.{f'bn{part + 1}' if norm else parts[part]}"


def mmpretrain(layer, block, part, norm, wrapper):
    return f"backbone.layer{layer}.{block}.conv.{part}.{'bn' if norm else 'conv'}"


ENDS = (("features.0.0", "features.0.1"), ("features.18.0", "features.18.1"))
MM_ENDS = [[f"backbone.conv{number}.{part}" for part in ("conv", "bn")] for number in (1, 2)]
# The names, the source, the model, and whether the file is of an image network.
CASES = {
    "online demo": ((*ENDS, tsm_repository, "classifier"), "tsm_mobilenetv2", "tsm", True),
    "torchvision": ((*ENDS, torchvision, "classifier.1"), "torchvision_mobilenetv2", "tsn", True),
    "timm": (
        (("conv_stem", "bn1"), ("conv_head", "bn2"), timm, "classifier"),
        "timm_mobilenetv2",
        "tsn",
        True,
    ),
    "mmpretrain": ((*MM_ENDS, mmpretrain, "head.fc"), "mmpretrain", "tsn", False),
}


def abstract(method, num_classes=400):
    return nnx.eval_shape(lambda: create_model(f"{method}_mobilenetv2", num_classes=num_classes))


@pytest.fixture(scope="module")
def published(golden):
    """Every tensor of mmaction2's file, full of its own number; and where they go."""
    manifest = golden("cases/tsm_mobilenetv2")["manifest"]
    shapes = {name: shape for name, shape, _ in manifest if not name.endswith("tracked")}
    state = {
        name: np.full(shape, number, np.float32)
        for number, (name, shape) in enumerate(shapes.items())
    }
    return state, loaded("tsm", state)


def loaded(method, state, **options):
    model = abstract(method)
    rows = convert.load_state_dict(model, state, **options)
    assert not convert.unread(state, rows)
    found = {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}
    assert len({value.flat[0] for value in found.values()}) == len(found) == len(state)
    return {path: value.flat[0] for path, value in found.items()}


def test_names_of_mmaction2(published):
    state, found = published
    names = {value.flat[0]: name for name, value in state.items()}
    for path, name in (
        ("layer2/1/expand/conv/kernel", "layer2.1.conv.0.net.conv.weight"),
        ("layer1/0/project/bn/mean", "layer1.0.conv.1.bn.running_mean"),
        ("layer7/0/depthwise/bn/scale", "layer7.0.conv.1.bn.weight"),
    ):
        assert names[found[f"backbone/{path}"]] == f"backbone.{name}"
    assert names[found["backbone/conv2/conv/kernel"]] == "backbone.conv2.conv.weight"
    assert names[found["backbone/bn1/var"]] == "backbone.conv1.bn.running_var"


@pytest.mark.parametrize("case", CASES)
def test_every_publication_gives_the_same_model(published, case):
    state, expected = published
    names, source, method, image = CASES[case]
    theirs = renamed(state, *names)
    assert loaded(method, theirs, take_classifier=image) == expected
    assert loaded(method, theirs, take_classifier=image, source=source) == expected


def test_names_of_the_tsm_repository(published):
    state, expected = published
    ends = [[f"module.base_model.{name}" for name in names] for names in ENDS]

    def block(*numbers):
        return f"module.base_model.{tsm_repository(*numbers)}"

    theirs = renamed(state, *ends, block, "module.new_fc")
    assert "module.base_model.features.3.conv.0.net.weight" in theirs
    assert "module.base_model.features.2.conv.0.weight" in theirs
    assert loaded("tsm", theirs) == expected
    shapes = {name.removeprefix("module."): value.shape for name, value in theirs.items()}
    assert describe_network(shapes) == "TSM on MobileNetV2 with 400 classes"
    with pytest.raises(UserError, match="shifts frames, the model does not"):
        convert.load_state_dict(abstract("tsn"), theirs)
    without = {name.replace(".net.", "."): value for name, value in theirs.items()}
    assert loaded("tsn", without) == expected
    with pytest.raises(UserError, match="does not shift frames, the model does"):
        convert.load_state_dict(abstract("tsm"), without)
    del theirs["module.base_model.features.3.conv.0.net.weight"]
    theirs["module.base_model.features.3.conv.0.weight"] = state[
        "backbone.layer2.1.conv.0.net.conv.weight"
    ]
    with pytest.raises(UserError, match="9 blocks, the model in 10"):
        convert.load_state_dict(abstract("tsm"), theirs)
