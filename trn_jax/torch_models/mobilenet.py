"""MobileNetV2 (Sandler et al., 2018) in PyTorch, with mmaction2's names."""

import math

from torch import nn

from trn_jax.torch_models.layers import conv_norm

# Of each layer: channels inside per channel of the input, channels, number of blocks, stride.
LAYERS = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
STAGES = ((1,), (2,), (3,), (4, 5), (6, 7))  # layers whose maps have the same size


def scaled(channels, factor):
    """The multiple of 8 next to `channels * factor` that is not below 90 % of it."""
    exact = channels * factor
    nearest = max(1, math.floor(exact / 8 + 0.5)) * 8
    return nearest if nearest >= 0.9 * exact else nearest + 8


def _layer(in_channels, channels, kernel, stride=1, groups=1, activation=True):
    """A convolution, its batch norm, and ReLU6 or nothing."""
    layers = conv_norm(in_channels, channels, kernel, stride, groups)
    if activation:
        layers.add_module("activate", nn.ReLU6(inplace=True))
    return layers


class InvertedResidual(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolutions, and a shortcut where the shape stays.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        expansion: channels inside for each channel of the input; 1 leaves out the first layer.
        stride: stride of the 3x3 convolution.
        wrap: see `MobileNetV2`.
    """

    def __init__(self, in_channels, channels, expansion, stride, wrap):
        super().__init__()
        inner = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        layers = [
            _layer(inner, inner, 3, stride, inner),
            _layer(inner, channels, 1, activation=False),
        ]
        if expansion > 1:
            expand = _layer(in_channels, inner, 1)
            layers.insert(0, wrap(expand, in_channels) if wrap and self.has_shortcut else expand)
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, channels, height', width']`."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 without its classifier.

    Args:
        layers: shapes of the blocks, as in our network.
        stages: numbers of the layers of each stage.
        width_factor: factor of all numbers of channels.
        wrap: function of a layer and its input channels that adds a temporal op before it; for the
            first layer of blocks with a shortcut.
    """

    sees_clips = False

    def __init__(self, layers=LAYERS, stages=STAGES, *, width_factor=1.0, wrap=None):
        super().__init__()
        channels = scaled(32, width_factor)
        self.conv1 = _layer(3, channels, 3, 2)
        self.stages = stages
        self.stage_channels = []
        for numbers in stages:
            for number in numbers:
                expansion, width, depth, stride = layers[number - 1]
                blocks = []
                for index in range(depth):
                    in_channels, channels = channels, scaled(width, width_factor)
                    step = 1 if index else stride
                    blocks.append(InvertedResidual(in_channels, channels, expansion, step, wrap))
                setattr(self, f"layer{number}", nn.Sequential(*blocks))
            self.stage_channels.append(channels)
        self.stage_channels[-1] = scaled(1280, max(1.0, width_factor))
        self.conv2 = _layer(channels, self.stage_channels[-1], 1)

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        x, features = self.conv1(frames), []
        for numbers in self.stages:
            for number in numbers:
                x = getattr(self, f"layer{number}")(x)
            features.append(x)
        return [*features[:-1], self.conv2(x)]
