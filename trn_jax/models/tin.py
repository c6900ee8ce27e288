"""Temporal Interlacing Network (Shao et al., "Temporal Interlacing Network", 2020).

TSM with learned offsets: groups of channels are shifted in time by fractions of frames that depend
on the clip, and weighted frame by frame.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from trn_jax.errors import UserError
from trn_jax.models.tsm import move
from trn_jax.nn import initial
from trn_jax.nn.layers import Linear, global_average_pool, split_clips, storage_dtype

# Offsets start at half a frame: the inverse of the offset net's last step at 1/2.
_OFFSET_BIAS = 0.5108
_LAGS = range(-2, 3)  # of the two frames around an offset in (-2, 2)


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


@jax.custom_vjp
def interlace(x, offsets, weights):
    """Shift quarters of the channels in time and weight them.

    Args:
        x: features `[batch, segments, height, width, channels]`.
        offsets: o0, o1 of every clip, in frames, `[batch, 2]`, in (-2, 2).
        weights: w0, w1 of every frame, `[batch, segments, 2]`.

    Returns:
        The shifted features, shape and dtype of `x`.
    """
    return lax.platform_dependent(
        x, offsets, weights, cpu=interlace_by_product, default=interlace_by_copies
    )


def _interlace_forward(*inputs):
    return interlace(*inputs), inputs


def _interlace_backward(inputs, gradient):
    def on_cpu(gradient, *inputs):
        return jax.vjp(interlace_by_product, *inputs)[1](gradient)

    return lax.platform_dependent(gradient, *inputs, cpu=on_cpu, default=gradients_by_copies)


interlace.defvjp(_interlace_forward, _interlace_backward)


def interlace_by_product(x, offsets, weights):
    """`interlace`, for CPUs: a matrix product over time, in 0.6 of the time of indexing."""
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
    fraction = offsets - lax.stop_gradient(whole)
    frames = np.arange(segments, dtype=offsets.dtype)
    lag = frames[:, None] - frames
    return (lag == whole) * (1 - fraction) + (lag == whole + 1) * fraction


# On GPUs and TPUs, products over a few frames would transpose the features. Instead, every frame is
# a weighted sum over all possible lags, of which at most two have a weight: one elementwise pass.
# Which lags these are depends on the clip.


def interlace_by_copies(x, offsets, weights):
    """`interlace`, for GPUs and TPUs."""
    whole, fraction, scale = (_to_channels(q, x) for q in _of_quarters(offsets, weights))
    wide = x.astype(fraction.dtype)
    mixed = sum(_share(lag, whole, fraction) * move(wide, lag) for lag in _LAGS)
    return (scale * mixed).astype(x.dtype)


def gradients_by_copies(gradient, x, offsets, weights):
    """The gradients of `interlace` at `x`, `offsets` and `weights`, in two passes."""
    quarters = _of_quarters(offsets, weights)
    whole, fraction, scale = (_to_channels(q, x) for q in quarters)
    wide, dy = x.astype(fraction.dtype), gradient.astype(fraction.dtype)
    of_x = sum(_share(lag, whole, fraction) * move(scale * dy, -lag) for lag in _LAGS)

    def of_frames(step):
        """Gradient at the weight of one of the two frames in each, `[batch, segments, 4]`."""
        frames = sum((lag == whole + step) * move(wide, lag) for lag in _LAGS)
        # To quarters at once: of sums over height and width, XLA makes sums over rows on GPUs, and
        # transposes the features of whole stages for them.
        products = (dy * frames).reshape(*x.shape[:2], -1, 4, x.shape[-1] // 4)
        return jnp.sum(products, axis=(2, 4))

    _, fraction, scale = quarters
    before, after = of_frames(0), of_frames(1)
    of_scale = before + fraction * (after - before)
    of_offset = jnp.sum(scale * (after - before), axis=1)
    return (
        of_x.astype(x.dtype),
        (of_offset[..., :2] - of_offset[..., 2:]).astype(offsets.dtype),
        (of_scale[..., :2] + of_scale[..., 2:]).astype(weights.dtype),
    )


def _of_quarters(offsets, weights):
    """Whole frames and fractions of offsets, `[batch, 1, 4]`; weights, `[batch, segments, 4]`."""
    offsets = jnp.concatenate([offsets, -offsets], axis=-1)[:, None]
    whole = jnp.floor(offsets)
    return whole, offsets - whole, jnp.concatenate([weights, weights], axis=-1)


def _to_channels(quarters, x):
    """`[..., 4]` for the channels of `x`, `[..., 1, 1, channels]`."""
    return jnp.repeat(quarters, x.shape[-1] // 4, axis=-1)[:, :, None, None]


def _share(lag, whole, fraction):
    """The share that the frame `lag` frames before has in an interpolated one."""
    return (lag == whole) * (1 - fraction) + (lag == whole + 1) * fraction
