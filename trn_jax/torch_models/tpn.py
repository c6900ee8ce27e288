"""The neck of TPN (Yang et al., 2020) in PyTorch, with mmaction2's names."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import conv_norm_3d, sequential


def conv_norm_relu(in_channels, channels, size, stride=1, groups=1):
    """A convolution of 1 x `size` x `size`, its batch norm and ReLU."""
    layers = conv_norm_3d(in_channels, channels, 1, size, stride, groups)
    layers.add_module("relu", nn.ReLU(inplace=True))
    return layers


def conv_time(in_channels, channels, groups=1):
    """A convolution over three frames."""
    conv = nn.Conv3d(in_channels, channels, (3, 1, 1), 1, (1, 0, 0), groups=groups, bias=False)
    return sequential(conv=sequential(conv=conv))


class LevelFusion(nn.Module):
    """Pool all levels to the coarsest temporal scale and fuse their channels."""

    def __init__(self, channels, out_channels, scales, groups):
        super().__init__()
        self.scales = scales
        self.downsamples = nn.ModuleList(
            sequential(conv=conv_norm_relu(channels, channels, 1, groups=groups)) for _ in scales
        )
        self.fusion_conv = conv_norm_relu(len(scales) * channels, out_channels, 1)

    def forward(self, levels):
        """Map a list of `[batch, channels, time_i, height, width]` to one such tensor."""
        levels = [
            layer(pool_time(x, scale))
            for x, scale, layer in zip(levels, self.scales, self.downsamples, strict=True)
        ]
        return self.fusion_conv(torch.cat(levels, 1))


class TPN(nn.Module):
    """The neck; arguments as in our `TPN`.

    Args:
        stage_channels: channels of the features of all stages of the backbone.
        num_classes: number of classes, for the auxiliary classifier.
        temporal_scales: number of frames that are pooled into one, for each level.
        flow: "cascade" or "parallel".
        conv_groups: groups of the convolutions in the levels.
        dropout_rate: share of the auxiliary classifier's features that is dropped in training.
    """

    def __init__(
        self,
        stage_channels,
        *,
        num_classes,
        temporal_scales=(8, 8),
        flow="cascade",
        conv_groups=32,
        dropout_rate=0.5,
    ):
        super().__init__()
        scales = tuple(temporal_scales)
        wide = stage_channels[-1]
        channels = wide // 2
        in_channels = stage_channels[-len(scales) :]
        self.flow = flow
        self.scales = scales
        self.steps = [coarse // fine for fine, coarse in itertools.pairwise(scales)]
        self.out_channels = wide
        modulation = nn.ModuleList(
            nn.Sequential(
                *(conv_norm_relu(a, b, 3, 2) for a, b in itertools.pairwise(in_channels[i:]))
            )
            for i in range(len(scales))
        )
        self.spatial_modulation = nn.ModuleDict({"spatial_modulation": modulation})
        self.temporal_modulation_ops = nn.ModuleList(
            conv_time(wide, channels, conv_groups) for _ in scales
        )
        self.downsample_ops = nn.ModuleList(conv_time(channels, channels) for _ in self.steps)
        to_coarsest = [scales[-1] // scale for scale in scales]
        self.level_fusion_1 = LevelFusion(channels, wide, to_coarsest, conv_groups)
        self.level_fusion_2 = LevelFusion(channels, wide, to_coarsest, conv_groups)
        self.pyramid_fusion = conv_norm_relu(2 * wide, wide, 1)
        self.aux_head = nn.ModuleDict(
            {
                "conv": conv_norm_relu(stage_channels[-2], wide, 3, 2),
                "dropout": nn.Dropout(dropout_rate),
                "fc": nn.Linear(wide, num_classes),
            }
        )

    def forward(self, features):
        """Run the pyramid.

        Args:
            features: of all stages, a list of `[batch, channels_i, time, height_i, width_i]`.

        Returns:
            Features `[batch, out_channels, time', height, width]`, and the auxiliary logits
            `[batch, num_classes]`, in training only.
        """
        auxiliary = None
        if self.training:
            x = self.aux_head["conv"](features[-2]).mean((2, 3, 4))
            auxiliary = self.aux_head["fc"](self.aux_head["dropout"](x))
        levels = [
            pool_time(time(space(x)), scale)
            for x, space, time, scale in zip(
                features[-len(self.scales) :],
                self.spatial_modulation["spatial_modulation"],
                self.temporal_modulation_ops,
                self.scales,
                strict=True,
            )
        ]
        down = list(levels)
        for i in reversed(range(len(self.steps))):
            coarse = down[i + 1].repeat_interleave(self.steps[i], 2)
            down[i] = down[i] + coarse[:, :, : down[i].shape[2]]
        up = list(down if self.flow == "cascade" else levels)
        for i, (layer, step) in enumerate(zip(self.downsample_ops, self.steps, strict=True)):
            up[i + 1] = up[i + 1] + pool_time(layer(up[i]), step)
        fused = torch.cat([self.level_fusion_1(down), self.level_fusion_2(up)], 1)
        return self.pyramid_fusion(fused), auxiliary


def pool_time(x, scale):
    """Maximum over every `scale` frames of `x` `[batch, channels, time, height, width]`."""
    return x if scale == 1 else F.max_pool3d(x, (scale, 1, 1), ceil_mode=True)
