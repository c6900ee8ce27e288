"""Models with numbers, for tests of several folders."""

import math

import jax.numpy as jnp
import numpy as np

from trn_jax.convert import variables


def filled(model):
    """Give an abstract model numbers from NumPy, the same for the same names and shapes.

    No layer is near zero, and statistics are far from the initial ones. `jax.random` would compile
    for longer than most tests take.
    """
    for seed, (path, leaf) in enumerate(variables(model).items()):
        value = np.random.default_rng(seed).normal(size=leaf.shape)
        if path.endswith("kernel"):
            value /= math.sqrt(leaf.size / leaf.shape[-1])
        elif path.endswith(("scale", "var")):
            value = 0.5 + np.abs(value)
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model
