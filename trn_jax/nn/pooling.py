"""Max pooling, and picking entries, with gradients in the form that each platform adds up best.

XLA's own forms are scatters. CPUs go through them one entry after the other; GPUs add what meets in
any order, so that no two runs are the same. The forms that take their place add in one order.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


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
    # XLA's own form visits one window after the other, which takes CPUs four times as long. GPUs
    # visit them side by side, and add what meets in a pixel in any order: no two runs are the same.
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

    The last window may be cut short by the end of the clip: `ceil(time / scale)` frames remain.
    """
    return x if scale == 1 else _max_pool_time(x, scale)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool_time(x, scale):
    window = (1, scale, 1, 1, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, _to_windows(x, scale))


def _to_windows(x, scale):
    """How many frames `x` lacks of whole windows, before and behind, as a padding of all axes."""
    return ((0, 0), (0, -x.shape[1] % scale), (0, 0), (0, 0), (0, 0))


def _max_pool_time_forward(x, scale):
    y = _max_pool_time(x, scale)
    return y, (x, y)


def _max_pool_time_backward(scale, kept, dy):
    # Where XLA is asked for programs that are the same in every run on a GPU, it refuses its own
    # form, as windows might overlap.
    by_xla = partial(scatter_frames_by_xla, scale=scale)
    by_choice = partial(scatter_frames_by_choice, scale=scale)
    return (lax.platform_dependent(*kept, dy, cuda=by_choice, default=by_xla),)


_max_pool_time.defvjp(_max_pool_time_forward, _max_pool_time_backward)


def scatter_frames_by_xla(x, _, dy, *, scale):
    """Gradient of `max_pool_time` at `x`, where the first maximum of a window gets it."""
    return jax.vjp(partial(_max_pool_time.fun, scale=scale), x)[1](dy)[0]


def scatter_frames_by_choice(x, y, dy, *, scale):
    """The same, `y` being the maxima, by looking for them."""
    windows = jnp.pad(x, _to_windows(x, scale), constant_values=-jnp.inf)
    windows = windows.reshape(x.shape[0], -1, scale, *x.shape[2:])
    first = jnp.argmax(windows == y[:, :, None], axis=2, keepdims=True)
    chosen = first == jnp.arange(scale)[:, None, None, None]
    dx = jnp.where(chosen, dy[:, :, None], jnp.zeros((), dy.dtype))
    return dx.reshape(x.shape[0], -1, *x.shape[2:])[:, : x.shape[1]]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pick(x, indices, axis):
    """`x[indices]` where the first of the indices is for `axis`, the second for the next axis, ...

    The gradient of an entry that is picked several times is a sum, which GPUs would take in any
    order, so that no two runs are the same. There it is a product of matrices.

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
    """Gradient of `pick` at `x`, as a product with a matrix that has a 1 for each entry."""
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
