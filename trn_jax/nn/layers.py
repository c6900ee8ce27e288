"""Linear layers, batch normalisation, average pooling and dropout with PyTorch's numerics.

Layout is channels-last everywhere. Parameters and statistics are kept in float32 (float64 when the
layer computes in float64); `dtype` is what convolutions and products compute in.

A layer is `frozen` by its constructor: its parameters are then `Frozen` variables instead of
`nnx.Param`, so that `nnx.split(model, nnx.Param, ...)` gives the optimizer exactly the trainable
parameters, under the same names.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from trn_jax.errors import UserError
from trn_jax.nn import initial
from trn_jax.nn.concrete import concrete

NORM_SCOPE = "batch_norm"  # scope of its operations in profiles and for `models.cost`


class Frozen(nnx.Variable):
    """A parameter that is not trained (frozen stages, partial batch normalisation)."""


def storage_dtype(dtype):
    """The dtype of parameters and statistics for a computation in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def parameter(value, *, frozen):
    """Wrap `value` as a trainable or as a frozen parameter."""
    return (Frozen if frozen else nnx.Param)(value)


def freeze(module):
    """Freeze all trainable parameters of `module`, in place; other objects are ignored."""
    if isinstance(module, nnx.Module):
        for _, part in list(nnx.iter_modules(module)):
            for name, value in list(vars(part).items()):
                if type(value) is nnx.Param:
                    setattr(part, name, Frozen(value[...]))


@jax.custom_jvp
def relu(x):
    """`max(x, 0)`, with a gradient of 0 at 0 as that of `jax.nn.relu`.

    The gradient is a product with the sign of the output, which is saved for the next layer anyway.
    For a selection, XLA would also save the condition, and its TPU compiler fails to change the
    layout of that (CompileTimeScopedVmemOom, for the recipe `tsm_k400` on v5e).
    """
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    y = relu(*primals)
    (tangent,) = tangents
    return y, tangent * jnp.sign(y)


@jax.custom_jvp
def relu6(x):
    """`min(max(x, 0), 6)`, with a gradient of 0 at 0 and at 6, as in PyTorch."""
    return jnp.clip(x, 0, 6)


@relu6.defjvp
def _relu6_jvp(primals, tangents):
    y = relu6(*primals)
    (tangent,) = tangents
    return y, tangent * (jnp.sign(y) * jnp.sign(6 - y))


# The backward pass keeps its input only.
gelu = jax.checkpoint(partial(jax.nn.gelu, approximate=False))


class Linear(nnx.Module):
    """`x @ kernel + bias`, or `x @ kernel`.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        std: standard deviation of a normal initialisation with zero bias; `None` draws kernel and
            bias uniformly from +-1/sqrt(in_features), which is what PyTorch does by default.
        use_bias: add a bias.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
    """

    def __init__(
        self, in_features, out_features, *, std=None, use_bias=True, dtype=jnp.float32, rngs
    ):
        self.dtype = dtype
        shape, kept = (in_features, out_features), storage_dtype(dtype)
        if std is None:
            bound = 1 / math.sqrt(in_features)
            kernel = initial.uniform(rngs.params(), shape, kept, bound)
            bias = initial.uniform(rngs.params(), (out_features,), kept, bound)
        else:
            kernel = initial.normal(rngs.params(), shape, kept, std)
            bias = jnp.zeros((out_features,), kept)
        self.kernel = nnx.Param(kernel)
        self.use_bias = use_bias
        if use_bias:
            self.bias = nnx.Param(bias)

    def __call__(self, x):
        """Map `x` `[..., in_features]` to `[..., out_features]`."""
        y = x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) with PyTorch's numerics and group statistics.

    Training normalises with the biased variance of the batch and moves the running variance
    towards the *unbiased* one, as PyTorch does. Statistics are computed in float32.

    Published recipes normalise over the clips of one GPU. Here that is a property of the data, not
    the machine ("ghost batch norm"): the leading axis consists of `num_groups` equal, contiguous
    groups, each normalised separately, and the running statistics take the mean over the groups.
    The result does not depend on the number of devices or processes, and needs no communication if
    each group is on one device.

    Args:
        channels: size of the last axis.
        frozen: use the running statistics in training too, and don't train scale and bias (partial
            batch normalisation, frozen stages).
        momentum: weight of the old running statistics at each step (PyTorch's 0.1 is 0.9 here).
        epsilon: added to the variance.
        dtype: dtype of the output.
    """

    def __init__(self, channels, *, frozen=False, momentum=0.9, epsilon=1e-5, dtype=jnp.float32):
        self.frozen = frozen
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        kept = storage_dtype(dtype)
        self.scale = parameter(jnp.ones((channels,), kept), frozen=frozen)
        self.bias = parameter(jnp.zeros((channels,), kept), frozen=frozen)
        self.mean = nnx.BatchStat(jnp.zeros((channels,), kept))
        self.var = nnx.BatchStat(jnp.ones((channels,), kept))

    def __call__(self, x, *, train=False, num_groups=1):
        """Normalise `x` `[batch, ..., channels]`; `batch` is a multiple of `num_groups`."""
        if not train or self.frozen:
            return self._normalise(x, self.mean[...], self.var[...])
        # A single group gets no axis: XLA's CPU reductions of a product are 40 times slower with an
        # axis of length 1.
        groups = (num_groups,) if num_groups > 1 else ()
        grouped = x.reshape(*groups, -1, x.shape[-1])
        with jax.named_scope(NORM_SCOPE):
            y, mean, var = normalise_groups(
                grouped, self.scale[...], self.bias[...], self.mean[...], self.epsilon, self.dtype
            )
        self.update(mean, var, count=grouped.shape[-2])
        return y.reshape(x.shape)

    def affine(self):
        """What it is in evaluation, `x * scale + shift`: `scale` and `shift`, `[channels]`."""
        values = (self.scale, self.bias, self.mean, self.var)
        scale, bias, mean, var = (concrete(value[...]) for value in values)
        scale = scale * (var + self.epsilon) ** -0.5
        return scale, bias - mean * scale

    @jax.named_scope(NORM_SCOPE)
    def _normalise(self, x, mean, var):
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        return ((x.astype(scale.dtype) - mean) * scale + self.bias[...]).astype(self.dtype)

    def update(self, mean, var, *, count):
        """Move the running statistics towards those of batches of `count` rows."""
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            batch = jnp.mean(batch.reshape(-1, batch.shape[-1]), axis=0)
            # Not `running[...] =`, which reads the array's sharding: while tracing, JAX then
            # formats an error from the whole trace, and deep networks take ten times as long.
            running.set_value(self.momentum * running[...] + (1 - self.momentum) * batch)


class LayerNorm(nnx.Module):
    """Normalise each pixel over its `channels` (Ba et al., 2016), in float32."""

    def __init__(self, channels, *, epsilon=1e-5, dtype=jnp.float32):
        self.epsilon = epsilon  # PyTorch's default; Flax has 1e-6
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,), storage_dtype(dtype)))
        self.bias = nnx.Param(jnp.zeros((channels,), storage_dtype(dtype)))

    def __call__(self, x):
        """Normalise `x` `[..., channels]`."""
        x = x.astype(self.scale.dtype)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


class ConvNormRelu(nnx.Module):
    """A convolution, its batch norm, ReLU.

    Args:
        conv: the convolution.
        bn: the batch norm of its output.
    """

    def __init__(self, conv, bn):
        self.conv = conv
        self.bn = bn

    def __call__(self, x, **statistics):
        """Map `[batch, ..., in_channels]` to `[batch, ..., out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        return relu(self.bn(self.conv(x), **statistics))


def moments(x, guess):
    """Mean and biased variance of every group of rows.

    Args:
        x: `[(groups,) rows, channels]`.
        guess: `[channels]`, an estimate of the mean; its dtype is that of the computation.

    Returns:
        Both, `[(groups,) 1, channels]`.
    """
    # One pass over the data: moments about the guess. With a good guess, nothing cancels where the
    # mean is large compared with the deviation, unlike in E[x^2] - E[x]^2.
    shifted = x.astype(guess.dtype) - guess
    offset = jnp.mean(shifted, axis=-2, keepdims=True)
    var = jnp.mean(jnp.square(shifted), axis=-2, keepdims=True) - jnp.square(offset)
    return guess + offset, jnp.maximum(var, 0)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalise_groups(x, scale, bias, guess, epsilon, dtype):
    """Normalise every group of rows by its mean and variance, then scale and shift.

    Only `y` has a gradient. Written out, it takes two sums over the rows (Ioffe and Szegedy, 2015,
    section 3); JAX's derivative would take four. In memory, images and their gradients have the
    dtypes of `x` and `y`.

    Args:
        x: `[(groups,) rows, channels]`.
        scale: `[channels]`; its dtype is that of the computation.
        bias: `[channels]`.
        guess: `[channels]`, an estimate of the mean.
        epsilon: added to the variance.
        dtype: dtype of `y`.

    Returns:
        `y` of the shape of `x`, and the mean and the biased variance, `[(groups,) 1, channels]`.
    """
    return _normalise_groups(x, scale, bias, guess, epsilon, dtype)[0]


def _normalise_groups(x, scale, bias, guess, epsilon, dtype):
    mean, var = moments(x, guess)
    factor = lax.rsqrt(var + epsilon)
    y = (x.astype(scale.dtype) - mean) * (scale * factor) + bias
    return (y.astype(dtype), mean, var), (x, scale, mean, factor)


def _normalise_groups_backward(_epsilon, _dtype, saved, gradients):
    x, scale, mean, factor = saved
    dy = gradients[0].astype(scale.dtype)
    rows, channels = x.shape[-2:]
    centred = x.astype(scale.dtype) - mean
    of_bias = jnp.sum(dy, axis=-2, keepdims=True)  # per group
    of_scale = factor * jnp.sum(dy * centred, axis=-2, keepdims=True)
    of_x = (scale * factor) * (dy - of_bias / rows - centred * (factor * of_scale / rows))
    of_scale, of_bias = (jnp.sum(g.reshape(-1, channels), axis=0) for g in (of_scale, of_bias))
    return of_x.astype(x.dtype), of_scale, of_bias, None


normalise_groups.defvjp(_normalise_groups, _normalise_groups_backward)


def split_clips(x, num_segments):
    """Reshape `[batch * segments, ...]` to `[batch, segments, ...]`.

    Raises:
        UserError: the number of rows is not a multiple of `num_segments`.
    """
    if x.shape[0] % num_segments:
        raise UserError(f"{x.shape[0]} frames are not a multiple of num_segments={num_segments}")
    return x.reshape(-1, num_segments, *x.shape[1:])


def global_average_pool(x):
    """Mean over height and width: `[..., height, width, channels]` to `[..., channels]`.

    Accumulated in float32, because a mean of many bfloat16 numbers loses most of its bits.
    """
    return jnp.mean(x, axis=(-3, -2), dtype=storage_dtype(x.dtype))


def dropout(x, rate, *, key, clip_index):
    """Zero each element of `x` `[batch, ...]` with probability `rate`; scale up the others.

    The mask of a clip depends on `key` and its index in the global batch (`clip_index` `[batch]`),
    and so not on the number of devices or accumulation steps.
    """
    if rate == 0:
        return x
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(clip_index)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


def drop_path(x, rate, *, key, clip_index):
    """Zero each frame of `x` `[frames, ...]` with probability `rate`; scale up the others.

    The choice depends on `key` and the clip's index in the global batch, see `dropout`.
    """
    clips = len(clip_index)
    kept = dropout(
        jnp.ones((clips, len(x) // clips), x.dtype), rate, key=key, clip_index=clip_index
    )
    return x * kept.reshape(-1, *[1] * (x.ndim - 1))
