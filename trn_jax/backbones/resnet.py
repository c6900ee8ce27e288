"""ResNet (He et al., "Deep Residual Learning for Image Recognition", 2016), as torchvision has it.

The stride of a bottleneck sits in its 3x3 convolution. Attribute names are torchvision's, so
`layer1[0].conv1` here is `layer1.0.conv1` there.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, check_remat, freeze, relu, run_block
from trn_jax.nn.pooling import max_pool

SHIFT_PLACES = ("blockres", "block")


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(
        self, in_channels, channels, *, stride, temporal_op, shift_place="blockres", conv, norm
    ):
        out_channels = channels * self.expansion
        self.temporal_op = temporal_op(in_channels) if temporal_op else None
        self.shift_place = shift_place
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, out_channels, 3, padding=1)
        self.bn2 = norm(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride, conv, norm)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = x if self.temporal_op is None else self.temporal_op(x)
        x = y if self.shift_place == "block" else x
        y = relu(self.bn1(self.conv1(y), **statistics))
        y = self.bn2(self.conv2(y), **statistics)
        return relu(y + _shortcut(self.downsample, x, statistics))


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; four times wider outside than inside.

    Attributes:
        groups: number of groups of the 3x3 convolution.
        group_width: channels of each group where `channels` is 64, and in proportion elsewhere.
    """

    expansion = 4
    groups = 1
    group_width = 64

    def __init__(
        self, in_channels, channels, *, stride, temporal_op, shift_place="blockres", conv, norm
    ):
        out_channels = channels * self.expansion
        inner = channels * self.group_width // 64 * self.groups
        if not inner:
            raise UserError(
                f"a stage of {channels} channels leaves none for a group of {type(self).__name__}; "
                f"width must be at least {64 // self.group_width}"
            )
        self.temporal_op = temporal_op(in_channels) if temporal_op else None
        self.shift_place = shift_place
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, padding=1, groups=self.groups)
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride, conv, norm)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = x if self.temporal_op is None else self.temporal_op(x)
        x = y if self.shift_place == "block" else x
        y = relu(self.bn1(self.conv1(y), **statistics))
        y = relu(self.bn2(self.conv2(y), **statistics))
        y = self.bn3(self.conv3(y), **statistics)
        return relu(y + _shortcut(self.downsample, x, statistics))


class ResNeXtBottleneck(Bottleneck):
    """The bottleneck of ResNeXt (Xie et al., "Aggregated Residual Transformations", 2017), 32x4d.

    The scale of its last norm starts at zero, as mmpretrain has it.
    """

    groups = 32
    group_width = 4

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.bn3.scale[...] = jnp.zeros_like(self.bn3.scale[...])


def _downsample(in_channels, out_channels, stride, conv, norm):
    if stride == 1 and in_channels == out_channels:
        return None
    return nnx.List([conv(in_channels, out_channels, 1, stride=stride), norm(out_channels)])


def _shortcut(downsample, x, statistics):
    if downsample is None:
        return x
    conv, bn = downsample
    return bn(conv(x), **statistics)


class ResNet(nnx.Module):
    """ResNet without its classifier.

    Args:
        block: `BasicBlock`, `Bottleneck` or `ResNeXtBottleneck`.
        depths: number of blocks in each of the four stages.
        width: channels of the stem; stage i works with `width * 2**i`, four times as many outside
            its bottlenecks.
        temporal_op: the hook of TSM and TIN: a function of a number of channels that returns a map
            of `[frames, height, width, channels]` onto itself, for the input of a block.
        shift_place: "blockres" puts `temporal_op` before `conv1`, in the residual branch only, and
            the shortcut sees the input unchanged; "block" puts it before the whole block.
        shift_every: every how many blocks of a stage, from the first on, have the `temporal_op`.
            `None` is the rule of TSM: with "blockres", every second one in networks whose third
            stage has at least 23 blocks (ResNet-101, -152), otherwise every one.
        partial_bn: freeze every batch norm but the first one (Wang et al., "Temporal Segment
            Networks", 2016, section 3.2).
        frozen_stages: freeze the stem and the first so many stages; -1 freezes nothing, 0 the stem.
        remat: number of stages, from the first on, whose blocks compute their activations again in
            the backward pass instead of keeping them, see `run_block`.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
        dtype: dtype of the computation.
    """

    sees_clips = False
    draws = False

    def __init__(
        self,
        block,
        depths,
        *,
        width=64,
        temporal_op=None,
        shift_place="blockres",
        shift_every=None,
        partial_bn=False,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        if not -1 <= frozen_stages <= len(depths):
            raise UserError(
                f"frozen_stages={frozen_stages} is not in -1..{len(depths)}: "
                "-1 freezes nothing, 0 the stem, k the stem and k stages"
            )
        if shift_place not in SHIFT_PLACES:
            raise UserError(f"shift_place={shift_place!r} is not one of {', '.join(SHIFT_PLACES)}")
        if shift_every is None:
            deep = len(depths) > 2 and depths[2] >= 23
            shift_every = 2 if deep and shift_place == "blockres" else 1
        if shift_every < 1:
            raise UserError(f"shift_every={shift_every} must be at least 1, a number of blocks")
        check_remat(remat, len(depths))
        self.remat = remat
        conv, norm = _layers(frozen=frozen_stages >= 0, dtype=dtype, rngs=rngs)
        self.dtype = dtype
        self.conv1 = conv(3, width, 7, stride=2, padding=3)
        self.bn1 = norm(width)
        in_channels = width
        self.stage_channels: tuple[int, ...] = ()
        for stage, depth in enumerate(depths, start=1):
            conv, norm = _layers(
                frozen=frozen_stages >= stage, freeze_norm=partial_bn, dtype=dtype, rngs=rngs
            )
            blocks = []
            for index in range(depth):
                channels = width * 2 ** (stage - 1)
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(
                    block(
                        in_channels,
                        channels,
                        stride=stride,
                        temporal_op=None if index % shift_every else temporal_op,
                        shift_place=shift_place,
                        conv=conv,
                        norm=norm,
                    )
                )
                if frozen_stages >= stage:
                    freeze(blocks[-1].temporal_op)
                in_channels = channels * block.expansion
            setattr(self, f"layer{stage}", nnx.List(blocks))
            self.stage_channels += (in_channels,)
        self.num_stages = len(depths)
        self.out_channels = in_channels

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[frames, height / 2**(i + 1), width / 2**(i + 1), channels]` for
            each stage i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        x = self.stem(frames, **statistics)
        features = []
        for stage in range(1, self.num_stages + 1):
            for block in getattr(self, f"layer{stage}"):
                x = run_block(block, x, remat=train and stage <= self.remat, **statistics)
            features.append(x)
        return features

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 4, width / 4, width_of_stem]`."""
        x = relu(self.bn1(self.conv1(frames), **statistics))
        return max_pool(x, 3, stride=2, padding=1)


def _layers(*, frozen, freeze_norm=False, dtype, rngs):
    """Constructors of the convolutions and norms of one stage."""
    conv = partial(Conv, frozen=frozen, dtype=dtype, rngs=rngs)
    norm = partial(BatchNorm, frozen=frozen or freeze_norm, dtype=dtype)
    return conv, norm
