"""Named sequences of PyTorch layers, drop path, and stages of residual networks."""

from collections import OrderedDict

import torch
from torch import nn


def sequential(**modules):
    """`nn.Sequential` of modules with names."""
    return nn.Sequential(OrderedDict(modules))


def conv_norm(in_channels, channels, kernel, stride=1, groups=1):
    """A 2-D convolution of `kernel` x `kernel` pixels and its batch norm."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return sequential(conv=conv, bn=nn.BatchNorm2d(channels))


def conv_norm_3d(in_channels, channels, taps, kernel, stride=1, groups=1):
    """A convolution over `taps` frames of `kernel` x `kernel` pixels and its batch norm."""
    padding = (taps // 2, kernel // 2, kernel // 2)
    size, step = (taps, kernel, kernel), (1, stride, stride)
    conv = nn.Conv3d(in_channels, channels, size, step, padding, groups=groups, bias=False)
    return sequential(conv=conv, bn=nn.BatchNorm3d(channels))


def drop_path(y, rate):
    """Zero each frame of `y`, a 4-D array, with probability `rate`; scale up the others."""
    kept = 1 - rate
    return y * torch.empty(len(y), 1, 1, 1, device=y.device).bernoulli_(kept) / kept


def add_residual_stages(network, depths, width, expansion, block):
    """Give a network its stages `layer1`, `layer2`, ..., and `stage_channels`.

    Args:
        network: the module; changed in place.
        depths: number of blocks in each stage.
        width: channels of the stem; stage i works with `width * 2**i`.
        expansion: output channels of a block per channel inside.
        block: function `(in_channels, channels, stride, stage, index)` that builds a block; stages
            and blocks count from 0.
    """
    network.stage_channels = []
    in_channels = width
    for stage, depth in enumerate(depths):
        channels, blocks = width * 2**stage, []
        for index in range(depth):
            stride = 2 if stage and not index else 1
            blocks.append(block(in_channels, channels, stride, stage, index))
            in_channels = channels * expansion
        setattr(network, f"layer{stage + 1}", nn.Sequential(*blocks))
        network.stage_channels.append(in_channels)


def run_stages(network, x, name="layer"):
    """The outputs of `layer1`, `layer2`, ..., a list."""
    features = []
    for stage in range(1, len(network.stage_channels) + 1):
        x = getattr(network, f"{name}{stage}")(x)
        features.append(x)
    return features
