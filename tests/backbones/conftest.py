"""What the tests of several backbones need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from trn_jax.backbones.layers import BatchNorm
from trn_jax.convert.names import variables


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
def cost(monkeypatch):
    """Multiply-adds, and the elements that batch norms put out, of a model on one frame."""

    def measure(model, *shape):
        norms = []
        normalise = BatchNorm.__call__

        def counted(norm, x, **options):
            norms.append(x.size)
            return normalise(norm, x, **options)

        monkeypatch.setattr(BatchNorm, "__call__", counted)
        graph, state = nnx.split(model)
        frames = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        program = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(state, frames)
        return multiply_adds(program.jaxpr), sum(norms)

    return measure


def multiply_adds(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "conv_general_dilated":
            kernel = operands[1].shape  # [height, width, in_channels, out_channels]
            total += equation.outvars[0].aval.size * int(np.prod(kernel[:-1]))
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = int(np.prod([operands[0].shape[axis] for axis in contracted]))
            total += equation.outvars[0].aval.size * summed
        for inner in jaxprs_in_params(equation.params):
            total += multiply_adds(inner)
    return total


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
