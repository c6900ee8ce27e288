"""Swin Transformer (Liu et al., "Hierarchical Vision Transformer using Shifted Windows", 2021)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from trn_jax.backbones.stages import check_remat, drop_path_keys, run_stages
from trn_jax.errors import UserError
from trn_jax.nn import initial
from trn_jax.nn.attention import attention
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import LayerNorm, Linear, drop_path, gelu
from trn_jax.nn.pooling import pick

# Added to the scores of pixels that only share a window because of the cyclic shift.
_APART = -100.0


class WindowAttention(nnx.Module):
    """Self-attention inside windows of a map, with a learned bias per relative position.

    Args:
        channels: channels of the input and of the output.
        num_heads: number of attention heads.
        window: side of the windows.
        shifted: shift the windows by half their side, along axes with several windows.
        linear: constructor of linear layers.
        rngs: source of the `params` key.
    """

    def __init__(self, channels, *, num_heads, window, shifted, linear, rngs):
        self.num_heads = num_heads
        self.window = window
        self.shifted = shifted
        self.qkv = linear(channels, 3 * channels)
        self.proj = linear(channels, channels)
        shape = ((2 * window - 1) ** 2, num_heads)
        table = initial.normal(rngs.params(), shape, self.qkv.kernel.dtype, 0.02)
        self.relative_position_bias_table = nnx.Param(table)

    def __call__(self, x):
        """Map `[frames, height, width, channels]`, multiples of the window, to the same shape."""
        height, width = x.shape[1:3]
        shift = tuple(
            self.window // 2 if self.shifted and size > self.window else 0
            for size in (height, width)
        )
        qkv = self.qkv(roll(x, tuple(-s for s in shift)))
        qkv = partition(qkv, self.window, 3 * self.num_heads)
        query, key, value = lax.split(qkv, 3 * (self.num_heads,), axis=2)
        table = self.relative_position_bias_table[...]
        biases = [pick(table, (relative_positions(self.window),), 0).transpose(2, 0, 1)]
        if any(shift):
            biases.append(shift_mask(height, width, self.window, shift)[:, None])
        x = merge(attention(query, key, value, biases), height, width)
        return roll(self.proj(x), shift)


class SwinBlock(nnx.Module):
    """Attention, then a multilayer perceptron, each normalised before and added to its input.

    Args:
        channels: channels of the input and of the output.
        drop_path_rate: probability that a frame skips one of the two in training.
        norm: constructor of layer norms.
        linear: constructor of linear layers.
        **attention: arguments of `WindowAttention`.
    """

    def __init__(self, channels, *, drop_path_rate, norm, linear, **attention):
        self.drop_path_rate = drop_path_rate
        self.norm1 = norm(channels)
        self.attn = WindowAttention(channels, linear=linear, **attention)
        self.norm2 = norm(channels)
        self.fc1 = linear(channels, 4 * channels)
        self.fc2 = linear(4 * channels, channels)

    def __call__(self, x, *, rngs=None, clip_index=None):
        """Map `[frames, height, width, channels]` to the same shape; `rngs` only in training."""
        for branch in (self._attend, self._perceive):
            y = branch(x)
            if rngs is not None:
                y = drop_path(y, self.drop_path_rate, key=rngs.dropout(), clip_index=clip_index)
            x = x + y
        return x

    def _attend(self, x):
        return self.attn(self.norm1(x))

    def _perceive(self, x):
        return self.fc2(gelu(self.fc1(self.norm2(x))))


class PatchMerging(nnx.Module):
    """Merge 2x2 pixels into one: concatenate their channels, normalise, halve them."""

    def __init__(self, channels, *, norm, linear):
        self.norm = norm(4 * channels)
        self.reduction = linear(4 * channels, 2 * channels, use_bias=False)

    def __call__(self, x):
        """Map `[frames, height, width, channels]` to half the sides and twice the channels."""
        frames, height, width, channels = x.shape
        x = x.reshape(frames, height // 2, 2, width // 2, 2, channels)
        # Column by column: top left, bottom left, top right, bottom right.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(frames, height // 2, width // 2, 4 * channels)
        return self.reduction(self.norm(x))


class Swin(nnx.Module):
    """Swin Transformer without its classifier.

    Args:
        depths: number of blocks in each stage; every second one shifts its windows.
        width: channels of the first stage; stage i works with `width * 2**i`.
        head_channels: channels of an attention head.
        window: side of the windows, in patches.
        patch: side of a patch, in pixels.
        drop_path_rate: probability to skip a branch of the last block in training. It rises
            linearly from 0 at the first block (Huang et al., "Deep Networks with Stochastic
            Depth", 2016).
        remat: number of stages to rematerialise, see `run_stages`.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = False
    draws = True

    def __init__(
        self,
        depths,
        *,
        width,
        head_channels=32,
        window=7,
        patch=4,
        drop_path_rate=0.1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        check_remat(remat, len(depths))
        self.remat = remat
        self.dtype = dtype
        self.drop_path_rate = drop_path_rate
        self.multiple = patch * window * 2 ** (len(depths) - 1)
        norm = partial(LayerNorm, dtype=dtype)
        linear = partial(Linear, std=0.02, dtype=dtype, rngs=rngs)
        self.patch_embed = Conv(
            3, width, patch, stride=patch, use_bias=True, dtype=dtype, rngs=rngs
        )
        self.patch_norm = norm(width)
        self.stage_channels = tuple(width * 2**stage for stage in range(len(depths)))
        self.out_channels = self.stage_channels[-1]
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        block = partial(SwinBlock, norm=norm, linear=linear, window=window, rngs=rngs)
        self.layers = nnx.List(
            nnx.List(
                block(
                    channels,
                    drop_path_rate=next(rates),
                    num_heads=channels // head_channels,
                    shifted=i % 2 == 1,
                )
                for i in range(depth)
            )
            for depth, channels in zip(depths, self.stage_channels, strict=True)
        )
        self.merges = nnx.List(
            PatchMerging(channels, norm=norm, linear=linear)
            for channels in self.stage_channels[:-1]
        )
        self.norm = norm(self.out_channels)

    def __call__(self, frames, *, train=False, num_groups=1, rngs=None, clip_index=None):
        """Compute the features of all stages, the last one normalised.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: skip branches at random.
            num_groups: unused, there are no batch statistics.
            rngs: source of the `dropout` keys, needed in training.
            clip_index: index of each clip in the global batch, `[clips]`; the frames of a clip
                are consecutive. By default every frame is a clip.

        Returns:
            A list with one array `[frames, height / (patch * 2**i), width / (patch * 2**i),
            channels]` for each stage i = 0, 1, ...

        Raises:
            UserError: the frames don't consist of full windows, or `rngs` is missing.
        """
        random = {}
        if train and self.drop_path_rate:
            random = drop_path_keys(rngs, clip_index, len(frames))
        x, remat = self.stem(frames), self.remat if train else 0
        features = run_stages(self.layers, x, remat=remat, between=self.merges, **random)
        features[-1] = self.norm(features[-1])
        return features

    def stem(self, frames):
        """Map `[frames, height, width, 3]` to `[frames, height / patch, width / patch, width]`."""
        height, width = frames.shape[1:3]
        if height % self.multiple or width % self.multiple:
            raise UserError(
                f"frames have {height}x{width} pixels; the windows of this Swin need multiples of "
                f"{self.multiple}"
            )
        return self.patch_norm(self.patch_embed(frames))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def roll(x, shift):
    """Roll maps `[frames, height, width, channels]` by `shift` pixels down and right."""
    return jnp.roll(x, shift, axis=(1, 2))


def _roll_forward(x, shift):
    return roll(x, shift), None


def _roll_backward(shift, _, dy):
    return (roll(dy, tuple(-s for s in shift)),)


roll.defvjp(_roll_forward, _roll_backward)


def partition(x, window, num_heads):
    """Split maps `[frames, height, width, c]` into windows and heads, by one transposition.

    Returns:
        `[frames, windows, heads, window * window, c / heads]`.
    """
    frames, height, width, _ = x.shape
    x = x.reshape(frames, height // window, window, width // window, window, num_heads, -1)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(frames, -1, num_heads, window * window, x.shape[-1])


def merge(x, height, width):
    """Join the windows and heads of `partition` into maps `[frames, height, width, channels]`."""
    frames, _, num_heads, pixels, channels = x.shape
    window = math.isqrt(pixels)
    x = x.reshape(frames, height // window, width // window, num_heads, window, window, channels)
    return x.transpose(0, 1, 4, 2, 5, 3, 6).reshape(frames, height, width, num_heads * channels)


def relative_positions(window):
    """Rows of the bias table for all pairs of pixels of a window, `[query pixels, key pixels]`."""
    row, column = np.divmod(np.arange(window * window), window)
    rows = row[:, None] - row + window - 1
    columns = column[:, None] - column + window - 1
    return rows * (2 * window - 1) + columns


def shift_mask(height, width, window, shift):
    """Mask added to the scores of shifted windows, `[windows, query pixels, key pixels]`.

    After rolling the map by `shift` `[2]`, its last windows have parts of opposite borders.
    """
    wrapped = [np.arange(n) >= n - s for n, s in zip((height, width), shift, strict=True)]
    part = 2 * wrapped[0][:, None] + wrapped[1]
    part = partition(part[None, :, :, None], window, num_heads=1)[0, :, 0, :, 0]
    return np.where(part[:, :, None] == part[:, None], 0, _APART).astype(np.float32)
