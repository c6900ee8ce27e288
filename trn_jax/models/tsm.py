"""TSM (Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", 2019).

Some channels of every frame come from its neighbours, so that a 2-D network mixes information over
time, without parameters or multiplications.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from trn_jax.errors import UserError
from trn_jax.nn.layers import (
    Linear,
    dropout,
    global_average_pool,
    split_clips,
    storage_dtype,
)


class TemporalShift(nnx.Module):
    """Shift a part of the channels by one frame (section 3 of the paper).

    With F = `channels // shift_div`, the first F channels come from the next frame, the second F
    from the previous one, all others stay. Frames outside the clip are zero. With fewer channels
    than `shift_div`, nothing is shifted.

    Args:
        channels: channels of the features.
        num_segments: number of frames of a clip.
        shift_div: the share of channels that is shifted in each direction is 1 / `shift_div`.
        causal: use past frames only, for streams (section 4.2): the first F channels come from the
            previous frame, all others stay.
        shift_segments: length of the runs of frames, which a clip is split into, that features are
            shifted within. The whole clip by default.

    Raises:
        UserError: `shift_div` is below 2, or `shift_segments` does not divide `num_segments`.
    """

    def __init__(self, channels, *, num_segments, shift_div=8, causal=False, shift_segments=None):
        if shift_div < 2:
            raise UserError(
                f"shift_div={shift_div} must be at least 2: 1/shift_div of the channels is shifted "
                "in each direction"
            )
        shift_segments = num_segments if shift_segments is None else shift_segments
        if shift_segments < 1 or num_segments % shift_segments:
            raise UserError(
                f"shift_segments={shift_segments} must divide num_segments={num_segments}: it is "
                "the length of the runs of frames that features are shifted within"
            )
        self.num_segments = shift_segments
        self.causal = causal
        self.num_shifted = channels // shift_div

    def __call__(self, x):
        """Map `[batch * segments, height, width, channels]`, the frames of a clip in a row.

        Raises:
            UserError: the number of frames is not a multiple of `num_segments`.
        """
        if not self.num_shifted:
            return x
        steps = (1,) if self.causal else (-1, 1)
        return shift(split_clips(x, self.num_segments), steps, self.num_shifted).reshape(x.shape)


class Carried(nnx.Variable):
    """What a module keeps from one frame of a stream for the next one."""


class StreamedShift(nnx.Module):
    """A causal `TemporalShift` that sees one frame at a time.

    Args:
        num_shifted: number of channels that come from the previous frame.
        dtype: dtype of the features.

    Attributes:
        previous: these channels of the last frame, `[batch, height, width, num_shifted]`; before
            the first one zeros, which may be of a single pixel.
    """

    def __init__(self, num_shifted, *, dtype=jnp.float32):
        self.num_shifted = num_shifted
        self.previous = Carried(jnp.zeros((1, 1, 1, num_shifted), dtype))

    def __call__(self, x):
        """Map `[batch, height, width, channels]`, one frame per stream.

        Raises:
            UserError: the frames have another size than those before.
        """
        current, previous = x[..., : self.num_shifted], self.previous[...].astype(x.dtype)
        if previous.shape[1:3] not in ((1, 1), current.shape[1:3]):
            raise UserError(
                f"the frames have changed their size: features of {current.shape[1:3]} follow "
                f"those of {previous.shape[1:3]} pixels; resize the frames, or begin with "
                "stream.init(batch)"
            )
        self.previous.set_value(current)
        previous = jnp.broadcast_to(previous, current.shape)
        return lax.platform_dependent(previous, x, tpu=_replace_selected, default=_replace_slice)


def _replace_slice(first, x):
    """Replace the first channels of `x`, as `shift_by_slices` does."""
    return jnp.concatenate([first, x[..., first.shape[-1] :]], axis=-1)


def _replace_selected(first, x):
    """Replace the first channels of `x`, as `shift_by_selection` does."""
    missing = x.shape[-1] - first.shape[-1]
    padded = jnp.pad(first, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return jnp.where(jnp.arange(x.shape[-1]) < first.shape[-1], padded, x)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def shift(x, steps, width):
    """Shift the first `width` channels by the first of `steps` frames, the next by the second, ...

    The gradient is shifted back; JAX's derivative would be a sum of one map per step.

    Args:
        x: `[batch, segments, height, width, channels]`.
        steps: numbers of frames, positive to later times.
        width: number of channels for each of `steps`.
    """
    forms = dict(steps=steps, width=width)
    selection = partial(shift_by_selection, **forms)
    slices = partial(shift_by_slices, **forms)
    return lax.platform_dependent(x, tpu=selection, default=slices)


def _shift_back(steps, width, _, gradient):
    return (shift(gradient, tuple(-step for step in steps), width),)


shift.defvjp(lambda x, steps, width: (shift(x, steps, width), None), _shift_back)


def shift_by_slices(x, *, steps, width):
    """`shift`, for CPUs and GPUs: every element is read and written once."""
    moved = [move(x[..., i * width : (i + 1) * width], step) for i, step in enumerate(steps)]
    return jnp.concatenate([*moved, x[..., len(steps) * width :]], axis=-1)


def shift_by_selection(x, *, steps, width):
    """`shift`, for TPUs, which process 128 channels at a time; the slices don't align with these.

    On CPUs a ResNet-50 with it takes 1.4 times as long.
    """
    group = jnp.arange(x.shape[-1]) // width
    y = x
    for i, step in enumerate(steps):
        y = jnp.where(group == i, move(x, step), y)
    return y


def move(x, steps):
    """Shift `x` `[batch, segments, ...]` by `steps` frames to later times; pad with zeros."""
    padding = [(0, 0, 0)] * x.ndim
    padding[1] = (steps, -steps, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


class TSMHead(nnx.Module):
    """Score every frame, average the scores: the head of TSM and TIN.

    The classifier is linear, so it is applied once, to the mean features. Dropout comes before the
    mean: every frame has its own mask.

    Args:
        in_channels: channels of the backbone's features.
        num_classes: number of classes.
        dropout_rate: share of each frame's features that is dropped in training.
        init_std: standard deviation of the classifier's initial weights.
        dtype: dtype of the computation.
        rngs: source of the `params` key.
    """

    merge_views = "probabilities"

    def __init__(
        self, in_channels, num_classes, *, dropout_rate=0.5, init_std=0.001, dtype=jnp.float32, rngs
    ):
        self.dropout_rate = dropout_rate
        self.fc = Linear(in_channels, num_classes, std=init_std, dtype=dtype, rngs=rngs)

    def __call__(self, features, *, train=False, rngs=None, clip_index=None):
        """Map `[batch, segments, height, width, channels]` to logits `[batch, num_classes]`."""
        x = global_average_pool(features)  # [batch, segments, channels]
        if train and self.dropout_rate:
            x = dropout(x, self.dropout_rate, key=rngs.dropout(), clip_index=clip_index)
        x = jnp.mean(x, axis=1)
        return self.fc(x).astype(storage_dtype(x.dtype))
