"""Temporal Interlacing Network (Shao et al., "Temporal Interlacing Network", 2020).

TSM with learned offsets: groups of channels are shifted in time by fractions of frames that depend
on the clip, and weighted frame by frame.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn import initial
from trn_jax.nn.layers import Linear, global_average_pool, split_clips, storage_dtype

# Offsets start at half a frame: the inverse of the offset net's last step at 1/2.
_OFFSET_BIAS = 0.5108


class TemporalInterlace(nnx.Module):
    """Shift quarters of some channels by learned offsets (section 3 of the paper).

    The first F = `channels // shift_div` channels are interlaced. From their means over height and
    width, the offset net computes two offsets o0, o1 in (-2, 2) frames per clip, the weight net two
    weights w0, w1 in (0, 2) per frame. The quarters of the F channels are shifted by o0, o1, -o0,
    -o1 frames to later times and multiplied by w0, w1, w0, w1, with linear interpolation between
    frames and zeros outside the clip.

    The gradient is the true one, as in the paper's own code. (mmcv's backward kernel shifts
    gradients in the direction of the features instead of back.)

    Args:
        channels: channels of the features.
        num_segments: number of frames of a clip; the offset net's size depends on it.
        shift_div: the share of the channels that is interlaced is 1 / `shift_div`.
        dtype: dtype of the shifted features. The two networks compute in `storage_dtype(dtype)`.
        rngs: source of the `params` keys.

    Raises:
        UserError: the number of interlaced channels is not a multiple of 4.
    """

    def __init__(self, channels, *, num_segments, shift_div=4, dtype=jnp.float32, rngs):
        interlaced = channels // shift_div
        if interlaced < 4 or interlaced % 4:
            raise UserError(
                f"temporal interlacing shifts quarters of channels // shift_div = {channels} // "
                f"{shift_div} = {interlaced} channels, which must be a positive multiple of 4; "
                "change shift_div or width"
            )
        kept = storage_dtype(dtype)
        self.num_segments = num_segments
        self.num_interlaced = interlaced
        self.dtype = dtype
        self.offset_conv = TemporalConv(interlaced, 1, dtype=kept, rngs=rngs)
        self.offset_fc1 = Linear(num_segments, num_segments, dtype=kept, rngs=rngs)
        self.offset_fc2 = Linear(num_segments, 2, dtype=kept, rngs=rngs)
        self.offset_fc2.bias.set_value(jnp.full((2,), _OFFSET_BIAS, kept))
        self.weight_conv = TemporalConv(interlaced, 2, dtype=kept, rngs=rngs)
        self.weight_conv.bias.set_value(jnp.zeros((2,), kept))

    def __call__(self, x):
        """Map `[batch * segments, height, width, channels]`, the frames of a clip in a row.

        Raises:
            UserError: the number of frames is not a multiple of `num_segments`.
        """
        chosen = split_clips(x[..., : self.num_interlaced], self.num_segments)
        means = global_average_pool(chosen)  # [batch, segments, interlaced]
        moved = interlace(chosen.astype(self.dtype), self.offsets(means), self.weights(means))
        moved = moved.reshape(*x.shape[:-1], -1)
        return jnp.concatenate([moved, x[..., self.num_interlaced :].astype(self.dtype)], axis=-1)

    def offsets(self, means):
        """Offsets `[batch, 2]`, in frames, from `means` `[batch, segments, interlaced]`."""
        hidden = self.offset_conv(means)[..., 0]  # [batch, segments]
        hidden = jax.nn.relu(self.offset_fc1(hidden))
        return 4 * (jax.nn.sigmoid(self.offset_fc2(hidden)) - 0.5)

    def weights(self, means):
        """Weights `[batch, segments, 2]` from `means` `[batch, segments, interlaced]`."""
        return 2 * jax.nn.sigmoid(self.weight_conv(means))


class TemporalConv(nnx.Module):
    """Convolution over three frames with bias; zeros before the first and after the last one.

    Kernel and bias are drawn uniformly from +-1/sqrt(3 * in_channels), PyTorch's default.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
    """

    def __init__(self, in_channels, out_channels, *, dtype=jnp.float32, rngs):
        self.dtype = dtype
        bound, kept = 1 / math.sqrt(3 * in_channels), storage_dtype(dtype)
        shape = (3, in_channels, out_channels)
        kernel = initial.uniform(rngs.params(), shape, kept, bound)
        bias = initial.uniform(rngs.params(), (out_channels,), kept, bound)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias)

    def __call__(self, x):
        """Map `[batch, segments, in_channels]` to `[batch, segments, out_channels]`."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        padded = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (0, 0)))
        # One matrix product instead of a convolution with one or two output channels.
        taps = jnp.stack([padded[:, i : i + x.shape[1]] for i in range(3)], axis=2)
        return jnp.einsum("btki,kio->bto", taps, kernel) + bias


def interlace(x, offsets, weights):
    """Shift quarters of the channels in time and weight them.

    A matrix product over time, without a scatter in the backward pass: on a CPU, both passes take
    0.6 of the time of indexing.

    Args:
        x: features `[batch, segments, height, width, channels]`.
        offsets: o0, o1 of every clip, in frames, `[batch, 2]`.
        weights: w0, w1 of every frame, `[batch, segments, 2]`.

    Returns:
        The shifted features, shape and dtype of `x`.
    """
    batch, segments, height, width, channels = x.shape
    matrix = _interpolation(jnp.concatenate([offsets, -offsets], axis=-1), segments)
    matrix *= jnp.concatenate([weights, weights], axis=-1).swapaxes(1, 2)[..., None]
    quarters = x.reshape(batch, segments, height * width, 4, channels // 4)
    moved = jnp.einsum("bqts,bspqc->btpqc", matrix.astype(x.dtype), quarters)
    return moved.reshape(x.shape)


def _interpolation(offsets, segments):
    """The matrices that shift by `offsets`, `[...]` to `[..., segments (to), segments (from)]`.

    Entry t, s is max(0, 1 - |t - s - offset|), written with the integer and fractional parts of the
    offset: at integer offsets, where the function has a kink, its gradient is the one on the right,
    as in the references.
    """
    offsets = offsets[..., None, None]
    whole = jnp.floor(offsets)
    fraction = offsets - jax.lax.stop_gradient(whole)
    frames = np.arange(segments, dtype=offsets.dtype)
    lag = frames[:, None] - frames
    return (lag == whole) * (1 - fraction) + (lag == whole + 1) * fraction
