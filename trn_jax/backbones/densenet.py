"""DenseNet (Huang et al., "Densely Connected Convolutional Networks", 2017), as in torchvision.

Attribute names are torchvision's, so `denseblock1.denselayer1.conv1` here is
`features.denseblock1.denselayer1.conv1` there.
"""

import math
from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.stages import check_remat, run_stages
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, relu, storage_dtype
from trn_jax.nn.pooling import max_pool
from trn_jax.nn.shared_norm import Features


class DenseLayer(nnx.Module):
    """Batch norm, ReLU, 1x1 convolution; batch norm, ReLU, 3x3 convolution.

    Args:
        in_channels: channels of the input.
        growth: channels that the layer adds; the 1x1 convolution gives four times as many.
        conv: constructor of convolutions.
        norm: constructor of batch norms.
    """

    def __init__(self, in_channels, growth, *, conv, norm):
        self.norm1 = norm(in_channels)
        self.conv1 = conv(in_channels, 4 * growth, 1)
        self.norm2 = norm(4 * growth)
        self.conv2 = conv(4 * growth, growth, 3, padding=1)

    def __call__(self, features, **statistics):
        """Map `Features` of `[frames, height, width, in_channels]` to `[..., growth]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = self.conv1(features.norm_relu(self.norm1, **statistics))
        return self.conv2(relu(self.norm2(y, **statistics)))


class DenseBlock(nnx.Module):
    """Layers that take the block's input and the outputs of all layers before them.

    Args:
        depth: number of layers.
        in_channels: channels of the input.
        growth: channels that a layer adds.
        conv: constructor of convolutions.
        norm: constructor of batch norms.
    """

    def __init__(self, depth, in_channels, growth, *, conv, norm):
        self.depth = depth
        self.out_channels = in_channels + depth * growth
        for index in range(depth):
            layer = DenseLayer(in_channels + index * growth, growth, conv=conv, norm=norm)
            setattr(self, f"denselayer{index + 1}", layer)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height, width, out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        features = Features(x)
        for index in range(self.depth):
            layer = getattr(self, f"denselayer{index + 1}")
            features.append(layer(features, **statistics))
        return features.joined()


class Transition(nnx.Module):
    """Batch norm, ReLU, a 1x1 convolution to half the channels, 2x2 means, between two blocks.

    Args:
        in_channels: channels of the input.
        conv: constructor of convolutions.
        norm: constructor of batch norms.
    """

    def __init__(self, in_channels, *, conv, norm):
        self.out_channels = in_channels // 2
        self.norm = norm(in_channels)
        self.conv = conv(in_channels, self.out_channels, 1)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, channels]` to half of each but the frames.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        return average_2x2(self.conv(relu(self.norm(x, **statistics))))


class DenseNet(nnx.Module):
    """DenseNet without its classifier and the ReLU that torchvision has before it.

    mmaction2 trains its heads on the output of the last batch norm, negative values included. Other
    arguments as in `ResNet`.

    Args:
        depths: number of layers in each block.
        growth: channels that a layer adds.
        width: channels of the stem.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = False
    draws = False

    def __init__(
        self, depths, *, growth, width, partial_bn=False, remat=0, dtype=jnp.float32, rngs
    ):
        check_remat(remat, len(depths))
        self.remat = remat
        self.dtype = dtype
        conv = partial(_conv, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, frozen=partial_bn, dtype=dtype)
        self.conv0 = conv(3, width, 7, stride=2, padding=3)
        self.norm0 = norm(width, frozen=False)
        self.num_stages = len(depths)
        self.stage_channels: tuple[int, ...] = ()
        channels = width
        for stage, depth in enumerate(depths, start=1):
            block = DenseBlock(depth, channels, growth, conv=conv, norm=norm)
            setattr(self, f"denseblock{stage}", block)
            channels = block.out_channels
            self.stage_channels += (channels,)
            if stage < len(depths):
                transition = Transition(channels, conv=conv, norm=norm)
                setattr(self, f"transition{stage}", transition)
                channels = transition.out_channels
        self.norm5 = norm(channels)
        self.out_channels = channels

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages: the blocks' outputs, the last one normalised.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[frames, height / 2**(i + 1), width / 2**(i + 1), channels]` for
            each stage i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        blocks = [[getattr(self, f"denseblock{i + 1}")] for i in range(self.num_stages)]
        transitions = [getattr(self, f"transition{i}") for i in range(1, self.num_stages)]
        transitions = [partial(transition, **statistics) for transition in transitions]
        x, remat = self.stem(frames, **statistics), self.remat if train else 0
        features = run_stages(blocks, x, remat=remat, between=transitions, **statistics)
        features[-1] = self.norm5(features[-1], **statistics)
        return features

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 4, width / 4, width_of_stem]`."""
        x = relu(self.norm0(self.conv0(frames), **statistics))
        return max_pool(x, 3, stride=2, padding=1)


def average_2x2(x):
    """Mean over 2x2 pixels of `x` `[frames, height, width, channels]`; drops an odd last row."""
    frames, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(frames, height // 2, 2, width // 2, 2, channels)
    return jnp.mean(x, axis=(2, 4), dtype=storage_dtype(x.dtype)).astype(x.dtype)


def _conv(in_channels, out_channels, kernel_size, **options):
    """A convolution with kernels from N(0, 2 / fan_in), as in torchvision's DenseNet only."""
    std = math.sqrt(2 / (kernel_size * kernel_size * in_channels))
    return Conv(in_channels, out_channels, kernel_size, std=std, **options)
