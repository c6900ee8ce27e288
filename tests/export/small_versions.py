"""Small versions of all models, for tests of exports."""

from functools import partial

from trn_jax.backbones.bninception import BLOCKS, BNInception
from trn_jax.backbones.convnext import ConvNeXt
from trn_jax.backbones.densenet import DenseNet
from trn_jax.backbones.efficientnet import B0, EfficientNet
from trn_jax.backbones.inceptionv3 import InceptionV3
from trn_jax.backbones.mobilenetv3 import LARGE, MobileNetV3
from trn_jax.backbones.swin import Swin
from trn_jax.backbones.vit import ViT

STAGES = (
    (("Mixed_5b", (4, (("branch1x1", 4, 1, 1),), (("a", 4, 1, 1), ("b", 8, (1, 7), 1)))),),
    (("Mixed_6a", ("max", (("branch3x3", 8, 3, 2),))),),
)
# Options that make a network of each kind small, and the pixels that it takes.
SMALL = {
    "bninception": (dict(backbone=partial(BNInception, BLOCKS, width=4)), 64),
    "convnext": (dict(backbone=partial(ConvNeXt, (1, 2), (8, 16))), 32),
    "densenet": (dict(backbone=partial(DenseNet, (2, 3), growth=4, width=8)), 32),
    "efficientnet": (dict(backbone=partial(EfficientNet, B0[:4])), 32),
    "inceptionv3": (dict(backbone=partial(InceptionV3, STAGES)), 75),
    "mobilenetv2": (dict(backbone="mobilenetv2_tiny"), 32),
    "mobilenetv3": (dict(backbone=partial(MobileNetV3, LARGE[:6])), 32),
    "mobileone": (dict(backbone="mobileone_tiny"), 32),
    "resnext": (dict(backbone="resnext14_32x4d", width=16), 32),
    "slowonly": (dict(backbone="slowonly_resnet14", width=8, conv_groups=4), 32),
    "tpn_tsm": (dict(backbone="resnet10", width=8, conv_groups=4), 32),
    "resnet": (dict(backbone="resnet10", width=16), 32),
    "swin": (
        dict(backbone=partial(Swin, (2, 2), width=16, head_channels=8, window=4, patch=2)),
        32,
    ),
    "vit": (
        dict(backbone=partial(ViT, 2, width=16, head_channels=8, patch=8, pixels=16)),
        16,
    ),
}


def small(name):
    """Options that make a model small, and the side of the frames that it takes, pixels."""
    kind = next(kind for kind in SMALL if kind in name)
    return SMALL[kind]
