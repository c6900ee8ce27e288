"""Non-local blocks (Wang et al., 2018) in PyTorch, with mmaction2's names."""

import torch
from torch import nn

from trn_jax.torch_models.layers import sequential

# mmaction2's `non_local` of a ResNet-50, as a mask of the blocks of each stage.
_MASKS = ((0, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 0, 0))


def is_behind(stage, index):
    """Whether a non-local block is behind block `index` of a stage; both count from 0."""
    return index < len(_MASKS[stage]) and bool(_MASKS[stage][index])


class NonLocal(nn.Module):
    """Add to each position the weighted mean of embedded features of all positions of its clip.

    Args:
        channels: channels of the features; embeddings have half as many.
        mode: "embedded_gaussian", "gaussian" or "dot_product".
    """

    def __init__(self, channels, mode):
        super().__init__()
        embedded = max(channels // 2, 1)
        self.mode = mode

        def pooled(*layers):
            return nn.Sequential(*layers, nn.MaxPool3d((1, 2, 2)))

        def embedding():
            conv = nn.Conv3d(channels, embedded, 1)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
            return sequential(conv=conv)

        self.g = pooled(embedding())
        self.theta = nn.Identity() if mode == "gaussian" else embedding()
        self.phi = pooled() if mode == "gaussian" else pooled(embedding())
        conv = nn.Conv3d(embedded, channels, 1, bias=False)
        self.conv_out = sequential(conv=conv, bn=nn.BatchNorm3d(channels))
        nn.init.zeros_(self.conv_out.bn.weight)

    def forward(self, x):
        """Map `[batch, channels, time, height, width]` to the same shape."""
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        weights = torch.einsum("bci,bcj->bij", theta, phi)
        dot_product = self.mode == "dot_product"
        weights = weights / phi.shape[2] if dot_product else weights.softmax(-1)
        y = torch.einsum("bij,bcj->bci", weights, g)
        return x + self.conv_out(y.unflatten(2, x.shape[2:]))


class BlockBeforeNonLocal(nn.Module):
    """A block of a 2-D network and the non-local block behind it.

    Args:
        block: maps `[batch * segments, channels, height, width]`.
        channels: channels of its output.
        mode: see `NonLocal`.
        num_segments: number of frames of a clip.
    """

    def __init__(self, block, channels, *, mode, num_segments):
        super().__init__()
        self.num_segments = num_segments
        self.block = block
        self.non_local_block = NonLocal(channels, mode)

    def forward(self, x):
        """Map `[batch * segments, channels, height, width]` to such maps."""
        x = self.block(x)
        clips = x.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        return self.non_local_block(clips).transpose(1, 2).flatten(0, 1)
