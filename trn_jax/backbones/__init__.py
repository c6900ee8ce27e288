"""Networks that look at single frames or at whole clips: name -> constructor."""

from functools import partial

from trn_jax.backbones.resnet import BasicBlock, Bottleneck, ResNet
from trn_jax.backbones.resnet3d import SlowOnly

BACKBONES = {
    "resnet10": partial(ResNet, BasicBlock, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    "slowonly_resnet14": partial(SlowOnly, (1, 1, 1, 1)),
    "slowonly_resnet50": partial(SlowOnly, (3, 4, 6, 3)),
}
