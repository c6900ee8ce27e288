"""Inception-v3 (Szegedy et al., 2016) in PyTorch, with torchvision's names."""

import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import sequential


def _conv(in_channels, channels, kernel, stride=1, padding=0):
    """A convolution, its batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, bias=False)
    return sequential(conv=conv, bn=nn.BatchNorm2d(channels, eps=1e-3), relu=nn.ReLU())


class Block(nn.Module):
    """Layers by name, and what each branch applies; a list at its end is side by side."""

    branches: tuple = ()

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, channels, height', width']`."""
        outputs = []
        for branch in self.branches:
            y = x
            for name in branch:
                if isinstance(name, list):
                    y = torch.cat([getattr(self, part)(y) for part in name], 1)
                else:
                    y = getattr(self, name)(y)
            outputs.append(y)
        outputs.append(self.pool(x))
        return torch.cat(outputs, 1)

    def pool(self, x):
        """The pooled branch: means of 3x3 pixels, or maxima where there is no `branch_pool`."""
        if hasattr(self, "branch_pool"):
            return self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return F.max_pool2d(x, 3, 2)


class BlockA(Block):
    """35x35 pixels."""

    branches = (
        ["branch1x1"],
        ["branch5x5_1", "branch5x5_2"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
    )

    def __init__(self, in_channels, pooled):
        super().__init__()
        self.branch1x1 = _conv(in_channels, 64, 1)
        self.branch5x5_1 = _conv(in_channels, 48, 1)
        self.branch5x5_2 = _conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = _conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _conv(96, 96, 3, padding=1)
        self.branch_pool = _conv(in_channels, pooled, 1)


class BlockB(Block):
    """From 35x35 to 17x17 pixels."""

    branches = (["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"])

    def __init__(self, in_channels):
        super().__init__()
        self.branch3x3 = _conv(in_channels, 384, 3, 2)
        self.branch3x3dbl_1 = _conv(in_channels, 64, 1)
        self.branch3x3dbl_2 = _conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _conv(96, 96, 3, 2)


class BlockC(Block):
    """17x17 pixels."""

    branches = (
        ["branch1x1"],
        [f"branch7x7_{i}" for i in range(1, 4)],
        [f"branch7x7dbl_{i}" for i in range(1, 6)],
    )

    def __init__(self, in_channels, inner):
        super().__init__()
        row, column = dict(kernel=(1, 7), padding=(0, 3)), dict(kernel=(7, 1), padding=(3, 0))
        self.branch1x1 = _conv(in_channels, 192, 1)
        self.branch7x7_1 = _conv(in_channels, inner, 1)
        self.branch7x7_2 = _conv(inner, inner, **row)
        self.branch7x7_3 = _conv(inner, 192, **column)
        self.branch7x7dbl_1 = _conv(in_channels, inner, 1)
        self.branch7x7dbl_2 = _conv(inner, inner, **column)
        self.branch7x7dbl_3 = _conv(inner, inner, **row)
        self.branch7x7dbl_4 = _conv(inner, inner, **column)
        self.branch7x7dbl_5 = _conv(inner, 192, **row)
        self.branch_pool = _conv(in_channels, 192, 1)


class BlockD(Block):
    """From 17x17 to 8x8 pixels."""

    branches = (["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in range(1, 5)])

    def __init__(self, in_channels):
        super().__init__()
        self.branch3x3_1 = _conv(in_channels, 192, 1)
        self.branch3x3_2 = _conv(192, 320, 3, 2)
        self.branch7x7x3_1 = _conv(in_channels, 192, 1)
        self.branch7x7x3_2 = _conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _conv(192, 192, 3, 2)


class BlockE(Block):
    """8x8 pixels."""

    branches = (
        ["branch1x1"],
        ["branch3x3_1", ["branch3x3_2a", "branch3x3_2b"]],
        ["branch3x3dbl_1", "branch3x3dbl_2", ["branch3x3dbl_3a", "branch3x3dbl_3b"]],
    )

    def __init__(self, in_channels):
        super().__init__()
        row, column = dict(kernel=(1, 3), padding=(0, 1)), dict(kernel=(3, 1), padding=(1, 0))
        self.branch1x1 = _conv(in_channels, 320, 1)
        self.branch3x3_1 = _conv(in_channels, 384, 1)
        self.branch3x3_2a = _conv(384, 384, **row)
        self.branch3x3_2b = _conv(384, 384, **column)
        self.branch3x3dbl_1 = _conv(in_channels, 448, 1)
        self.branch3x3dbl_2 = _conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _conv(384, 384, **row)
        self.branch3x3dbl_3b = _conv(384, 384, **column)
        self.branch_pool = _conv(in_channels, 192, 1)


class InceptionV3(nn.Module):
    """Inception-v3 without its classifiers."""

    sees_clips = False

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = _conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _conv(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = _conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _conv(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = BlockE(2048)
        self.stage_channels = [288, 768, 2048]

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        features, x = [], frames
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Mixed_5d", "Mixed_6e", "Mixed_7c"):
                features.append(x)
        return features
