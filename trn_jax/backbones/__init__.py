"""Networks that look at single frames: name -> constructor."""

from functools import partial

from trn_jax.backbones.resnet import BasicBlock, Bottleneck, ResNet

BACKBONES = {
    "resnet10": partial(ResNet, BasicBlock, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
}
