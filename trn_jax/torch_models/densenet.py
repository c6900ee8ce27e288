"""DenseNet (Huang et al., 2017) in PyTorch, with torchvision's names."""

import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import sequential


class DenseLayer(nn.Module):
    """The `growth` channels that one layer adds to all channels before it."""

    def __init__(self, in_channels, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, growth, height, width]`."""
        y = self.conv1(self.norm1(x).relu_())
        return self.conv2(self.norm2(y).relu_())


class DenseBlock(nn.Module):
    """Layers that take all channels before them."""

    def __init__(self, depth, in_channels, growth):
        super().__init__()
        for index in range(depth):
            layer = DenseLayer(in_channels + index * growth, growth)
            self.add_module(f"denselayer{index + 1}", layer)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, out_channels, ...]`."""
        for layer in self.children():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Module):
    """Half the channels, half the height and width."""

    def __init__(self, in_channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to half of each but the frames."""
        return F.avg_pool2d(self.conv(self.norm(x).relu_()), 2)


class DenseNet(nn.Module):
    """DenseNet without its classifier and the ReLU before it, as in mmaction2.

    Args:
        depths: number of layers in each block.
        growth: channels that a layer adds.
        width: channels of the stem.
    """

    sees_clips = False

    def __init__(self, depths, *, growth, width):
        super().__init__()
        self.depths = depths
        conv = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.features = sequential(conv0=conv, norm0=nn.BatchNorm2d(width))
        self.stage_channels = []
        channels = width
        for stage, depth in enumerate(depths, start=1):
            self.features.add_module(f"denseblock{stage}", DenseBlock(depth, channels, growth))
            channels += depth * growth
            self.stage_channels.append(channels)
            if stage < len(depths):
                self.features.add_module(f"transition{stage}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        parts = dict(self.features.named_children())
        x = F.max_pool2d(parts["norm0"](parts["conv0"](frames)).relu_(), 3, 2, 1)
        features = []
        for stage in range(1, len(self.depths) + 1):
            x = parts[f"denseblock{stage}"](x)
            features.append(x)
            if stage < len(self.depths):
                x = parts[f"transition{stage}"](x)
        features[-1] = parts["norm5"](x)
        return features
