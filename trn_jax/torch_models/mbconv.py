"""EfficientNet-B0 (Tan and Le, 2019) and MobileNetV3-Large (Howard et al., 2019) in PyTorch.

Names are torchvision's.
"""

from functools import partial

from torch import nn

from trn_jax.torch_models.layers import drop_path

# Of the blocks of EfficientNet-B0: factor of the channels inside, kernel, stride of the first one,
# channels, number.
_EFFICIENTNET = (
    *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
    *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
)
# Of MobileNetV3-Large: kernel, channels inside, channels, squeezed channels, hard swish, stride.
_MOBILENETV3 = (
    *((3, 16, 16, 0, False, 1), (3, 64, 24, 0, False, 2), (3, 72, 24, 0, False, 1)),
    *((5, 72, 40, 24, False, 2), (5, 120, 40, 32, False, 1), (5, 120, 40, 32, False, 1)),
    *((3, 240, 80, 0, True, 2), (3, 200, 80, 0, True, 1), (3, 184, 80, 0, True, 1)),
    *((3, 184, 80, 0, True, 1), (3, 480, 112, 120, True, 1), (3, 672, 112, 168, True, 1)),
    *((5, 672, 160, 168, True, 2), (5, 960, 160, 240, True, 1), (5, 960, 160, 240, True, 1)),
)


def _layer(in_channels, channels, kernel, activation, norm, stride=1, groups=1):
    """A convolution, its batch norm, and an activation or nothing."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm(channels), *([activation()] if activation else []))


class SqueezeExcite(nn.Module):
    """Scale each channel by a number that depends on the means of all channels."""

    def __init__(self, channels, squeezed, activation, gate):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation()
        self.gate = gate()

    def forward(self, x):
        """Map `[frames, channels, height, width]` to the same shape."""
        hidden = self.activation(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.fc2(hidden))


class Block(nn.Module):
    """An inverted bottleneck; in training a frame may skip it where it has a shortcut."""

    def __init__(
        self, in_channels, channels, inner, kernel, stride, activation, excite, norm, drop, wrap
    ):
        super().__init__()
        self.has_shortcut = stride == 1 and in_channels == channels
        self.drop_path_rate = drop
        layers = []
        if inner != in_channels:
            expand = _layer(in_channels, inner, 1, activation, norm)
            if wrap and self.has_shortcut:
                expand[0] = wrap(expand[0], in_channels)
            layers.append(expand)
        layers.append(_layer(inner, inner, kernel, activation, norm, stride, inner))
        layers += [excite(inner)] if excite else []
        layers.append(_layer(inner, channels, 1, None, norm))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, channels, height', width']`."""
        y = self.block(x)
        if not self.has_shortcut:
            return y
        if self.training and self.drop_path_rate:
            y = drop_path(y, self.drop_path_rate)
        return x + y


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 without its classifier.

    Args:
        drop_path_rate: how often frames skip blocks in training: never the first one, and those
            behind it linearly more often.
        wrap: function of a layer and its input channels that adds a temporal op before the layer.
    """

    sees_clips = False

    def __init__(self, *, drop_path_rate=0.2, wrap=None):
        super().__init__()
        count, total, width = 0, sum(depth for *_, depth in _EFFICIENTNET), 32
        layers = [_layer(3, width, 3, nn.SiLU, nn.BatchNorm2d, 2)]
        for factor, kernel, stride, channels, depth in _EFFICIENTNET:
            blocks = []
            for index in range(depth):
                excite = partial(
                    SqueezeExcite,
                    squeezed=max(1, width // 4),
                    activation=nn.SiLU,
                    gate=nn.Sigmoid,
                )
                shape = (width, channels, width * factor, kernel, 1 if index else stride)
                rate = drop_path_rate * count / total
                blocks.append(Block(*shape, nn.SiLU, excite, nn.BatchNorm2d, rate, wrap))
                count, width = count + 1, channels
            layers.append(nn.Sequential(*blocks))
        layers.append(_layer(width, 1280, 1, nn.SiLU, nn.BatchNorm2d))
        self.features = nn.Sequential(*layers)
        self.stage_channels = [1280]

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of one `[frames, channels, ...]`."""
        return [self.features(frames)]


class MobileNetV3Large(nn.Module):
    """MobileNetV3-Large with the hidden layer of its classifier.

    Args:
        norm_epsilon: added to the variance in batch norms.
        wrap: function of a layer and its input channels that adds a temporal op before the layer.
    """

    sees_clips = False

    def __init__(self, *, norm_epsilon=1e-3, wrap=None):
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=norm_epsilon, momentum=0.01)
        layers, width = [_layer(3, 16, 3, nn.Hardswish, norm, 2)], 16
        for kernel, inner, channels, squeezed, hard, stride in _MOBILENETV3:
            gates = dict(squeezed=squeezed, activation=nn.ReLU, gate=nn.Hardsigmoid)
            excite = partial(SqueezeExcite, **gates) if squeezed else None
            activation = nn.Hardswish if hard else nn.ReLU
            shape = (width, channels, inner, kernel, stride)
            layers.append(Block(*shape, activation, excite, norm, 0.0, wrap))
            width = channels
        layers.append(_layer(width, 960, 1, nn.Hardswish, norm))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish())
        self.stage_channels = [1280]

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of one `[frames, 1280, 1, 1]`."""
        return [self.classifier(self.features(frames).mean((2, 3)))[:, :, None, None]]
