"""EfficientNet (Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", 2019).

Numerics are torchvision's and timm's, which pad both sides of an image alike. The networks that
were ported from TensorFlow (`tf_efficientnet_*`, mmpretrain) pad differently.
"""

import jax
import jax.numpy as jnp

from trn_jax.backbones.mbconv import BlockShape, MBConvNet

# Of EfficientNet-B0: channels inside for each channel of the input, size of the depthwise kernel,
# stride of the first block, channels, number of blocks.
B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNet(MBConvNet):
    """EfficientNet without its classifier; other arguments as in `MBConvNet`.

    Args:
        layers: shapes of the blocks, see `B0`.
        stem_width: channels of the stem.
        out_channels: channels of the last convolution.
        drop_path_rate: how often frames skip blocks in training, see `MBConvNet`.
    """

    def __init__(
        self,
        layers,
        *,
        stem_width=32,
        out_channels=1280,
        drop_path_rate=0.2,
        temporal=None,
        partial_bn=False,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        shapes, channels = [], stem_width
        for expansion, size, stride, width, depth in layers:
            for index in range(depth):
                inner, squeezed = channels * expansion, max(1, channels // 4)
                step = 1 if index else stride
                shapes.append(BlockShape(size, inner, width, squeezed, "silu", step))
                channels = width
        super().__init__(
            shapes,
            stem_width=stem_width,
            out_channels=out_channels,
            activation="silu",
            squeeze=dict(activation="silu", gate=jax.nn.sigmoid),
            norm_options={},
            drop_path_rate=drop_path_rate,
            temporal=temporal,
            partial_bn=partial_bn,
            frozen_stages=frozen_stages,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )
