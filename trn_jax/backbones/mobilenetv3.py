"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", 2019), with torchvision's numerics."""

import math

import jax
import jax.numpy as jnp

from trn_jax.backbones.mbconv import BlockShape, MBConvNet
from trn_jax.nn.layers import Linear, freeze, global_average_pool

# Of MobileNetV3-Large.
LARGE = (
    BlockShape(3, 16, 16, 0, "relu", 1),
    BlockShape(3, 64, 24, 0, "relu", 2),
    BlockShape(3, 72, 24, 0, "relu", 1),
    BlockShape(5, 72, 40, 24, "relu", 2),
    BlockShape(5, 120, 40, 32, "relu", 1),
    BlockShape(5, 120, 40, 32, "relu", 1),
    BlockShape(3, 240, 80, 0, "hard_swish", 2),
    BlockShape(3, 200, 80, 0, "hard_swish", 1),
    BlockShape(3, 184, 80, 0, "hard_swish", 1),
    BlockShape(3, 184, 80, 0, "hard_swish", 1),
    BlockShape(3, 480, 112, 120, "hard_swish", 1),
    BlockShape(3, 672, 112, 168, "hard_swish", 1),
    BlockShape(5, 672, 160, 168, "hard_swish", 2),
    BlockShape(5, 960, 160, 240, "hard_swish", 1),
    BlockShape(5, 960, 160, 240, "hard_swish", 1),
)


class MobileNetV3(MBConvNet):
    """MobileNetV3 without its last layer; other arguments as in `MBConvNet`.

    The hidden layer of its classifier, which sees the means of all pixels, belongs to the backbone,
    as in timm. The features of the last stage are therefore vectors, `[frames, 1, 1, channels]`.

    Args:
        shapes: a `BlockShape` for each block, see `LARGE`.
        stem_width: channels of the stem.
        last_width: channels of the last convolution.
        hidden: channels of the hidden layer.
        norm_epsilon: added to the variance in batch norms. timm's weights were trained with 1e-5.
    """

    def __init__(
        self,
        shapes,
        *,
        stem_width=16,
        last_width=960,
        hidden=1280,
        norm_epsilon=1e-3,
        temporal=None,
        partial_bn=False,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        super().__init__(
            shapes,
            stem_width=stem_width,
            out_channels=last_width,
            activation="hard_swish",
            squeeze=dict(activation="relu", gate=jax.nn.hard_sigmoid),
            norm_options=dict(epsilon=norm_epsilon, momentum=0.99),
            drop_path_rate=0.0,
            temporal=temporal,
            partial_bn=partial_bn,
            frozen_stages=frozen_stages,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )
        std = math.sqrt(1 / last_width)
        self.hidden = Linear(last_width, hidden, std=std, dtype=dtype, rngs=rngs)
        if frozen_stages == len(self.stage_channels):
            freeze(self.hidden)
        self.out_channels = hidden
        self.stage_channels = (*self.stage_channels[:-1], hidden)

    def __call__(self, frames, **options):
        """Compute the features of all stages, see `MBConvNet`; those of the last are vectors."""
        features = super().__call__(frames, **options)
        means = global_average_pool(features[-1])[:, None, None]
        features[-1] = jax.nn.hard_swish(self.hidden(means))
        return features
