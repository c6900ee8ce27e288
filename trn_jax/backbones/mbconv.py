"""Mobile inverted bottlenecks, and networks of them in one list, such as EfficientNet.

Numerics and stages are torchvision's.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from flax import nnx

from trn_jax.backbones.stages import (
    check_frozen,
    check_remat,
    drop_path_keys,
    run_stages,
    stage_layers,
)
from trn_jax.nn.layers import drop_path, freeze, global_average_pool, relu, relu6

ACTIVATIONS: dict[str, Callable] = {
    "relu": relu,
    "relu6": relu6,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
}


class BlockShape(NamedTuple):
    """Sizes of an inverted bottleneck."""

    size: int  # height and width of the depthwise kernel, in pixels
    inner: int  # channels inside
    channels: int  # of the output
    squeezed: int  # channels of the hidden layer of squeeze-and-excitation; 0 leaves it out
    activation: str  # a name in `ACTIVATIONS`
    stride: int  # of the depthwise convolution, in pixels


class ConvNormActivation(nnx.Module):
    """A convolution, zero-padded to keep the size, its batch norm, and an activation or none.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        size: height and width of the kernel, in pixels; odd.
        activation: a name in `ACTIVATIONS`, or `None`.
        conv: constructor of convolutions.
        norm: constructor of batch norms.
        **geometry: `stride` and `groups` of the convolution.
    """

    def __init__(self, in_channels, channels, size, *, activation, conv, norm, **geometry):
        self.activation = activation
        self.conv = conv(in_channels, channels, size, padding=size // 2, **geometry)
        self.bn = norm(channels)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = self.bn(self.conv(x), **statistics)
        return ACTIVATIONS[self.activation](y) if self.activation else y


class SqueezeExcite(nnx.Module):
    """Scale each channel by a number in 0..1 that depends on the means of all channels.

    Hu et al., "Squeeze-and-Excitation Networks", 2018. The hidden layer has `squeezed` channels and
    an `activation`, a name in `ACTIVATIONS`; `gate` maps the output of the second one to 0..1.
    """

    def __init__(self, channels, squeezed, *, activation, gate, conv):
        self.activation = activation
        self.gate = gate
        self.fc1 = conv(channels, squeezed, 1, use_bias=True)
        self.fc2 = conv(squeezed, channels, 1, use_bias=True)

    def __call__(self, x):
        """Scale the channels of `x` `[frames, height, width, channels]`."""
        means = global_average_pool(x)[:, None, None]  # [frames, 1, 1, channels]
        hidden = ACTIVATIONS[self.activation](self.fc1(means))
        return x * self.gate(self.fc2(hidden)).astype(x.dtype)


class MBConv(nnx.Module):
    """1x1, depthwise and 1x1 convolutions, the last without activation, and a shortcut.

    The first one, `expand`, is missing where the block is not wider inside. Only blocks that keep
    the shape have a shortcut.

    Args:
        in_channels: channels of the input.
        shape: a `BlockShape`.
        squeeze: `activation` and `gate` of squeeze-and-excitation, see `SqueezeExcite`, if the
            block has it.
        drop_path_rate: probability that a frame skips the convolutions in training.
        temporal: a `TemporalHook`, or `None`. Its op is applied before `expand`, in the residual
            branch only, of blocks with a shortcut that are wider inside, as for MobileNetV2 in
            the paper (Lin et al., "TSM", 2019).
        conv: constructor of convolutions.
        norm: constructor of batch norms.
    """

    def __init__(
        self, in_channels, shape, *, squeeze=None, drop_path_rate=0.0, temporal=None, conv, norm
    ):
        size, inner, channels, squeezed, activation, stride = shape
        self.has_shortcut = stride == 1 and in_channels == channels
        self.drop_path_rate = drop_path_rate if self.has_shortcut else 0.0
        shifts = temporal and self.has_shortcut and inner > in_channels
        self.temporal_op = temporal.op(in_channels) if shifts else None
        self.shift_place = "blockres" if shifts else None
        layer = partial(ConvNormActivation, conv=conv, norm=norm, activation=activation)
        self.expand = layer(in_channels, inner, 1) if inner != in_channels else None
        self.depthwise = layer(inner, inner, size, stride=stride, groups=inner)
        self.se = SqueezeExcite(inner, squeezed, conv=conv, **squeeze) if squeezed else None
        self.project = layer(inner, channels, 1, activation=None)

    def __call__(self, x, *, rngs=None, clip_index=None, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', channels]`.

        `rngs` and `clip_index`, see `drop_path_keys`, are for training only; `statistics` are the
        keyword arguments of `BatchNorm.__call__`.
        """
        y = x if self.temporal_op is None else self.temporal_op(x)
        y = y if self.expand is None else self.expand(y, **statistics)
        y = self.depthwise(y, **statistics)
        y = y if self.se is None else self.se(y)
        y = self.project(y, **statistics)
        if not self.has_shortcut:
            return y
        if rngs is not None and self.drop_path_rate:
            y = drop_path(y, self.drop_path_rate, key=rngs.dropout(), clip_index=clip_index)
        return x + y


class MBConvNet(nnx.Module):
    """A stem, inverted bottlenecks and a last 1x1 convolution, without classifier.

    Other arguments as in `ResNet`.

    Args:
        shapes: a `BlockShape` for each block. A block with stride 2 starts a stage; the last
            convolution belongs to the last one.
        stem_width: channels of the stem.
        out_channels: channels of the last convolution.
        activation: of the stem and the last convolution, a name in `ACTIVATIONS`.
        squeeze: `activation` and `gate` of squeeze-and-excitation, see `SqueezeExcite`.
        norm_options: arguments of batch norms, `epsilon` and `momentum`.
        drop_path_rate: probability that a frame skips a block in training. It rises linearly from
            0 at the first block, and would reach this rate behind the last one, as in torchvision
            (Huang et al., "Deep Networks with Stochastic Depth", 2016).

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
        draws: whether blocks are skipped at random in training.
    """

    sees_clips = False

    def __init__(
        self,
        shapes,
        *,
        stem_width,
        out_channels,
        activation,
        squeeze,
        norm_options,
        drop_path_rate,
        temporal,
        partial_bn,
        frozen_stages,
        remat,
        dtype,
        rngs,
    ):
        starts = [i for i, shape in enumerate(shapes) if i == 0 or shape.stride == 2]
        self.starts = (*starts, len(shapes))
        check_frozen(frozen_stages, len(starts))
        check_remat(remat, len(starts))
        if temporal:
            temporal.check_every_branch(type(self).__name__)
        self.remat = remat
        self.dtype = dtype
        self.drop_path_rate = drop_path_rate
        self.draws = drop_path_rate > 0

        def parts(stage):
            options = dict(frozen=frozen_stages >= stage, freeze_norm=partial_bn and stage > 0)
            return stage_layers(**options, dtype=dtype, rngs=rngs, **norm_options)

        layer = partial(ConvNormActivation, activation=activation)
        self.stem_conv = layer(3, stem_width, 3, stride=2, **parts(0))
        self.blocks: nnx.List = nnx.List([])
        channels = stem_width
        for index, shape in enumerate(shapes):
            stage = sum(start <= index for start in starts)
            rate = drop_path_rate * index / len(shapes)
            options = dict(squeeze=squeeze, drop_path_rate=rate, temporal=temporal)
            block = MBConv(channels, shape, **options, **parts(stage))
            if frozen_stages >= stage:
                freeze(block.temporal_op)
            self.blocks.append(block)
            channels = shape.channels
        self.last = layer(channels, out_channels, 1, **parts(len(starts)))
        ends = [shapes[start - 1].channels for start in starts[1:]]
        self.stage_channels = (*ends, out_channels)
        self.out_channels = out_channels

    def __call__(self, frames, *, train=False, num_groups=1, rngs=None, clip_index=None):
        """Compute the features of all stages.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones; skip blocks at
                random.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.
            rngs: source of the `dropout` keys, needed in training if the backbone `draws`.
            clip_index: index of each clip in the global batch, `[clips]`; the frames of a clip
                are consecutive. By default every frame is a clip.

        Returns:
            A list with one array `[frames, height / 2**i, width / 2**i, channels]` for each stage
            i = 1, 2, ...

        Raises:
            UserError: `rngs` is missing.
        """
        statistics = dict(train=train, num_groups=num_groups)
        random = drop_path_keys(rngs, clip_index, len(frames)) if train and self.draws else {}
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        stages = [list(self.blocks[start:end]) for start, end in bounds]
        x, remat = self.stem(frames, **statistics), self.remat if train else 0
        features = run_stages(stages, x, remat=remat, **statistics, **random)
        features[-1] = self.last(features[-1], **statistics)
        return features

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 2, width / 2, channels]`."""
        return self.stem_conv(frames, **statistics)
