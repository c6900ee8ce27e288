"""SlowOnly: the slow pathway of SlowFast networks (Feichtenhofer et al., 2019) on its own.

A ResNet over clips that keeps the number of frames. Only the last two stages convolve over time, in
the first convolution of their bottlenecks. Attribute names are torchvision's, see `resnet`.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.resnet import downsample, shortcut
from trn_jax.backbones.stages import check_remat, residual_shapes, run_stages
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.layers import BatchNorm, relu
from trn_jax.nn.pooling import max_pool


class Bottleneck3d(nnx.Module):
    """`taps`x1x1, 1x3x3 and 1x1x1 convolutions with a shortcut."""

    expansion = 4

    def __init__(self, in_channels, channels, *, taps, stride, dtype, rngs):
        conv = partial(Conv3d, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, dtype=dtype)
        out_channels = channels * self.expansion
        self.conv1 = conv(in_channels, channels, (taps, 1))
        self.bn1 = norm(channels)
        self.conv2 = conv(channels, channels, (1, 3), stride=stride)
        self.bn2 = norm(channels)
        self.conv3 = conv(channels, out_channels, (1, 1))
        self.bn3 = norm(out_channels)
        # Blocks start as the identity: mmaction2 does so for 3-D networks, not for 2-D ones.
        self.bn3.scale[...] = jnp.zeros_like(self.bn3.scale[...])

        def pointwise(in_channels, out_channels, size, *, stride):
            return conv(in_channels, out_channels, (1, size), stride=stride)

        self.downsample = downsample(in_channels, out_channels, stride, pointwise, norm)

    def __call__(self, x, **statistics):
        """Map `[batch, time, height, width, in_channels]` to `[..., 4 * channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        y = relu(self.bn1(self.conv1(x), **statistics))
        y = relu(self.bn2(self.conv2(y), **statistics))
        y = self.bn3(self.conv3(y), **statistics)
        return relu(y + shortcut(self.downsample, x, statistics))


class SlowOnly(nnx.Module):
    """SlowOnly network without its classifier.

    Args:
        depths: number of blocks in each of the four stages.
        width: channels of the stem; stage i works with `width * 2**i`, bottlenecks put out four
            times as many.
        remat: number of stages to rematerialise, see `run_stages`.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = True
    draws = False

    def __init__(self, depths, *, width=64, remat=0, dtype=jnp.float32, rngs):
        check_remat(remat, len(depths))
        self.remat = remat
        self.dtype = dtype
        self.conv1 = Conv3d(3, width, (1, 7), stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype)
        self.num_stages = len(depths)
        expansion = Bottleneck3d.expansion
        for stage, shapes in enumerate(residual_shapes(depths, width, expansion), start=1):
            block = partial(Bottleneck3d, taps=3 if stage > 2 else 1, dtype=dtype, rngs=rngs)
            blocks = nnx.List(block(a, b, stride=stride) for a, b, stride in shapes)
            setattr(self, f"layer{stage}", blocks)
        self.stage_channels = tuple(width * 2**i * expansion for i in range(len(depths)))
        self.out_channels = self.stage_channels[-1]

    def __call__(self, clips, *, train=False, num_groups=1):
        """Compute the features of all stages.

        Args:
            clips: normalised clips, `[batch, segments, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[batch, segments, height / 2**(i + 1), width / 2**(i + 1),
            channels]` for each stage i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        stages = [getattr(self, f"layer{stage}") for stage in range(1, self.num_stages + 1)]
        x = self.stem(clips, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, clips, **statistics):
        """Map `[..., height, width, 3]` to `[..., height / 4, width / 4, width_of_stem]`."""
        x = relu(self.bn1(self.conv1(clips), **statistics))
        pooled = max_pool(x.reshape(-1, *x.shape[2:]), 3, stride=2, padding=1)
        return pooled.reshape(*x.shape[:2], *pooled.shape[1:])
