"""Max pooling and indexing, with gradients that are fast on CPUs and deterministic on GPUs.

XLA's own gradients are scatters: CPUs run them entry by entry, and GPUs add colliding entries in
any order, so that runs differ. The forms here add in a fixed order.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def max_pool(x, window, *, stride, padding=0, ceil_mode=False):
    """Maximum over `window` x `window` pixels of `x` `[batch, height, width, channels]`.

    The border is padded with minus infinity. With `ceil_mode`, the last window may extend beyond
    the end if it starts before it, as in PyTorch. Of several maxima, the first gets the gradient.
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
    # XLA's own form goes window by window, which takes CPUs four times as long. GPUs process them
    # in parallel and add gradients of a pixel in any order, so that runs differ.
    sizes = dict(window=window, stride=stride, borders=borders)
    by_position = partial(scatter_by_position, **sizes)
    by_window = partial(scatter_by_window, **sizes)
    dx = lax.platform_dependent(*kept, dy, cpu=by_position, cuda=by_position, default=by_window)
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


def max_pool_time(x, scale):
    """Maximum over every `scale` frames of `x` `[batch, time, height, width, channels]`.

    The last window may be shorter: `ceil(time / scale)` frames remain.
    """
    return x if scale == 1 else _max_pool_time(x, scale)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_time(x, scale):
    window = (1, scale, 1, 1, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, _to_windows(x, scale))


def _to_windows(x, scale):
    """Padding of all axes of `x` that completes the last window."""
    return ((0, 0), (0, -x.shape[1] % scale), (0, 0), (0, 0), (0, 0))


def _max_pool_time_forward(x, scale):
    y = _max_pool_time(x, scale)
    return y, (x, y)


def _max_pool_time_backward(scale, kept, dy):
    # With deterministic operations on GPUs, XLA refuses its own form, as windows might overlap.
    by_xla = partial(scatter_frames_by_xla, scale=scale)
    by_choice = partial(scatter_frames_by_choice, scale=scale)
    return (lax.platform_dependent(*kept, dy, cuda=by_choice, default=by_xla),)


_max_pool_time.defvjp(_max_pool_time_forward, _max_pool_time_backward)


def scatter_frames_by_xla(x, _, dy, *, scale):
    """Gradient of `max_pool_time` at `x`; the first maximum of a window gets it."""
    return jax.vjp(partial(_max_pool_time.fun, scale=scale), x)[1](dy)[0]


def scatter_frames_by_choice(x, y, dy, *, scale):
    """The same, by comparing frames with the maxima `y`."""
    windows = jnp.pad(x, _to_windows(x, scale), constant_values=-jnp.inf)
    windows = windows.reshape(x.shape[0], -1, scale, *x.shape[2:])
    first = jnp.argmax(windows == y[:, :, None], axis=2, keepdims=True)
    chosen = first == jnp.arange(scale)[:, None, None, None]
    dx = jnp.where(chosen, dy[:, :, None], jnp.zeros((), dy.dtype))
    return dx.reshape(x.shape[0], -1, *x.shape[2:])[:, : x.shape[1]]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pick(x, indices, axis):
    """`x[indices]`, where the first of the indices is for `axis`, the second for the next, ...

    Gradients of an entry that is picked several times are added, which GPUs do in any order, so
    that runs differ. There the gradient is a matrix product.

    Args:
        x: an array.
        indices: a tuple of arrays of integers that are not negative, broadcast against each other.
        axis: not negative.
    """
    return x[(slice(None),) * axis + indices]


def _pick_forward(x, indices, axis):
    return pick(x, indices, axis), (x, indices)


def _pick_backward(axis, kept, dy):
    by_product = partial(scatter_by_product, axis=axis)
    by_index = partial(scatter_by_index, axis=axis)
    return lax.platform_dependent(*kept, dy, cuda=by_product, default=by_index), None


pick.defvjp(_pick_forward, _pick_backward)


def scatter_by_index(x, indices, dy, *, axis):
    """Gradient of `pick` at `x`, entry by entry."""
    (dx,) = jax.linear_transpose(partial(pick.fun, indices=indices, axis=axis), x)(dy)
    return dx


def scatter_by_product(x, indices, dy, *, axis):
    """Gradient of `pick` at `x`, as a product with a one-hot matrix."""
    last = axis + len(indices)
    sizes = x.shape[axis:last]
    rows, *others = jnp.broadcast_arrays(*indices)
    for size, index in zip(sizes[1:], others, strict=True):
        rows = rows * size + index
    count = math.prod(sizes)
    chosen = jax.nn.one_hot(rows.ravel(), count, dtype=dy.dtype)
    dy = dy.reshape(math.prod(x.shape[:axis]), rows.size, -1)
    dx = jnp.einsum("bnc,nr->brc", dy, chosen, precision=lax.Precision.HIGHEST)
    return dx.reshape(x.shape)
