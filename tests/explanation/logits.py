"""Logits of a model, compiled: without, each layer is a program of its own."""

import jax
import numpy as np
from flax import nnx


def logits_of(model, clips):
    """Logits `[clips, classes]` of clips `[clips, frames, height, width, 3]`."""
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, clips))
