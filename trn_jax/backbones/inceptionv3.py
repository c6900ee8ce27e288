"""Inception-v3 (Szegedy et al., "Rethinking the Inception Architecture", 2016), as in torchvision.

Attribute names are torchvision's. Pixels are scaled to -1..1, frames usually have 299 pixels and at
least 75.
"""

from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.bninception import average_3x3
from trn_jax.backbones.stages import check_frozen, check_remat, run_stages, stage_layers
from trn_jax.errors import UserError
from trn_jax.nn.layers import ConvNormRelu
from trn_jax.nn.pooling import max_pool

MIN_PIXELS = 75


# A branch is a chain of convolutions (name, channels, kernel, stride); the kernel is a size or
# (rows, columns). A tuple of them at the end of a branch are side by side. The pooled branch of a
# block is the average of 3x3 pixels and a 1x1 convolution of so many channels, or, in blocks that
# halve the map, "max": a maximum of 3x3 pixels.
def block_a(pooled):
    """Branches of the blocks at 35x35 pixels."""
    return (
        pooled,
        (("branch1x1", 64, 1, 1),),
        (("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)),
        (
            ("branch3x3dbl_1", 64, 1, 1),
            ("branch3x3dbl_2", 96, 3, 1),
            ("branch3x3dbl_3", 96, 3, 1),
        ),
    )


def block_c(channels):
    """Branches of the blocks at 17x17 pixels, with so many channels inside."""
    return (
        192,
        (("branch1x1", 192, 1, 1),),
        (
            ("branch7x7_1", channels, 1, 1),
            ("branch7x7_2", channels, (1, 7), 1),
            ("branch7x7_3", 192, (7, 1), 1),
        ),
        (
            ("branch7x7dbl_1", channels, 1, 1),
            ("branch7x7dbl_2", channels, (7, 1), 1),
            ("branch7x7dbl_3", channels, (1, 7), 1),
            ("branch7x7dbl_4", channels, (7, 1), 1),
            ("branch7x7dbl_5", 192, (1, 7), 1),
        ),
    )


_BLOCK_B = (
    "max",
    (("branch3x3", 384, 3, 2),),
    (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)),
)
_BLOCK_D = (
    "max",
    (("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)),
    (
        ("branch7x7x3_1", 192, 1, 1),
        ("branch7x7x3_2", 192, (1, 7), 1),
        ("branch7x7x3_3", 192, (7, 1), 1),
        ("branch7x7x3_4", 192, 3, 2),
    ),
)
_BLOCK_E = (
    192,
    (("branch1x1", 320, 1, 1),),
    (
        ("branch3x3_1", 384, 1, 1),
        (("branch3x3_2a", 384, (1, 3), 1), ("branch3x3_2b", 384, (3, 1), 1)),
    ),
    (
        ("branch3x3dbl_1", 448, 1, 1),
        ("branch3x3dbl_2", 384, 3, 1),
        (("branch3x3dbl_3a", 384, (1, 3), 1), ("branch3x3dbl_3b", 384, (3, 1), 1)),
    ),
)
# The stages, of (name, branches).
STAGES = (
    (("Mixed_5b", block_a(32)), ("Mixed_5c", block_a(64)), ("Mixed_5d", block_a(64))),
    (
        ("Mixed_6a", _BLOCK_B),
        ("Mixed_6b", block_c(128)),
        ("Mixed_6c", block_c(160)),
        ("Mixed_6d", block_c(160)),
        ("Mixed_6e", block_c(192)),
    ),
    (("Mixed_7a", _BLOCK_D), ("Mixed_7b", _BLOCK_E), ("Mixed_7c", _BLOCK_E)),
)


def _steps(branch):
    """The steps of a branch, each a tuple of layers side by side."""
    return [step if isinstance(step[0], tuple) else (step,) for step in branch]


class MixedBlock(nnx.Module):
    """Branches of convolutions side by side, and a pooled one.

    Args:
        in_channels: channels of the input.
        pooled: channels of the pooled branch, or "max".
        branches: see `STAGES`.
        conv: constructor of convolutions with batch norm and ReLU.
    """

    def __init__(self, in_channels, pooled, *branches, conv):
        self.pooled = pooled
        self.steps = tuple(
            tuple(tuple(name for name, *_ in step) for step in _steps(branch))
            for branch in branches
        )
        self.out_channels = in_channels if pooled == "max" else pooled
        for branch in branches:
            width = in_channels
            for step in _steps(branch):
                for name, channels, size, stride in step:
                    setattr(self, name, conv(width, channels, size, stride=stride))
                width = sum(channels for _, channels, *_ in step)
            self.out_channels += width
        if pooled != "max":
            self.branch_pool = conv(in_channels, pooled, 1)

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        outputs = []
        for branch in self.steps:
            y = [x]
            for names in branch:
                y = [getattr(self, name)(y[0], **statistics) for name in names]
            outputs += y
        if self.pooled == "max":
            return jnp.concatenate([*outputs, max_pool(x, 3, stride=2)], axis=-1)
        return jnp.concatenate([*outputs, self.branch_pool(average_3x3(x), **statistics)], axis=-1)


class InceptionV3(nnx.Module):
    """Inception-v3 without its classifiers; other arguments as in `ResNet`.

    Args:
        stages: the table of the blocks, see `STAGES`.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = False
    draws = False

    def __init__(
        self, stages, *, partial_bn=False, frozen_stages=-1, remat=0, dtype=jnp.float32, rngs
    ):
        check_frozen(frozen_stages, len(stages))
        check_remat(remat, len(stages))
        self.remat = remat
        self.dtype = dtype

        def layers(stage, *, freeze_norm=partial_bn):
            options = dict(frozen=frozen_stages >= stage, freeze_norm=freeze_norm, epsilon=1e-3)
            return partial(_conv_norm, **stage_layers(**options, dtype=dtype, rngs=rngs))

        stem = layers(0)
        first = layers(0, freeze_norm=False)
        self.Conv2d_1a_3x3 = first(3, 32, 3, stride=2, padding=0)
        self.Conv2d_2a_3x3 = stem(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = stem(32, 64, 3)
        self.Conv2d_3b_1x1 = stem(64, 80, 1)
        self.Conv2d_4a_3x3 = stem(80, 192, 3, padding=0)
        channels = 192
        self.block_names = tuple(tuple(name for name, _ in blocks) for blocks in stages)
        self.stage_channels: tuple[int, ...] = ()
        for stage, blocks in enumerate(stages, start=1):
            for name, branches in blocks:
                block = MixedBlock(channels, *branches, conv=layers(stage))
                setattr(self, name, block)
                channels = block.out_channels
            self.stage_channels += (channels,)
        self.out_channels = channels

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages: about an eighth, 1/16 and 1/32 of height and width.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[frames, height', width', channels]` for each stage; frames of
            299 pixels give maps of 35, 17 and 8 pixels.

        Raises:
            UserError: the frames have fewer than 75 pixels on a side.
        """
        statistics = dict(train=train, num_groups=num_groups)
        stages = [[getattr(self, name) for name in names] for names in self.block_names]
        x = self.stem(frames, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, frames, **statistics):
        """Map `[frames, 8 * height + 19, 8 * width + 19, 3]` to `[frames, height, width, 192]`."""
        if min(frames.shape[1:3]) < MIN_PIXELS:
            raise UserError(
                f"frames have {frames.shape[1]}x{frames.shape[2]} pixels; Inception-v3 needs at "
                f"least {MIN_PIXELS} on each side"
            )
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(frames, **statistics), **statistics)
        x = max_pool(self.Conv2d_2b_3x3(x, **statistics), 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x, **statistics), **statistics)
        return max_pool(x, 3, stride=2)


def _conv_norm(in_channels, channels, size, *, stride=1, padding=None, conv, norm):
    """Convolution, batch norm, ReLU; by default the border is padded to keep the size."""
    if padding is None and stride == 2:
        padding = 0
    if padding is None:
        padding = tuple(n // 2 for n in size) if isinstance(size, tuple) else size // 2
    layer = conv(in_channels, channels, size, stride=stride, padding=padding)
    return ConvNormRelu(layer, norm(channels))
