"""ConvNeXt (Liu et al., 2022) in PyTorch, with torchvision's names."""

import torch
from torch import nn

from trn_jax.torch_models.layers import drop_path


class Permute(nn.Module):
    """Reorder the axes."""

    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        """Map an array to one with the axes in another order."""
        return x.permute(self.axes)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm of each pixel of `[frames, channels, height, width]`."""

    def forward(self, x):
        """Normalise the channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A depthwise 7x7 convolution and a perceptron; in training a frame may skip both."""

    def __init__(self, channels, drop_path_rate):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, 1, 3, groups=channels),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x):
        """Map `[frames, channels, height, width]` to the same shape."""
        y = self.layer_scale * self.block(x)
        if self.training and self.drop_path_rate:
            y = drop_path(y, self.drop_path_rate)
        return x + y


class ConvNeXt(nn.Module):
    """ConvNeXt with the norm of its classifier, but without its last layer.

    Args:
        depths: number of blocks in each stage.
        widths: channels of each stage.
        drop_path_rate: probability that a frame skips the last block in training.
    """

    sees_clips = False

    def __init__(self, depths, widths, *, drop_path_rate=0.1):
        super().__init__()
        self.stage_channels = list(widths)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        layers = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0], eps=1e-6))]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage:
                before = widths[stage - 1]
                norm = LayerNorm2d(before, eps=1e-6)
                layers.append(nn.Sequential(norm, nn.Conv2d(before, width, 2, 2)))
            layers.append(nn.Sequential(*(Block(width, next(rates)) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(LayerNorm2d(widths[-1], eps=1e-6))

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        features, x = [], frames
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index % 2:
                features.append(x)
        features[-1] = self.classifier(x.mean((2, 3), keepdim=True))
        return features
