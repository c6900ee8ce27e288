"""Temporal Pyramid Network (Yang et al., "Temporal Pyramid Network for Action Recognition", 2020).

Features of several depths of a backbone are the levels of a pyramid, with the same size in space
and different temporal scales. Information flows down and up before the levels are fused.
"""

import itertools
from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.conv3d import Conv3d, xavier_uniform
from trn_jax.nn.layers import BatchNorm, ConvNormRelu
from trn_jax.nn.pooling import max_pool_time

FLOWS = ("cascade", "parallel")


def _conv_norm(in_channels, out_channels, kernel_size, *, dtype, **options):
    options |= dict(init=xavier_uniform, dtype=dtype)
    conv = Conv3d(in_channels, out_channels, kernel_size, **options)
    return ConvNormRelu(conv, BatchNorm(out_channels, dtype=dtype))


class LevelFusion(nnx.Module):
    """Pool all levels to the coarsest temporal scale and fuse their channels.

    Args:
        channels: channels of every level.
        out_channels: channels of the result.
        scales: factor between the temporal scale of each level and the coarsest one.
        conv_groups: groups of the convolution of each level.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
    """

    def __init__(self, channels, out_channels, scales, *, conv_groups, dtype, rngs):
        conv = partial(_conv_norm, dtype=dtype, rngs=rngs)
        self.scales = tuple(scales)
        self.downsamples = nnx.List(
            [conv(channels, channels, (1, 1), groups=conv_groups) for _ in self.scales]
        )
        self.fusion_conv = conv(len(self.scales) * channels, out_channels, (1, 1))

    def __call__(self, levels, **statistics):
        """Map a list of `[batch, time_i, height, width, channels]` to one such array."""
        levels = [
            conv(max_pool_time(x, scale), **statistics)
            for x, scale, conv in zip(levels, self.scales, self.downsamples, strict=True)
        ]
        return self.fusion_conv(jnp.concatenate(levels, axis=-1), **statistics)


class AuxiliaryHead(TSNHead):
    """A classifier of features halfway up the backbone, for a second loss (section 3.1).

    Args:
        in_channels: channels of the features.
        channels: channels after its convolution.
        num_classes: number of classes.
        **options: `dropout_rate`, `dtype` and `rngs`, see `TSNHead`.
    """

    def __init__(self, in_channels, channels, num_classes, *, dtype, rngs, **options):
        self.conv = _conv_norm(in_channels, channels, (1, 3), stride=2, dtype=dtype, rngs=rngs)
        super().__init__(channels, num_classes, dtype=dtype, rngs=rngs, **options)

    def __call__(self, features, *, train=False, rngs=None, clip_index=None, num_groups=1):
        """Map `[batch, time, height, width, in_channels]` to logits `[batch, num_classes]`."""
        x = self.conv(features, train=train, num_groups=num_groups)
        return super().__call__(x, train=train, rngs=rngs, clip_index=clip_index)


class TPN(nnx.Module):
    """The neck: from the features of the last stages to one array for the head.

    Spatial modulation brings each level to the size and channels of the last stage, temporal
    modulation samples it at its temporal scale. With levels t_1, ..., t_n, from fine to coarse, the
    two flows (section 3.2) are

    - top-down: d_i = t_i + up(d_{i+1}),
    - bottom-up: u_i = s_i + down(u_{i-1}), with s = d in cascade and s = t in parallel,

    where `up` repeats frames and `down` is a convolution over time, then a maximum over frames.
    The levels of each flow are fused, then both flows.

    Args:
        stage_channels: channels of the features of all stages of the backbone; the result has those
            of the last stage, levels have half as many.
        num_classes: number of classes, for the auxiliary classifier.
        temporal_scales: number of frames that are pooled into one, for each level, from fine to
            coarse. The levels are that many last stages.
        flow: in "cascade" the bottom-up flow starts from the result of the top-down flow, in
            "parallel" both start from the same levels.
        conv_groups: groups of the convolutions in the levels.
        dropout_rate: share of the auxiliary classifier's features that is dropped in training.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        out_channels: channels of the result.
        auxiliary_weight: weight of the auxiliary classifier's loss.

    Raises:
        UserError: for an unknown flow, scales that are not multiples of each other, or channels
            that `conv_groups` does not divide.
    """

    auxiliary_weight = 0.5

    def __init__(
        self,
        stage_channels,
        *,
        num_classes,
        temporal_scales=(8, 8),
        flow="cascade",
        conv_groups=32,
        dropout_rate=0.5,
        dtype=jnp.float32,
        rngs,
    ):
        if flow not in FLOWS:
            raise UserError(f"flow={flow!r} is not one of {', '.join(FLOWS)}")
        scales = tuple(temporal_scales)
        _check_scales(scales, len(stage_channels))
        conv = partial(Conv3d, init=xavier_uniform, dtype=dtype, rngs=rngs)
        conv_norm = partial(_conv_norm, dtype=dtype, rngs=rngs)
        fusion = partial(LevelFusion, conv_groups=conv_groups, dtype=dtype, rngs=rngs)
        wide = stage_channels[-1]
        channels = wide // 2
        in_channels = stage_channels[-len(scales) :]
        self.flow = flow
        self.temporal_scales = scales
        self.steps = tuple(coarse // fine for fine, coarse in itertools.pairwise(scales))
        self.out_channels = wide
        # Level i is halved once for each stage after its own.
        self.spatial_modulation = nnx.List(
            nnx.List(
                conv_norm(before, after, (1, 3), stride=2)
                for before, after in itertools.pairwise(in_channels[i:])
            )
            for i in range(len(scales))
        )
        self.temporal_modulation = nnx.List(
            [conv(wide, channels, (3, 1), groups=conv_groups) for _ in scales]
        )
        self.downsamples = nnx.List([conv(channels, channels, (3, 1)) for _ in self.steps])
        to_coarsest = [scales[-1] // scale for scale in scales]
        self.level_fusion_1 = fusion(channels, wide, to_coarsest)
        self.level_fusion_2 = fusion(channels, wide, to_coarsest)
        self.pyramid_fusion = conv_norm(2 * wide, wide, (1, 1))
        self.auxiliary = AuxiliaryHead(
            stage_channels[-2],
            wide,
            num_classes,
            dropout_rate=dropout_rate,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, features, *, train=False, num_groups=1, rngs=None, clip_index=None):
        """Run the pyramid.

        Args:
            features: the features of all stages, a list of `[batch, segments, height_i, width_i,
                channels_i]`.
            train: use batch statistics and update the running ones; compute auxiliary logits.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.
            rngs: source of the `dropout` key, needed in training.
            clip_index: index of each clip in the global batch, `[batch]`.

        Returns:
            Features `[batch, ceil(segments / coarsest scale), height, width, out_channels]`, and
            the auxiliary logits `[batch, num_classes]`, `None` in evaluation.
        """
        statistics = dict(train=train, num_groups=num_groups)
        auxiliary = None
        if train:
            auxiliary = self.auxiliary(features[-2], rngs=rngs, clip_index=clip_index, **statistics)
        levels = self.modulate_time(self.modulate_space(features, **statistics))
        down = self.top_down(levels)
        up = self.bottom_up(down if self.flow == "cascade" else levels)
        fused = [self.level_fusion_1(down, **statistics), self.level_fusion_2(up, **statistics)]
        return self.pyramid_fusion(jnp.concatenate(fused, axis=-1), **statistics), auxiliary

    def modulate_space(self, features, **statistics):
        """Bring the features of the last stages to the size and channels of the last one."""
        levels = []
        for x, convs in zip(
            features[-len(self.temporal_scales) :], self.spatial_modulation, strict=True
        ):
            for conv in convs:
                x = conv(x, **statistics)
            levels.append(x)
        return levels

    def modulate_time(self, levels):
        """Sample every level at its temporal scale."""
        return [
            max_pool_time(conv(x), scale)
            for x, conv, scale in zip(
                levels, self.temporal_modulation, self.temporal_scales, strict=True
            )
        ]

    def top_down(self, levels):
        """Add to each level, from coarse to fine, the result of the next coarser one."""
        levels = list(levels)
        for i in reversed(range(len(self.steps))):
            coarse = jnp.repeat(levels[i + 1], self.steps[i], axis=1)
            # If the clip ends inside a coarse window, there are fewer fine frames.
            levels[i] = levels[i] + coarse[:, : levels[i].shape[1]]
        return levels

    def bottom_up(self, levels):
        """Add to each level, from fine to coarse, the result of the next finer one."""
        levels = list(levels)
        for i, (conv, step) in enumerate(zip(self.downsamples, self.steps, strict=True)):
            levels[i + 1] = levels[i + 1] + max_pool_time(conv(levels[i]), step)
        return levels


class TPNHead(TSNHead):
    """Average the pyramid's features over time and space, then classify; see `TSNHead`."""

    merge_views = "probabilities"

    def __init__(
        self, in_channels, num_classes, *, dropout_rate=0.5, init_std=0.01, dtype=jnp.float32, rngs
    ):
        options = dict(init_std=init_std, dtype=dtype, rngs=rngs)
        super().__init__(in_channels, num_classes, dropout_rate=dropout_rate, **options)


def _check_scales(scales, num_stages):
    if not 2 <= len(scales) <= num_stages:
        raise UserError(
            f"temporal_scales={scales} has {len(scales)} levels, expected 2 to {num_stages}, the "
            "stages of the backbone"
        )
    if scales[0] < 1 or any(coarse % fine for fine, coarse in itertools.pairwise(scales)):
        raise UserError(
            f"temporal_scales={scales}: each scale must be a multiple of the one before, such as "
            "(8, 8) or (4, 8)"
        )
