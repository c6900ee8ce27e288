"""TSM and TIN (Lin et al., 2019; Shao et al., 2020) in PyTorch: wrappers of layers.

The input of a wrapped layer is shifted in time. The components `net`, `net1` and `net2` that this
adds to the names of parameters are mmaction2's.
"""

import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import sequential


def shifted(module, channels, *, num_segments, shift_div=8, causal=False, shift_segments=None):
    """`module` behind a `TemporalShift` of `channels` channels."""
    fold = channels // shift_div
    shift = TemporalShift(fold, num_segments=shift_segments or num_segments, causal=causal)
    return sequential(shift=shift, net=module)


def interlaced(module, channels, *, num_segments, shift_div=4):
    """`module` behind a `TemporalInterlace` of `channels // shift_div` channels."""
    return sequential(
        net1=TemporalInterlace(channels // shift_div, num_segments=num_segments), net2=module
    )


class TemporalShift(nn.Module):
    """Take the first `fold` channels from the next frame, the second ones from the previous one.

    Causal: take the first ones from the previous frame and keep all others.
    """

    def __init__(self, fold, *, num_segments, causal):
        super().__init__()
        self.fold = fold
        self.num_segments = num_segments
        self.causal = causal

    def forward(self, x):
        """Map `[batch * segments, channels, height, width]` to the same shape."""
        if not self.fold:
            return x
        # Concatenation along the last axis in memory. Each assignment to a slice would copy the
        # whole map, in the backward pass as well.
        clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, self.num_segments))
        moves = (1,) if self.causal else (-1, 1)
        *parts, rest = clips.split(
            [self.fold] * len(moves) + [x.shape[1] - self.fold * len(moves)], -1
        )
        moved = [_moved(part, move) for part, move in zip(parts, moves, strict=True)]
        return torch.cat([*moved, rest], -1).flatten(0, 1).permute(0, 3, 1, 2)


def _moved(clips, move):
    """Shift `[batch, segments, height, width, channels]` by one frame to later or earlier times."""
    if move > 0:
        return F.pad(clips[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return F.pad(clips[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))


class TemporalInterlace(nn.Module):
    """Shift quarters of the first `fold` channels by learned offsets, and weight them."""

    def __init__(self, fold, *, num_segments):
        super().__init__()
        self.fold = fold
        self.num_segments = num_segments
        self.offset_net = nn.Module()
        self.offset_net.conv = nn.Conv1d(fold, 1, 3, padding=1)
        self.offset_net.fc1 = nn.Linear(num_segments, num_segments)
        self.offset_net.fc2 = nn.Linear(num_segments, 2)
        self.weight_net = sequential(conv=nn.Conv1d(fold, 2, 3, padding=1))
        nn.init.constant_(self.offset_net.fc2.bias, 0.5108)
        nn.init.zeros_(self.weight_net.conv.bias)

    def forward(self, x):
        """Map `[batch * segments, channels, height, width]` to the same shape."""
        chosen, rest = x[:, : self.fold], x[:, self.fold :]
        clips = chosen.permute(0, 2, 3, 1).unflatten(0, (-1, self.num_segments))
        means = clips.mean((2, 3)).transpose(1, 2)  # [batch, fold, segments]
        net = self.offset_net
        hidden = net.fc1(net.conv(means).squeeze(1)).relu_()
        offsets = 4 * (net.fc2(hidden).sigmoid() - 0.5)  # [batch, 2]
        weights = 2 * self.weight_net(means).sigmoid()  # [batch, 2, segments]

        # Linear interpolation: frame t is the weighted sum of the frames within less than one frame
        # of t - offset.
        frames = torch.arange(self.num_segments, device=x.device, dtype=x.dtype)
        lag = frames[:, None] - frames
        distance = (lag - torch.cat([offsets, -offsets], 1)[..., None, None]).abs()
        matrix = (1 - distance).clamp_(min=0) * torch.cat([weights, weights], 1)[..., None]
        quarters = clips.flatten(2, 3).unflatten(-1, (4, -1))
        moved = torch.einsum("nqts,nspqc->ntpqc", matrix, quarters)
        moved = moved.reshape(*chosen.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return torch.cat([moved, rest], 1)
