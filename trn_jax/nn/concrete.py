"""Arithmetic on parameters without compiling a program for every shape."""

import jax
import numpy as np


def concrete(x):
    """`x` as a NumPy array; if it is traced, `x` itself."""
    return x if isinstance(x, jax.core.Tracer) else np.asarray(x)


def placed(x, like):
    """`x`, computed from `concrete` values, as a JAX array where the array `like` is."""
    return jax.device_put(x, like.sharding) if isinstance(x, np.ndarray) else x
