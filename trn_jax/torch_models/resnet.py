"""ResNet, ResNeXt (He et al., 2016; Xie et al., 2017) and SlowOnly in PyTorch.

The names of parameters are mmaction2's, for ResNeXt mmpretrain's. Networks return the features of
all stages.
"""

import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import (
    add_residual_stages,
    conv_norm,
    conv_norm_3d,
    run_stages,
)
from trn_jax.torch_models.non_local import BlockBeforeNonLocal, is_behind


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = conv_norm(in_channels, channels, 3, stride)
        self.conv2 = conv_norm(channels, channels, 3)
        self.downsample = _identity_or(conv_norm, in_channels, channels, stride)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, channels, height', width']`."""
        y = self.conv2(self.conv1(x).relu_())
        y += self.downsample(x)
        return y.relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = conv_norm(in_channels, channels, 1)
        self.conv2 = conv_norm(channels, channels, 3, stride)
        self.conv3 = conv_norm(channels, 4 * channels, 1)
        self.downsample = _identity_or(conv_norm, in_channels, 4 * channels, stride)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, 4 * channels, ...]`."""
        y = self.conv2(self.conv1(x).relu_()).relu_()
        y = self.conv3(y)
        y += self.downsample(x)
        return y.relu_()


class ResNet(nn.Module):
    """ResNet without its classifier.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: number of blocks in each stage.
        width: channels of the stem.
        wrap: function of a layer and its input channels that adds a temporal op before the layer,
            such as `shifted` and `interlaced`.
        shift_place: "blockres" wraps the first convolution of a block, "block" the whole block.
        shift_every: wraps one block in so many of a stage; `None` is TSM's rule.
        non_local: mode of the `NonLocal` behind some blocks, or `None`.
        num_segments: number of frames of a clip, for non-local blocks.
    """

    sees_clips = False

    def __init__(
        self,
        block,
        depths,
        *,
        width=64,
        wrap=None,
        shift_place="blockres",
        shift_every=None,
        non_local=None,
        num_segments=None,
    ):
        super().__init__()
        if shift_every is None:
            shift_every = 2 if depths[2] >= 23 and shift_place == "blockres" else 1
        self.conv1 = conv_norm(3, width, 7, 2)
        self.max_pool = nn.MaxPool2d(3, 2, 1)

        def shifting(in_channels, channels, stride, index):
            module = block(in_channels, channels, stride)
            if wrap is None or index % shift_every:
                return module
            if shift_place == "block":
                return wrap(module, in_channels)
            module.conv1.conv = wrap(module.conv1.conv, in_channels)
            return module

        def build(in_channels, channels, stride, stage, index):
            module = shifting(in_channels, channels, stride, index)
            if non_local is None or not is_behind(stage, index):
                return module
            options = dict(mode=non_local, num_segments=num_segments)
            return BlockBeforeNonLocal(module, channels * block.expansion, **options)

        add_residual_stages(self, depths, width, block.expansion, build)

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        return run_stages(self, self.max_pool(self.conv1(frames).relu_()))


class ResNeXtBottleneck(nn.Module):
    """The bottleneck of ResNeXt, with groups of `width` * 4 / 64 channels."""

    def __init__(self, in_channels, channels, stride, groups):
        super().__init__()
        inner = channels * 4 // 64 * groups
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = nn.Identity()
        if stride > 1 or in_channels != 4 * channels:
            conv = nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(4 * channels))

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, 4 * channels, ...]`."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return y.relu_()


class ResNeXt(nn.Module):
    """ResNeXt-32x4d without its classifier; arguments as in `ResNet`."""

    sees_clips = False

    def __init__(self, depths, *, width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

        def build(in_channels, channels, stride, stage, index):
            return ResNeXtBottleneck(in_channels, channels, stride, groups=32)

        add_residual_stages(self, depths, width, 4, build)

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        x = self.bn1(self.conv1(frames)).relu_()
        return run_stages(self, F.max_pool2d(x, 3, 2, 1))


class Bottleneck3d(nn.Module):
    """`taps`x1x1, 1x3x3 and 1x1x1 convolutions around a shortcut."""

    def __init__(self, in_channels, channels, taps, stride):
        super().__init__()
        self.conv1 = conv_norm_3d(in_channels, channels, taps, 1)
        self.conv2 = conv_norm_3d(channels, channels, 1, 3, stride)
        self.conv3 = conv_norm_3d(channels, 4 * channels, 1, 1)
        self.downsample = nn.Identity()
        if stride > 1 or in_channels != 4 * channels:
            self.downsample = conv_norm_3d(in_channels, 4 * channels, 1, 1, stride)

    def forward(self, x):
        """Map `[batch, in_channels, time, height, width]` to `[batch, 4 * channels, ...]`."""
        y = self.conv2(self.conv1(x).relu_()).relu_()
        y = self.conv3(y)
        y += self.downsample(x)
        return y.relu_()


class SlowOnly(nn.Module):
    """SlowOnly (Feichtenhofer et al., 2019) without its classifier; arguments as in `ResNet`."""

    sees_clips = True

    def __init__(self, depths, *, width=64):
        super().__init__()
        self.conv1 = conv_norm_3d(3, width, 1, 7, 2)
        self.max_pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))

        def build(in_channels, channels, stride, stage, index):
            return Bottleneck3d(in_channels, channels, 3 if stage > 1 else 1, stride)

        add_residual_stages(self, depths, width, 4, build)

    def forward(self, clips):
        """Map `[batch, 3, time, height, width]` to a list of `[batch, channels, time, ...]`."""
        return run_stages(self, self.max_pool(self.conv1(clips).relu_()))


def _identity_or(layer, in_channels, channels, stride):
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return layer(in_channels, channels, 1, stride)
