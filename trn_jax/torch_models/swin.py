"""Swin Transformer (Liu et al., 2021) in PyTorch, with timm's names."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import sequential


class WindowAttention(nn.Module):
    """Self-attention inside windows, shifted by `shift` pixels along axes with several."""

    def __init__(self, channels, *, num_heads, window, shift):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        table = 0.02 * torch.randn((2 * window - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        row, column = torch.arange(window**2) // window, torch.arange(window**2) % window
        rows, columns = row[:, None] - row, column[:, None] - column
        index = (rows + window - 1) * (2 * window - 1) + columns + window - 1
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x):
        """Map `[frames, height, width, channels]` to the same shape."""
        frames, height, width, channels = x.shape
        window = self.window
        shift = [self.shift if size > window else 0 for size in (height, width)]
        if any(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = x.reshape(frames, height // window, window, width // window, window, channels)
        x = x.transpose(2, 3).reshape(-1, window**2, channels)  # [frames * windows, ...]
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias[None]  # [1, heads, pixels, pixels]
        if any(shift):
            mask = shift_mask(height, width, window, *shift, x.device).to(x.dtype)[:, None]
            bias = (bias + mask).repeat(frames, 1, 1, 1)
        x = F.scaled_dot_product_attention(*qkv, attn_mask=bias)
        x = self.proj(x.transpose(1, 2).flatten(2))
        x = x.reshape(frames, height // window, width // window, window, window, channels)
        x = x.transpose(2, 3).reshape(frames, height, width, channels)
        return x.roll(shift, (1, 2)) if any(shift) else x


class Block(nn.Module):
    """Attention, then a multilayer perceptron, each added to its input."""

    def __init__(self, channels, *, num_heads, window, shift, drop_path_rate):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads=num_heads, window=window, shift=shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = sequential(
            fc1=nn.Linear(channels, 4 * channels),
            gelu=nn.GELU(),
            fc2=nn.Linear(4 * channels, channels),
        )

    def forward(self, x):
        """Map `[frames, height, width, channels]` to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def drop_path(self, y):
        """Zero `y` of random frames in training; scale up the others."""
        if not self.training or not self.drop_path_rate:
            return y
        kept = 1 - self.drop_path_rate
        return y * (torch.rand(len(y), 1, 1, 1, device=y.device) < kept) / kept


class PatchMerging(nn.Module):
    """Merge 2x2 pixels into one with twice the channels."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x):
        """Map `[frames, height, width, channels]` to half the sides and twice the channels."""
        columns = [x[:, :, i::2] for i in (0, 1)]
        x = torch.cat([column[:, i::2] for column in columns for i in (0, 1)], -1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Patch merging, if any, then the blocks."""

    def __init__(self, downsample, blocks):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        """Map `[frames, height, width, channels]` to `[frames, height', width', channels']`."""
        return self.blocks(self.downsample(x))


class Swin(nn.Module):
    """Swin Transformer without its classifier.

    Args:
        depths: number of blocks in each stage.
        width: channels of the first stage.
        head_channels: channels of an attention head.
        window: side of the windows, in patches.
        patch: side of a patch, in pixels.
        drop_path_rate: probability to skip a branch of the last block in training.
    """

    sees_clips = False

    def __init__(self, depths, *, width, head_channels=32, window=7, patch=4, drop_path_rate=0.1):
        super().__init__()
        self.patch_embed = sequential(
            proj=nn.Conv2d(3, width, patch, patch), norm=nn.LayerNorm(width)
        )
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.layers = nn.ModuleList()
        self.stage_channels = []
        for stage, depth in enumerate(depths):
            channels = width * 2**stage
            blocks = [
                Block(
                    channels,
                    num_heads=channels // head_channels,
                    window=window,
                    shift=window // 2 if index % 2 else 0,
                    drop_path_rate=next(rates),
                )
                for index in range(depth)
            ]
            merging = PatchMerging(channels // 2) if stage else nn.Identity()
            self.layers.append(Stage(merging, blocks))
            self.stage_channels.append(channels)
        self.norm = nn.LayerNorm(width * 2 ** (len(depths) - 1))

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        x = self.patch_embed.proj(frames).permute(0, 2, 3, 1)
        x = self.patch_embed.norm(x)
        features = []
        for stage in self.layers:
            x = stage(x)
            features.append(x)
        features[-1] = self.norm(x)
        return [x.permute(0, 3, 1, 2) for x in features]


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # cached tensors may be used in training
def shift_mask(height, width, window, down, right, device):
    """Mask between pixels that only share a window because of a shift, `[windows, pixels, pixels]`.

    Args:
        height: of the map, in pixels.
        width: of the map, in pixels.
        window: side of the windows, in pixels.
        down: vertical shift of the map, in pixels.
        right: horizontal shift, in pixels.
        device: device of the mask.
    """
    part = torch.zeros(height, width, device=device)
    part[height - down :] += 1
    part[:, width - right :] += 2
    part = part.view(height // window, window, width // window, window)
    part = part.transpose(1, 2).reshape(-1, window**2)
    return torch.where(part[:, :, None] == part[:, None], 0.0, -100.0)
