"""ResNet (He et al., "Deep Residual Learning for Image Recognition", 2016), as in torchvision.

The 3x3 convolution of a bottleneck has the stride. Attribute names are torchvision's:
`layer1[0].conv1` here is `layer1.0.conv1` there.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.non_local import PLACES, NonLocal
from trn_jax.backbones.stages import (
    check_frozen,
    check_remat,
    residual_shapes,
    run_stages,
    stage_layers,
)
from trn_jax.errors import UserError
from trn_jax.nn.layers import BatchNorm, freeze, relu
from trn_jax.nn.pooling import max_pool


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions with a shortcut; arguments as in `Bottleneck`."""

    expansion = 1

    def __init__(self, in_channels, channels, *, stride, temporal=None, non_local=None, conv, norm):
        self.temporal_op = temporal.op(in_channels) if temporal else None
        self.shift_place = temporal.place if temporal else None
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1)
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.bn2 = norm(channels)
        self.downsample = downsample(in_channels, channels, stride, conv, norm)
        self.non_local = non_local(channels) if non_local else None

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = x if self.temporal_op is None else self.temporal_op(x)
        x = y if self.shift_place == "block" else x
        y = relu(self.bn1(self.conv1(y), **statistics))
        y = self.bn2(self.conv2(y), **statistics)
        y = relu(y + shortcut(self.downsample, x, statistics))
        return y if self.non_local is None else self.non_local(y, **statistics)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; four times wider outside than inside.

    Args:
        in_channels: channels of the input.
        channels: channels inside.
        stride: stride of the 3x3 convolution and of the shortcut, in pixels.
        temporal: a `TemporalHook`, or `None`.
        non_local: function of a number of channels that builds the `NonLocal` behind the block, or
            `None`.
        conv: constructor of convolutions.
        norm: constructor of batch norms.

    Attributes:
        groups: number of groups of the 3x3 convolution.
        group_width: channels of each group where `channels` is 64, and in proportion elsewhere.
    """

    expansion = 4
    groups = 1
    group_width = 64

    def __init__(self, in_channels, channels, *, stride, temporal=None, non_local=None, conv, norm):
        out_channels = channels * self.expansion
        inner = channels * self.group_width // 64 * self.groups
        if not inner:
            raise UserError(
                f"a stage of {channels} channels leaves none for a group of {type(self).__name__}; "
                f"width must be at least {64 // self.group_width}"
            )
        self.temporal_op = temporal.op(in_channels) if temporal else None
        self.shift_place = temporal.place if temporal else None
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = norm(inner)
        self.conv2 = conv(inner, inner, 3, stride=stride, padding=1, groups=self.groups)
        self.bn2 = norm(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.downsample = downsample(in_channels, out_channels, stride, conv, norm)
        self.non_local = non_local(out_channels) if non_local else None

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', 4 * channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = x if self.temporal_op is None else self.temporal_op(x)
        x = y if self.shift_place == "block" else x
        y = relu(self.bn1(self.conv1(y), **statistics))
        y = relu(self.bn2(self.conv2(y), **statistics))
        y = self.bn3(self.conv3(y), **statistics)
        y = relu(y + shortcut(self.downsample, x, statistics))
        return y if self.non_local is None else self.non_local(y, **statistics)


class ResNeXtBottleneck(Bottleneck):
    """The bottleneck of ResNeXt (Xie et al., "Aggregated Residual Transformations", 2017), 32x4d.

    The scale of its last norm starts at zero, as in mmpretrain.
    """

    groups = 32
    group_width = 4

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.bn3.scale[...] = jnp.zeros_like(self.bn3.scale[...])


def downsample(in_channels, out_channels, stride, conv, norm):
    """The layers of a shortcut, `[convolution, norm]`; `None` where the shape stays the same."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nnx.List([conv(in_channels, out_channels, 1, stride=stride), norm(out_channels)])


def shortcut(layers, x, statistics):
    """Apply the layers of `downsample` to the input `x` of a block."""
    if layers is None:
        return x
    conv, norm = layers
    return norm(conv(x), **statistics)


class ResNet(nnx.Module):
    """ResNet without its classifier.

    Args:
        block: `BasicBlock`, `Bottleneck` or `ResNeXtBottleneck`.
        depths: number of blocks in each of the four stages.
        width: channels of the stem; stage i works with `width * 2**i`, bottlenecks put out four
            times as many.
        temporal: the hook of TSM and TIN, a `TemporalHook`.
        non_local: "embedded_gaussian", "gaussian" or "dot_product" puts a non-local block behind
            blocks 0 and 2 of the second stage and 0, 2 and 4 of the third, see `NonLocal`.
        num_segments: number of frames of a clip, for non-local blocks.
        partial_bn: freeze every batch norm but the first one (Wang et al., "Temporal Segment
            Networks", 2016, section 3.2).
        frozen_stages: number of stages to freeze, and the stem; -1 freezes nothing, 0 the stem.
        remat: number of stages to rematerialise, see `run_stages`.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
        mixes_frames: whether frames of a clip exchange features, temporal ops aside.
    """

    sees_clips = False
    draws = False

    def __init__(
        self,
        block,
        depths,
        *,
        width=64,
        temporal=None,
        non_local=None,
        num_segments=None,
        partial_bn=False,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        check_frozen(frozen_stages, len(depths))
        check_remat(remat, len(depths))
        every = temporal.every(depths) if temporal else 1
        self.remat = remat
        self.dtype = dtype
        stem = stage_layers(frozen=frozen_stages >= 0, dtype=dtype, rngs=rngs)
        self.conv1 = stem["conv"](3, width, 7, stride=2, padding=3)
        self.bn1 = stem["norm"](width)
        self.num_stages = len(depths)
        for stage, shapes in enumerate(residual_shapes(depths, width, block.expansion), start=1):
            frozen = frozen_stages >= stage
            parts = stage_layers(frozen=frozen, freeze_norm=partial_bn, dtype=dtype, rngs=rngs)
            blocks = []
            behind = partial(
                NonLocal,
                mode=non_local,
                num_segments=num_segments,
                conv=parts["conv"],
                # mmaction2's partial_bn freezes norms of 2-D maps only, and these are of clips.
                norm=partial(BatchNorm, frozen=frozen, dtype=dtype),
            )
            for index, (in_channels, channels, stride) in enumerate(shapes):
                layers = dict(parts, temporal=None if index % every else temporal)
                if non_local is not None and index in PLACES[stage - 1]:
                    layers["non_local"] = behind
                blocks.append(block(in_channels, channels, stride=stride, **layers))
                if frozen:
                    freeze(blocks[-1].temporal_op)
            setattr(self, f"layer{stage}", nnx.List(blocks))
        self.stage_channels = tuple(width * 2**i * block.expansion for i in range(len(depths)))
        self.out_channels = self.stage_channels[-1]
        self.mixes_frames = non_local is not None

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
        stages = [getattr(self, f"layer{stage}") for stage in range(1, self.num_stages + 1)]
        x = self.stem(frames, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 4, width / 4, width_of_stem]`."""
        x = relu(self.bn1(self.conv1(frames), **statistics))
        return max_pool(x, 3, stride=2, padding=1)
