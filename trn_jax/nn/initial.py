"""Random initial values of parameters: the numbers of `jax.random`, without a program per shape.

Compiling the draws of a ResNet-50 takes a CPU longer than its first epochs on small data. Outside
of `jax.jit`, on a CPU, one program therefore draws a piece of any array, given the number of its
first element: the n-th number of a key depends on nothing but the key and n.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

PIECE = 1 << 16  # numbers per call of the program


def normal(key, shape, dtype, std=1.0):
    """Draw from a normal distribution with mean 0, as `std * jax.random.normal(key, shape, dtype)`.

    Args:
        key: a key of `jax.random`, traced or not.
        shape: of the array.
        dtype: of the array.
        std: standard deviation.
    """
    if not _in_pieces(key, dtype):
        return std * jax.random.normal(key, shape, dtype)
    return _drawn(key, shape, np.nextafter(np.float32(-1), np.float32(0)), 1.0, std)


def uniform(key, shape, dtype, bound):
    """Draw from the uniform distribution over `-bound..bound`, as `jax.random.uniform` does.

    Args:
        key: a key of `jax.random`, traced or not.
        shape: of the array.
        dtype: of the array.
        bound: a positive number.
    """
    if not _in_pieces(key, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)
    return _drawn(key, shape, -bound, bound, None)


def _in_pieces(key, dtype):
    return (
        not isinstance(key, jax.core.Tracer)
        and jnp.dtype(dtype) == jnp.float32
        and jax.default_backend() == "cpu"
        and str(jax.random.key_impl(key)) == "threefry2x32"
        and jax.config.values["jax_threefry_partitionable"]
    )


def _drawn(key, shape, low, high, std):
    count, data = math.prod(shape), jax.random.key_data(key)
    found = np.empty(count, np.float32)
    draw, scale = (uniform_piece, ()) if std is None else (normal_piece, (np.float32(std),))
    for start in range(0, count, PIECE):
        piece = draw(data, np.uint32(start), np.float32(low), np.float32(high), *scale)
        found[start : start + PIECE] = np.asarray(piece)[: count - start]
    return jnp.array(found.reshape(shape))


@jax.jit
def uniform_piece(data, start, low, high):
    """The numbers of a key from `start` on, in `low..high`, see `jax.random.uniform`."""
    index = start + jax.lax.iota(jnp.uint32, PIECE)
    bits = threefry_2x32(data, jnp.stack([jnp.zeros_like(index), index]))
    bits = (bits[0] ^ bits[1]) >> 9 | np.uint32(0x3F800000)  # the mantissa of a number in 1..2
    return jnp.maximum(
        low, (jax.lax.bitcast_convert_type(bits, jnp.float32) - 1) * (high - low) + low
    )


@jax.jit
def normal_piece(data, start, low, high, std):
    """The same of a normal distribution, see `jax.random.normal`."""
    drawn = uniform_piece(data, start, low, high)
    return std * (np.float32(math.sqrt(2)) * jax.lax.erf_inv(drawn))
