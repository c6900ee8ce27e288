"""BN-Inception, the backbone of the original TRN and TSN.

Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
Covariate Shift", 2015, appendix, as converted from Caffe: convolutions before batch norms have
biases, strided pools round up, and average pools count the zeros of the border. Pixels are 0..255
minus a mean, without a divisor.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.stages import check_remat, run_stages
from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, ConvNormRelu, storage_dtype
from trn_jax.nn.pooling import max_pool

# name, 1x1, (reduced, 3x3), (reduced, double 3x3), pool, its projection: channels for a stem of 64.
# Blocks without 1x1 convolution and projection halve height and width.
BLOCKS = (
    ("3a", 64, (64, 64), (64, 96), "average", 32),
    ("3b", 64, (64, 96), (64, 96), "average", 64),
    ("3c", 0, (128, 160), (64, 96), "max", 0),
    ("4a", 224, (64, 96), (96, 128), "average", 128),
    ("4b", 192, (96, 128), (96, 128), "average", 128),
    ("4c", 160, (128, 160), (128, 160), "average", 128),
    ("4d", 96, (128, 192), (160, 192), "average", 128),
    ("4e", 0, (128, 192), (192, 256), "max", 0),
    ("5a", 352, (192, 320), (160, 224), "average", 128),
    ("5b", 352, (192, 320), (192, 224), "max", 128),
)


class InceptionBlock(nnx.Module):
    """Branches of convolutions side by side: 1x1, 3x3, two 3x3, and a pool.

    Args:
        in_channels: channels of the input.
        single: channels of the 1x1 branch; 0 for none.
        triple: channels of the 3x3 branch: of its 1x1 and of its 3x3 convolution.
        double: the same for the branch of two 3x3 convolutions.
        pool: "average" or "max".
        projected: channels of the pooled branch; 0 keeps all, and the block halves height and
            width.
        conv: constructor of convolutions with batch norm and ReLU.
    """

    def __init__(self, in_channels, single, triple, double, pool, projected, *, conv):
        self.stride = 1 if projected else 2
        self.pool = pool
        # Branches of (name, kernel size, channels); the last convolution has the stride.
        branches = [
            [("1x1", 1, single)] if single else [],
            [("3x3_reduce", 1, triple[0]), ("3x3", 3, triple[1])],
            [
                ("double_3x3_reduce", 1, double[0]),
                ("double_3x3_1", 3, double[1]),
                ("double_3x3_2", 3, double[1]),
            ],
        ]
        branches = [branch for branch in branches if branch]
        self.branches = tuple(tuple(name for name, *_ in branch) for branch in branches)
        self.convs: nnx.Dict = nnx.Dict()
        for branch in branches:
            channels = in_channels
            for name, kernel_size, out_channels in branch:
                stride = self.stride if name == branch[-1][0] else 1
                self.convs[name] = conv(channels, out_channels, kernel_size, stride=stride)
                channels = out_channels
        if projected:
            self.convs["pool_proj"] = conv(in_channels, projected, 1)
        self.out_channels = sum(branch[-1][-1] for branch in branches) + (projected or in_channels)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.

        Raises:
            UserError: a block that halves the map got one with an odd side.
        """
        if self.stride == 2 and (x.shape[1] % 2 or x.shape[2] % 2):
            raise UserError(
                f"BN-Inception can't halve a map of {x.shape[1]}x{x.shape[2]} pixels; height and "
                "width of frames must be multiples of 32"
            )
        outputs = []
        for branch in self.branches:
            y = x
            for name in branch:
                y = self.convs[name](y, **statistics)
            outputs.append(y)
        if self.stride == 2:
            y = max_pool(x, 3, stride=2, ceil_mode=True)
        else:
            y = average_3x3(x) if self.pool == "average" else max_pool(x, 3, stride=1, padding=1)
            y = self.convs["pool_proj"](y, **statistics)
        return jnp.concatenate([*outputs, y], axis=-1)


class BNInception(nnx.Module):
    """BN-Inception without its classifier; other arguments as in `ResNet`.

    Args:
        blocks: the table of the inception blocks, see `BLOCKS`.
        width: channels of the stem's first convolution; even. All others scale with it.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.

    Raises:
        UserError: for an odd width.
    """

    sees_clips = False
    draws = False

    def __init__(self, blocks, *, width=64, partial_bn=False, remat=0, dtype=jnp.float32, rngs):
        if width < 2 or width % 2:
            raise UserError(f"width={width} must be a positive even number of channels")
        self.dtype = dtype

        def scaled(channels):
            if isinstance(channels, tuple):
                return tuple(map(scaled, channels))
            return channels * width // 64

        conv = partial(_conv_norm, freeze_norm=partial_bn, dtype=dtype, rngs=rngs)
        self.conv1_7x7_s2 = conv(3, width, 7, stride=2, freeze_norm=False)
        self.conv2_3x3_reduce = conv(width, width, 1)
        channels = scaled(192)
        self.conv2_3x3 = conv(width, channels, 3)
        names = []
        self.stage_channels: tuple[int, ...] = ()
        for name, single, triple, double, pool, projected in blocks:
            single, triple, double, projected = scaled((single, triple, double, projected))
            block = InceptionBlock(channels, single, triple, double, pool, projected, conv=conv)
            if block.stride == 2:
                self.stage_channels += (channels,)
            names.append(f"inception_{name}")
            setattr(self, names[-1], block)
            channels = block.out_channels
        self.stage_channels += (channels,)
        check_remat(remat, len(self.stage_channels))
        self.remat = remat
        self.block_names = tuple(names)
        self.out_channels = channels

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages; each block that halves the map starts a stage.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list of arrays `[frames, height / 2**(i + 2), width / 2**(i + 2), channels]`, one for
            each stage i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        stages: list[list] = [[]]
        for block in (getattr(self, name) for name in self.block_names):
            if block.stride == 2:
                stages.append([])
            stages[-1].append(block)
        x = self.stem(frames, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 8, width / 8, channels]`."""
        x = self.conv1_7x7_s2(frames, **statistics)
        x = max_pool(x, 3, stride=2, ceil_mode=True)
        x = self.conv2_3x3(self.conv2_3x3_reduce(x, **statistics), **statistics)
        return max_pool(x, 3, stride=2, ceil_mode=True)


def _conv_norm(in_channels, channels, kernel_size, *, stride=1, freeze_norm, dtype, rngs):
    """Convolution with bias, batch norm, ReLU; the border is padded by half of the kernel."""
    padding = kernel_size // 2
    options = dict(stride=stride, padding=padding, use_bias=True, dtype=dtype, rngs=rngs)
    conv = Conv(in_channels, channels, kernel_size, **options)
    return ConvNormRelu(conv, BatchNorm(channels, frozen=freeze_norm, dtype=dtype))


@jax.custom_vjp
def average_3x3(x):
    """Mean over 3x3 pixels of `x` `[frames, height, width, channels]`, border zeros included."""
    y = jnp.pad(x.astype(storage_dtype(x.dtype)), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Shifted sums take a fifth of the time of a windowed reduction on a CPU.
    y = y[:, :-2] + y[:, 1:-1] + y[:, 2:]
    y = y[:, :, :-2] + y[:, :, 1:-1] + y[:, :, 2:]
    return (y / 9).astype(x.dtype)


# This linear map is its own transpose. JAX's derivative of the sums takes ten times as long.
average_3x3.defvjp(lambda x: (average_3x3(x), None), lambda _, gradient: (average_3x3(gradient),))
