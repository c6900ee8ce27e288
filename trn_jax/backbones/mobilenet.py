"""MobileNetV2 (Sandler et al., "Inverted Residuals and Linear Bottlenecks", 2018).

Numerics and channels at other widths are torchvision's. The names of the stages are mmaction2's:
`layer2[1].expand` here is `layer2.1.conv.0` there.
"""

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.mbconv import BlockShape, ConvNormActivation, MBConv
from trn_jax.backbones.stages import check_frozen, check_remat, run_stages, stage_layers
from trn_jax.errors import UserError
from trn_jax.nn.layers import freeze, relu6

# Of `layer1`, `layer2`, ...: channels inside a block for each channel of its input, channels of the
# output, number of blocks, stride of the first block.
LAYERS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The layers of each stage, whose maps have half the height and width of those before. The last
# convolution belongs to the last stage.
STAGES = ((1,), (2,), (3,), (4, 5), (6, 7))
_STEM, _LAST = 32, 1280  # channels of the first and of the last convolution
_MAX_WIDTH_FACTOR = 4


def scaled(channels, factor):
    """`channels * factor` as the nearest multiple of 8, but at least 90 % of it."""
    exact = channels * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


class MobileNetV2(nnx.Module):
    """MobileNetV2 without its classifier; other arguments as in `ResNet`.

    As in mmaction2 and in the repository of TSM, temporal ops are in the residual branches of the
    ten blocks with a shortcut. That repository rounds the channels of other widths differently; its
    published weights have width 1.

    Args:
        layers: shapes of the blocks, see `LAYERS`.
        stages: numbers of the layers of each stage, see `STAGES`.
        width_factor: factor of all numbers of channels, such as 0.5 or 1.4; the last convolution
            keeps its 1280 channels if the factor is below 1.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = False
    draws = False

    def __init__(
        self,
        layers=LAYERS,
        stages=STAGES,
        *,
        width_factor=1.0,
        temporal=None,
        partial_bn=False,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        if not 0 < width_factor <= _MAX_WIDTH_FACTOR:
            raise UserError(
                f"width_factor={width_factor} must be more than 0 and at most "
                f"{_MAX_WIDTH_FACTOR}: a factor of all numbers of channels, such as 0.5 or 1.4"
            )
        if temporal:
            temporal.check_every_branch("MobileNetV2")
        check_frozen(frozen_stages, len(stages))
        check_remat(remat, len(stages))
        self.remat = remat
        self.dtype = dtype
        self.stages = stages

        def parts(stage):
            options = dict(frozen=frozen_stages >= stage, freeze_norm=partial_bn and stage > 0)
            return stage_layers(**options, dtype=dtype, rngs=rngs)

        channels = scaled(_STEM, width_factor)
        self.conv1 = parts(0)["conv"](3, channels, 3, stride=2, padding=1)
        self.bn1 = parts(0)["norm"](channels)
        stage_channels = []
        for stage, numbers in enumerate(stages, start=1):
            for number in numbers:
                expansion, width, depth, stride = layers[number - 1]
                blocks = []
                for index in range(depth):
                    inner, step = channels * expansion, 1 if index else stride
                    in_channels, channels = channels, scaled(width, width_factor)
                    shape = BlockShape(3, inner, channels, 0, "relu6", step)
                    blocks.append(MBConv(in_channels, shape, temporal=temporal, **parts(stage)))
                    if frozen_stages >= stage:
                        freeze(blocks[-1].temporal_op)
                setattr(self, f"layer{number}", nnx.List(blocks))
            stage_channels.append(channels)
        self.out_channels = scaled(_LAST, max(1.0, width_factor))
        last = dict(activation="relu6", **parts(len(stages)))
        self.conv2 = ConvNormActivation(channels, self.out_channels, 1, **last)
        self.stage_channels = (*stage_channels[:-1], self.out_channels)

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[frames, height / 2**i, width / 2**i, channels]` for each stage
            i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        stages = [
            [block for number in numbers for block in getattr(self, f"layer{number}")]
            for numbers in self.stages
        ]
        stages[-1].append(self.conv2)
        x = self.stem(frames, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 2, width / 2, channels]`."""
        return relu6(self.bn1(self.conv1(frames), **statistics))
