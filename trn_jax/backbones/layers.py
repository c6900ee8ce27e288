"""Convolution, batch normalisation, pooling and dropout with the numerics of PyTorch.

Layout is channels-last everywhere. Parameters and statistics are kept in float32 (float64 when the
layer computes in float64); `dtype` is what convolutions and products compute in.

A layer is `frozen` for good, by its constructor: its parameters are then `Frozen` variables rather
than `nnx.Param`, so `nnx.split(model, nnx.Param, ...)` hands exactly the trainable parameters to
the optimizer, and their names in the model stay the same.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
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
    """2-D convolution, zero-padded by `padding` on every side.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel, in pixels.
        stride: step between outputs, in pixels.
        padding: zeros on each side, in pixels. Explicit, because XLA's "SAME" pads strided
            convolutions on one side only.
        use_bias: add a bias, zero at first.
        std: standard deviation of the normal initialisation; `None` takes sqrt(2 / fan_out), that
            of He et al. (2015) for ReLU networks, which torchvision and mmaction2 use.
        frozen: keep the parameters out of training.
        groups: number of equal groups of channels that are convolved each by itself; as many as
            channels make a depthwise convolution.
        dtype: dtype of the computation.
        rngs: source of the `params` key.

    Raises:
        UserError: the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        padding=0,
        use_bias=False,
        std=None,
        groups=1,
        frozen=False,
        dtype=jnp.float32,
        rngs,
    ):
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise UserError(
                f"a convolution from {in_channels} to {out_channels} channels cannot be cut into "
                f"{groups} groups: both numbers must be multiples of it"
            )
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dtype = dtype
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        kept = storage_dtype(dtype)
        if std is None:
            std = math.sqrt(2 / (kernel_size * kernel_size * out_channels))
        self.kernel = parameter(std * jax.random.normal(rngs.params(), shape, kept), frozen=frozen)
        self.use_bias = use_bias
        if use_bias:
            self.bias = parameter(jnp.zeros((out_channels,), kept), frozen=frozen)

    def __call__(self, x):
        """Convolve `x` `[batch, height, width, in_channels]`."""
        y = self._convolve(x)
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y

    def _convolve(self, x):
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        if self.groups > 1:
            return grouped_conv(x, kernel, self.stride, self.padding, self.groups)
        if kernel.shape[:2] == (1, 1) and self.padding == 0:
            # A 1x1 convolution is a product of two matrices. On CPUs, XLA computes the gradient of
            # one several times faster than that of a convolution, and up to three times faster
            # than if the rows kept their three axes. For TPUs it compiles both products alike.
            x = x[:, :: self.stride, :: self.stride]
            y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
            return y.reshape(*x.shape[:-1], -1)
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def grouped_conv(x, kernel, stride, padding, groups):
    """Convolve each of `groups` equal, contiguous groups of channels by itself.

    GPU and TPU run XLA's own convolution and its gradients. On a CPU those take up to 1000 times
    longer than the arithmetic needs, so the program for a CPU has other forms: a depthwise
    convolution is a sum of shifted, scaled images, one for each tap of the kernel, and the gradient
    of a grouped kernel is a matrix product for each tap. Which form runs is decided when a program
    is compiled for its device.

    Args:
        x: `[batch, height, width, in_channels]`.
        kernel: `[size, size, in_channels / groups, out_channels]`, of the same dtype.
        stride: step between outputs, in pixels.
        padding: zeros on each side, in pixels.
        groups: number of groups; divides both numbers of channels.

    Returns:
        `[batch, height', width', out_channels]`.
    """
    general = partial(_grouped_by_xla, stride=stride, padding=padding, groups=groups)
    if not _is_depthwise(x, kernel, groups):
        return general(x, kernel)
    taps = partial(_depthwise_by_taps, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=taps, default=general)


def _grouped_forward(x, kernel, stride, padding, groups):
    general = partial(_grouped_by_xla, stride=stride, padding=padding, groups=groups)
    if not _is_depthwise(x, kernel, groups):
        return general(x, kernel), (x, kernel)
    rows = partial(_depthwise_by_rows, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=rows, default=general), (x, kernel)


def _grouped_backward(stride, padding, groups, saved, gradient):
    general = partial(_grouped_by_xla, stride=stride, padding=padding, groups=groups)

    def on_cpu(x, kernel, gradient):
        if _is_depthwise(x, kernel, groups):
            rows = partial(_depthwise_gradients_by_rows, stride=stride, padding=padding)
            return rows(x, kernel, gradient)
        taps = partial(_kernel_gradient_by_taps, stride=stride, padding=padding, groups=groups)
        (of_x,) = jax.vjp(lambda x: general(x, kernel), x)[1](gradient)
        return of_x, taps(x, kernel, gradient)

    def elsewhere(x, kernel, gradient):
        return jax.vjp(general, x, kernel)[1](gradient)

    return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=elsewhere)


grouped_conv.defvjp(_grouped_forward, _grouped_backward)


def _is_depthwise(x, kernel, groups):
    return groups == x.shape[-1] == kernel.shape[-1]


def _grouped_by_xla(x, kernel, *, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pad(x, padding):
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _taps(x, size, stride):
    """What each tap of a kernel sees of padded `x`: `size**2` arrays of the output's shape."""
    height, width = ((length - size) // stride + 1 for length in x.shape[1:3])
    return [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def _kernel_gradient_by_taps(x, kernel, gradient, *, stride, padding, groups):
    def in_groups(image):
        return image.reshape(*image.shape[:3], groups, -1)

    per_tap = [
        jnp.einsum(
            "bhwgi,bhwgo->igo",
            in_groups(image),
            in_groups(gradient),
            preferred_element_type=storage_dtype(x.dtype),
        )
        for image in _taps(_pad(x, padding), kernel.shape[0], stride)
    ]
    return jnp.stack(per_tap).reshape(kernel.shape).astype(kernel.dtype)


# Depthwise convolutions on a CPU. Sums are in float32, as XLA's own convolution has them.


def _depthwise_by_taps(x, kernel, *, stride, padding):
    kept = storage_dtype(x.dtype)
    return _sum_of_taps(_pad(x, padding).astype(kept), kernel.astype(kept), stride).astype(x.dtype)


def _sum_of_taps(x, kernel, stride):
    images = _taps(x, kernel.shape[0], stride)
    return sum(image * w for image, w in zip(images, kernel.reshape(len(images), -1), strict=True))


# In training the sum of taps goes row by row. XLA would otherwise compute everything before it once
# for each tap, batch norms and their gradients included: blocks of MobileOne took 1.5 times as long
# to train and up to 3 times as long to compile. The operands of a loop are computed once. It is not
# a loop over the batch, because devices share that axis.


def _depthwise_by_rows(x, kernel, *, stride, padding):
    kept, size = storage_dtype(x.dtype), kernel.shape[0]
    padded, weights = _pad(x, padding).astype(kept), kernel.astype(kept)
    height, width = ((length - size) // stride + 1 for length in padded.shape[1:3])

    def add_row(row, y):
        window = lax.dynamic_slice_in_dim(padded, row * stride, size, axis=1)
        return lax.dynamic_update_slice_in_dim(y, _sum_of_taps(window, weights, stride), row, 1)

    y = jnp.zeros((x.shape[0], height, width, x.shape[-1]), kept)
    return lax.fori_loop(0, height, add_row, y).astype(x.dtype)


def _depthwise_gradients_by_rows(x, kernel, gradient, *, stride, padding):
    kept, size = storage_dtype(x.dtype), kernel.shape[0]
    padded, weights = _pad(x, padding).astype(kept), kernel.astype(kept)
    gradient = gradient.astype(kept)

    def add_row(row, sums):
        start = row * stride
        window = lax.dynamic_slice_in_dim(padded, start, size, axis=1)
        _, pull = jax.vjp(partial(_sum_of_taps, stride=stride), window, weights)
        of_window, of_kernel = pull(lax.dynamic_slice_in_dim(gradient, row, 1, axis=1))
        of_window += lax.dynamic_slice_in_dim(sums[0], start, size, axis=1)
        return lax.dynamic_update_slice_in_dim(sums[0], of_window, start, 1), sums[1] + of_kernel

    sums = (jnp.zeros_like(padded), jnp.zeros_like(weights))
    of_x, of_kernel = lax.fori_loop(0, gradient.shape[1], add_row, sums)
    of_x = of_x[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)


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
            kernel = jax.random.uniform(rngs.params(), shape, kept, -bound, bound)
            bias = jax.random.uniform(rngs.params(), (out_features,), kept, -bound, bound)
        else:
            kernel = std * jax.random.normal(rngs.params(), shape, kept)
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
        # A single group gets no axis of its own: XLA's CPU reductions of a product are 40 times
        # slower beside an axis of length 1.
        groups = (num_groups,) if num_groups > 1 else ()
        grouped = x.reshape(*groups, -1, x.shape[-1]).astype(self.scale.dtype)
        # One pass over the data: moments about the running mean. Unlike E[x^2] - E[x]^2 this does
        # not cancel where the mean is large against the deviation, once the running mean is near.
        shift = lax.stop_gradient(self.mean[...])
        shifted = grouped - shift
        offset = jnp.mean(shifted, axis=-2, keepdims=True)  # [(num_groups,) 1, channels]
        var = jnp.mean(jnp.square(shifted), axis=-2, keepdims=True) - jnp.square(offset)
        mean, var = shift + offset, jnp.maximum(var, 0)
        self._update(mean, var, count=grouped.shape[-2])
        return self._normalise(grouped, mean, var).reshape(x.shape)

    def _normalise(self, x, mean, var):
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        x = x.astype(scale.dtype)
        return ((x - mean) * scale + self.bias[...]).astype(self.dtype)

    def _update(self, mean, var, *, count):
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            batch = lax.stop_gradient(jnp.mean(batch.reshape(-1, batch.shape[-1]), axis=0))
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


def max_pool(x, window, *, stride, padding=0, ceil_mode=False):
    """Maximum over `window` x `window` pixels of `x` `[batch, height, width, channels]`.

    The border is padded with minus infinity, so that it never wins, whatever the sign of `x`. With
    `ceil_mode`, a last window may hang over the end, as long as it starts before it, as in PyTorch.
    Where several pixels share the maximum, the first one gets the gradient.
    """

    def around(size):
        if not ceil_mode:
            return padding, padding
        steps = -((window - size - 2 * padding) // stride)
        if steps * stride >= size + padding:
            steps -= 1
        return padding, steps * stride + window - size - padding

    return _max_pool(x, window, stride, (around(x.shape[1]), around(x.shape[2])))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, stride, borders):
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, window, window, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), *borders, (0, 0)),
    )


def _max_pool_forward(x, *sizes):
    y = _max_pool(x, *sizes)
    return y, (x, y)


def _max_pool_backward(window, stride, borders, kept, dy):
    # XLA's own form visits one window after the other, which takes CPUs four times as long.
    sizes = dict(window=window, stride=stride, borders=borders)
    dx = lax.platform_dependent(
        *kept,
        dy,
        cpu=partial(scatter_by_position, **sizes),
        default=partial(scatter_by_window, **sizes),
    )
    return (dx,)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def scatter_by_window(x, _, dy, *, window, stride, borders):
    """Gradient of `max_pool` at `x`, window by window."""
    pool = partial(_max_pool.fun, window=window, stride=stride, borders=borders)
    return jax.vjp(pool, x)[1](dy)[0]


def scatter_by_position(x, y, dy, *, window, stride, borders):
    """Gradient of `max_pool` at `x`, for one position inside all windows at a time.

    Args:
        x: `[batch, height, width, channels]`.
        y: its maxima.
        dy: gradient at `y`.
        window: height and width of a window.
        stride: step between windows.
        borders: pixels added above and below, and left and right.
    """
    (above, below), (before, after) = borders
    padded = ((0, 0, 0), (above, below, 0), (before, after, 0), (0, 0, 0))
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padded)
    _, height, width, _ = x.shape
    rows, columns = (stride * (size - 1) + 1 for size in y.shape[1:3])
    dx, found = jnp.zeros_like(x), jnp.zeros_like(y, bool)
    for top, left in np.ndindex(window, window):
        here = x[:, top : top + rows : stride, left : left + columns : stride]
        wins = (here == y) & ~found
        found |= wins
        share = jnp.where(wins, dy, jnp.zeros_like(dy))
        vertical = (top, height - rows - top, stride - 1)
        horizontal = (left, width - columns - left, stride - 1)
        dx += lax.pad(share, jnp.zeros((), dy.dtype), ((0, 0, 0), vertical, horizontal, (0, 0, 0)))
    return dx[:, above : height - below, before : width - after]


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
