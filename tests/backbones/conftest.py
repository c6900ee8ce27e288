"""What the tests of several backbones need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.convert import variables


@pytest.fixture
def filled():
    """A model from its constructor, with numbers from NumPy: `jax.random` compiles for longer."""

    def fill(make):
        model = nnx.eval_shape(make)
        rng = np.random.default_rng(0)
        for path, leaf in variables(model).items():
            fan_in = max(leaf.size // leaf.shape[-1], 1)
            value = rng.normal(0, fan_in**-0.5, leaf.shape)
            value = 1 + 0.2 * value if path.endswith(("scale", "var")) else value
            leaf.set_value(jnp.asarray(value, leaf.dtype))
        return model

    return fill


@pytest.fixture
def gradients():
    """Gradients of the trainable parameters by path, `{"conv1/kernel": array, ...}`."""

    def differentiate(model, frames):
        graph, *states = nnx.split(model, nnx.Param, ...)
        parameters, others = map(nnx.as_pure, states)

        @jax.jit
        @jax.grad
        def gradient(parameters):
            model = nnx.merge(graph, parameters, others)
            random = dict(rngs=nnx.Rngs(dropout=0)) if model.draws else {}
            return jnp.mean(jnp.square(model(frames, train=True, **random)[-1]))

        leaves = jax.tree.leaves_with_path(gradient(parameters))
        return {jax.tree_util.keystr(path, simple=True, separator="/"): g for path, g in leaves}

    return differentiate
