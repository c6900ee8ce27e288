"""Folded batch norms: the same scores with fewer operations."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from filled_models import filled
from flax import nnx

import trn_jax
from trn_jax import create_model
from trn_jax.backbones.densenet import DenseNet
from trn_jax.backbones.mobileone import MobileOne
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Frozen, Linear

logits_of = nnx.jit(lambda model, clips: model(clips))


def build(name, **options):
    return filled(
        nnx.eval_shape(lambda: create_model(name, num_classes=3, num_segments=4, **options))
    )


def norms(model):
    return [part for _, part in nnx.iter_modules(model) if isinstance(part, BatchNorm)]


def clips(size=32):
    return np.random.default_rng(9).integers(0, 256, (2, 4, size, size, 3), np.uint8)


def compare(model, folded):
    expected, found = (np.asarray(logits_of(m, clips())) for m in (model, folded))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


SMALL_DENSENET = dict(depths=(2, 2), growth=4, width=8)
SMALL_MOBILEONE = dict(depths=(1, 1), widths=(8, 12), stem_width=8, num_se_blocks=(0, 1))
# The number of norms that stay, and the model.
CASES = {
    "resnet with shifts": (0, "tsm_resnet10", dict(width=4)),
    "depthwise": (0, "tsn_mobilenetv2", dict(width_factor=0.25)),
    "3-D, auxiliary classifier": (1, "tpn_slowonly_resnet14", dict(width=4)),
    "convolutions with bias": (0, "trn_bninception", dict(width=4)),
    "norms before convolutions": (
        6,
        "tsn_resnet10",
        dict(backbone=partial(DenseNet, **SMALL_DENSENET)),
    ),
    "branches": (
        0,
        "tsn_resnet10",
        dict(backbone=partial(MobileOne, **SMALL_MOBILEONE)),
    ),
}


@pytest.mark.smoke
@pytest.mark.by_default("shifts", "3-D", "before", "branches", slow=("bias", "depthwise"))
@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_model(case):
    left, name, options = CASES[case]
    model = build(name, **options)
    before = {path: np.asarray(leaf[...]) for path, leaf in variables(model).items()}
    folded = trn_jax.fold_batch_norm(model, size=32)
    assert len(norms(folded)) == left < len(norms(model))
    compare(model, folded)
    after = variables(model)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], after[path][...]) for path in before)
    again = trn_jax.fold_batch_norm(folded, size=32)
    assert variables(again).keys() == variables(folded).keys()


class Layers(nnx.Module):
    """A backbone in which outputs of convolutions go to more than a norm."""

    sees_clips = draws = False
    dtype = jnp.float32
    stage_channels, out_channels = (4,), 4

    def __init__(self):
        conv = dict(rngs=nnx.Rngs(0))
        self.conv1 = Conv(3, 4, 3, padding=1, frozen=True, **conv)
        self.bn1 = BatchNorm(4, frozen=True)
        self.conv2 = Conv(4, 4, 1, **conv)
        self.bn2 = BatchNorm(4)
        self.conv3 = Conv3d(4, 4, (3, 1), **conv)
        self.fc = Linear(4, 4, **conv)
        self.bn3 = BatchNorm(4)
        self.convs = nnx.List([Conv(4, 4, 1, **conv), Conv(4, 4, 1, **conv)])
        self.bn4 = BatchNorm(4)

    def __call__(self, frames, **statistics):
        x = self.bn1(self.conv1(frames), **statistics)
        y = self.conv2(x)
        x = y + self.bn2(y, **statistics)  # used twice
        x = self.bn3(self.fc(self.conv3(x[None])[0]), **statistics)
        parts = [self.bn4(conv(x), **statistics) for conv in self.convs]  # a shared norm
        return [jnp.maximum(parts[0], parts[1])]


def test_only_norms_that_take_nothing_but_a_layer_are_folded():
    model = filled(nnx.eval_shape(lambda: Recognizer(Layers(), TSNHead(4, 3, rngs=nnx.Rngs(0)))))
    folded = trn_jax.fold_batch_norm(model, size=16)
    assert [type(getattr(folded.backbone, f"bn{i}")) is BatchNorm for i in range(1, 5)] == [
        False,
        True,
        False,
        False,
    ]
    compare(model, folded)
    assert type(folded.backbone.conv1.bias) is Frozen
    assert not folded.backbone.conv3.use_bias  # a linear layer stands between


def test_a_folded_model_can_not_be_trained():
    folded = trn_jax.fold_batch_norm(build("tsn_resnet10", width=4), size=32)
    with pytest.raises(UserError, match="fold_batch_norm"):
        folded(clips(), train=True, rngs=nnx.Rngs(0))
