"""Registry of backbones, for frames or clips: name -> constructor."""

from collections.abc import Callable
from functools import partial
from typing import Any

from trn_jax.backbones.bninception import BLOCKS, BNInception
from trn_jax.backbones.convnext import ConvNeXt
from trn_jax.backbones.densenet import DenseNet
from trn_jax.backbones.efficientnet import B0, EfficientNet
from trn_jax.backbones.inceptionv3 import STAGES, InceptionV3
from trn_jax.backbones.mobilenet import MobileNetV2
from trn_jax.backbones.mobilenetv3 import LARGE, MobileNetV3
from trn_jax.backbones.mobileone import MobileOne
from trn_jax.backbones.resnet import BasicBlock, Bottleneck, ResNet, ResNeXtBottleneck
from trn_jax.backbones.resnet3d import SlowOnly
from trn_jax.backbones.swin import Swin
from trn_jax.backbones.vit import ViT

BACKBONES: dict[str, Callable[..., Any]] = {
    "resnet10": partial(ResNet, BasicBlock, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    "slowonly_resnet14": partial(SlowOnly, (1, 1, 1, 1)),
    "slowonly_resnet50": partial(SlowOnly, (3, 4, 6, 3)),
    "bninception": partial(BNInception, BLOCKS),
    "densenet161": partial(DenseNet, (6, 12, 36, 24), growth=48, width=96),
    "swin_tiny": partial(Swin, (2, 2, 6, 2), width=96),
    "swin_small": partial(Swin, (2, 2, 18, 2), width=96),
    "swin_base": partial(Swin, (2, 2, 18, 2), width=128),
    "swin_large": partial(Swin, (2, 2, 18, 2), width=192),
    "resnext14_32x4d": partial(ResNet, ResNeXtBottleneck, (1, 1, 1, 1)),
    "resnext50_32x4d": partial(ResNet, ResNeXtBottleneck, (3, 4, 6, 3)),
    "resnext101_32x4d": partial(ResNet, ResNeXtBottleneck, (3, 4, 23, 3)),
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_tiny": partial(MobileNetV2, ((1, 8, 1, 1), (2, 16, 2, 2)), ((1,), (2,))),
    "mobileone_tiny": partial(MobileOne, (1, 2), (8, 16), stem_width=8, num_se_blocks=(0, 1)),
    "mobileone_s4": partial(
        MobileOne, (2, 8, 10, 1), (192, 448, 896, 2048), num_se_blocks=(0, 0, 5, 1)
    ),
    "convnext_tiny": partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_base": partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024)),
    "efficientnet_b0": partial(EfficientNet, B0),
    "inceptionv3": partial(InceptionV3, STAGES),
    "mobilenetv3_large": partial(MobileNetV3, LARGE),
    "vit_base": partial(ViT, 12, width=768),
}
