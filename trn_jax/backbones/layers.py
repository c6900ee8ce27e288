"""Convolution, batch normalisation, pooling and dropout with the numerics of PyTorch.

Layout is channels-last everywhere. Parameters and statistics are kept in float32 (float64 when the
layer computes in float64); `dtype` is what convolutions and products compute in.

A layer is `frozen` for good, by its constructor: its parameters are then `Frozen` variables rather
than `nnx.Param`, so `nnx.split(model, nnx.Param, ...)` hands exactly the trainable parameters to
the optimizer, and their names in the model stay the same.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from trn_jax.errors import UserError


class Frozen(nnx.Variable):
    """A parameter that no optimizer sees (frozen stages, partial batch normalisation)."""


def storage_dtype(dtype):
    """The dtype in which parameters and statistics are kept for a computation in `dtype`."""
    return jnp.promote_types(dtype, jnp.float32)


def parameter(value, *, frozen):
    """Wrap `value` as a trainable or as a frozen parameter."""
    return (Frozen if frozen else nnx.Param)(value)


def freeze(module):
    """Make all trainable parameters of `module` frozen ones, in place; other objects pass."""
    if isinstance(module, nnx.Module):
        for _, part in list(nnx.iter_modules(module)):
            for name, value in list(vars(part).items()):
                if type(value) is nnx.Param:
                    setattr(part, name, Frozen(value[...]))


class Conv(nnx.Module):
    """2-D convolution without bias, zero-padded by `padding` on every side.

    Kernels are drawn from N(0, 2 / fan_out), the initialisation of He et al. (2015) for ReLU
    networks that torchvision and mmaction2 use.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel, in pixels.
        stride: step between outputs, in pixels.
        padding: zeros on each side, in pixels. Explicit, because XLA's "SAME" pads strided
            convolutions on one side only.
        frozen: keep the kernel out of training.
        dtype: dtype of the computation.
        rngs: source of the `params` key.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        padding=0,
        frozen=False,
        dtype=jnp.float32,
        rngs,
    ):
        self.stride = stride
        self.padding = padding
        self.dtype = dtype
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        std = math.sqrt(2 / (kernel_size * kernel_size * out_channels))
        kernel = std * jax.random.normal(rngs.params(), shape, storage_dtype(dtype))
        self.kernel = parameter(kernel, frozen=frozen)

    def __call__(self, x):
        """Convolve `x` `[batch, height, width, in_channels]`."""
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if kernel.shape[:2] == (1, 1) and self.padding == 0:
            # A 1x1 convolution is a matrix product. XLA's CPU convolution takes 2-5 times as long
            # for the weight gradient; on GPU and TPU both forms become the same product.
            x = x[:, :: self.stride, :: self.stride]
            return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Linear(nnx.Module):
    """`x @ kernel + bias`.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        std: standard deviation of a normal initialisation with zero bias; `None` draws kernel and
            bias uniformly from +-1/sqrt(in_features), which is what PyTorch does by default.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
    """

    def __init__(self, in_features, out_features, *, std=None, dtype=jnp.float32, rngs):
        self.dtype = dtype
        shape, kept = (in_features, out_features), storage_dtype(dtype)
        if std is None:
            bound = 1 / math.sqrt(in_features)
            kernel = jax.random.uniform(rngs.params(), shape, kept, -bound, bound)
            bias = jax.random.uniform(rngs.params(), (out_features,), kept, -bound, bound)
        else:
            kernel = std * jax.random.normal(rngs.params(), shape, kept)
            bias = jnp.zeros((out_features,), kept)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(bias)

    def __call__(self, x):
        """Map `x` `[..., in_features]` to `[..., out_features]`."""
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return x.astype(self.dtype) @ kernel + bias


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) with PyTorch's numerics and group statistics.

    Training normalises with the biased variance of the batch and moves the running variance
    towards the *unbiased* one, as PyTorch does. Statistics are computed in float32.

    The published recipes normalise over the clips of one GPU. Here that is a property of the data
    instead of the machine: the leading axis is cut into `num_groups` equal, contiguous groups, each
    normalised by itself, and the running statistics take the mean over the groups. The result does
    not depend on the number of devices or hosts, and needs no communication while a group lies
    inside one device.

    Args:
        channels: size of the last axis.
        frozen: use the running statistics in training too, and keep scale and bias as they are
            (partial batch normalisation, frozen stages).
        momentum: share of the old running statistics that is kept at each step (PyTorch's 0.1
            is 0.9 here).
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
        grouped = x.reshape(num_groups, -1, x.shape[-1]).astype(self.scale.dtype)
        # One pass over the data: moments about the running mean. Unlike E[x^2] - E[x]^2 this does
        # not cancel when the mean is large against the deviation.
        shift = lax.stop_gradient(self.mean[...])
        shifted = grouped - shift
        offset = jnp.mean(shifted, axis=1)  # [num_groups, channels]
        var = jnp.maximum(jnp.mean(jnp.square(shifted), axis=1) - jnp.square(offset), 0)
        self._update(shift + offset, var, count=grouped.shape[1])
        y = self._normalise(grouped, (shift + offset)[:, None], var[:, None])
        return y.reshape(x.shape)

    def _normalise(self, x, mean, var):
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        x = x.astype(scale.dtype)
        return ((x - mean) * scale + self.bias[...]).astype(self.dtype)

    def _update(self, mean, var, *, count):
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            batch = lax.stop_gradient(jnp.mean(batch, axis=0))
            running[...] = self.momentum * running[...] + (1 - self.momentum) * batch


def split_clips(x, num_segments):
    """Reshape `[batch * segments, ...]` to `[batch, segments, ...]`.

    Raises:
        UserError: the number of rows is not a multiple of `num_segments`.
    """
    if x.shape[0] % num_segments:
        raise UserError(
            f"{x.shape[0]} frames came in, which are no whole clips of num_segments={num_segments}"
        )
    return x.reshape(-1, num_segments, *x.shape[1:])


def max_pool(x, window, *, stride, padding):
    """Maximum over `window` x `window` pixels of `x` `[batch, height, width, channels]`.

    The border is padded with minus infinity, so that it never wins, whatever the sign of `x`.
    """
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, window, window, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def global_average_pool(x):
    """Mean over height and width: `[..., height, width, channels]` to `[..., channels]`.

    Accumulated in float32, because the mean of many small bfloat16 numbers loses most of its bits.
    """
    return jnp.mean(x, axis=(-3, -2), dtype=storage_dtype(x.dtype))


def dropout(x, rate, *, key, clip_index):
    """Zero each element of `x` `[batch, ...]` with probability `rate`; scale up the others.

    Every clip has a mask of its own, drawn from `key` and its number in the global batch
    (`clip_index` `[batch]`). The masks therefore do not change when the batch is spread over more
    devices or cut into more accumulation steps.
    """
    if rate == 0:
        return x
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(clip_index)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)
