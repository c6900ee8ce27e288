"""Batch norms of features that many layers take, side by side, as in DenseNet.

The batch statistics of a feature are the same for all of these layers.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from trn_jax.nn.layers import NORM_SCOPE, moments, relu


class Features:
    """Features side by side, kept apart, and the batch statistics of those that a norm has taken.

    Args:
        x: the first of them, `[batch, ..., channels]`.
    """

    def __init__(self, x):
        self.pieces = [x]
        self._moments = []

    def append(self, x):
        """Add features `[batch, ..., channels]` behind the others."""
        self.pieces.append(x)

    def joined(self):
        """All of them, `[batch, ..., channels]`."""
        return jnp.concatenate(self.pieces, axis=-1) if len(self.pieces) > 1 else self.pieces[0]

    def norm_relu(self, norm, *, train=False, num_groups=1):
        """ReLU of a `BatchNorm` of them, of the shape of `joined()`; arguments as of the norm."""
        if not train or norm.frozen:
            return relu(norm(self.joined(), train=train, num_groups=num_groups))
        groups = (num_groups,) if num_groups > 1 else ()  # as in `BatchNorm`
        grouped = [x.reshape(*groups, -1, x.shape[-1]) for x in self.pieces]
        with jax.named_scope(NORM_SCOPE):
            known = len(self._moments)
            start = sum(x.shape[-1] for x in grouped[:known])
            for x in grouped[known:]:
                guess = norm.mean[...][start : (start := start + x.shape[-1])]
                self._moments.append(_moments(x, guess))
            each = zip(*self._moments, strict=True)
            mean, var = (jnp.concatenate(parts, axis=-1) for parts in each)
            factor = lax.rsqrt(var + norm.epsilon)
            y = norm_relu(grouped, mean, factor, norm.scale[...], norm.bias[...], norm.dtype)
        norm.update(mean, var, count=grouped[0].shape[-2])
        return y.reshape(*self.pieces[0].shape[:-1], -1)


# Batch statistics have one gradient from all layers, instead of one from each.
_moments = jax.custom_vjp(moments)


def _moments_forward(x, guess):
    mean, var = moments(x, guess)
    return (mean, var), (x, mean)


def _moments_backward(saved, gradients):
    x, mean = saved
    of_mean, of_var = (gradient / x.shape[-2] for gradient in gradients)
    return (of_mean + 2 * of_var * (x.astype(mean.dtype) - mean)).astype(x.dtype), None


_moments.defvjp(_moments_forward, _moments_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def norm_relu(pieces, mean, factor, scale, bias, dtype):
    """ReLU of features side by side, normalised by `mean` and `factor`, scaled and shifted.

    Args:
        pieces: a list of features `[(groups,) rows, channels of the piece]`.
        mean: `[(groups,) 1, channels]`.
        factor: that divides by the standard deviation, of the same shape.
        scale: `[channels]`.
        bias: `[channels]`.
        dtype: dtype of the output.

    Returns:
        `[(groups,) rows, channels]`.
    """
    x = jnp.concatenate(pieces, axis=-1).astype(scale.dtype)
    return relu((x - mean) * (scale * factor) + bias).astype(dtype)


def _norm_relu_forward(pieces, mean, factor, scale, bias, dtype):
    return norm_relu(pieces, mean, factor, scale, bias, dtype), (pieces, mean, factor, scale, bias)


def _norm_relu_backward(_dtype, saved, dy):
    pieces, mean, factor, scale, bias = saved
    slope = scale * factor

    def through_relu(x, dy, mean, slope, bias):
        centred = x.astype(scale.dtype) - mean
        return centred, dy.astype(scale.dtype) * jnp.sign(relu(centred * slope + bias))

    # Once for all, where only sums over the rows remain, and once for each piece: nothing of the
    # size of all is written.
    centred, dz = through_relu(jnp.concatenate(pieces, axis=-1), dy, mean, slope, bias)
    of_bias = jnp.sum(dz, axis=-2, keepdims=True)  # per group
    of_slope = jnp.sum(dz * centred, axis=-2, keepdims=True)
    of_pieces, start = [], 0
    for x in pieces:
        part = slice(start, start := start + x.shape[-1])
        _, dz = through_relu(x, dy[..., part], mean[..., part], slope[..., part], bias[part])
        of_pieces.append((dz * slope[..., part]).astype(x.dtype))
    over_groups = [
        jnp.sum(of.reshape(-1, of.shape[-1]), axis=0) for of in (of_slope * factor, of_bias)
    ]
    return of_pieces, -of_bias * slope, of_slope * scale, *over_groups


norm_relu.defvjp(_norm_relu_forward, _norm_relu_backward)
