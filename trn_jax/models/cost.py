"""Parameters, FLOPs and activations of a model, counted in its jaxpr."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params

from trn_jax.nn.conv3d import FURTHER_TAP_SCOPE
from trn_jax.nn.layers import NORM_SCOPE

_PRODUCTS = ("conv_general_dilated", "dot_general")


class ModelCost(NamedTuple):
    """Size of a module, and operations for one input.

    Attributes:
        parameters: number of parameters, frozen ones included.
        products: multiply-adds of convolutions and matrix products.
        normalised: output elements of batch norms.
        activations: output elements of convolutions and matrix products (Radosavovic et al.,
            "Designing Network Design Spaces", 2020), a better predictor of the time on accelerators
            than `products`.
    """

    parameters: int
    products: int
    normalised: int
    activations: int

    @property
    def flops(self):
        """FLOPs as in published tables: a multiply-add counts one, a normalised element two."""
        return self.products + 2 * self.normalised


def measure(module, *shape):
    """Cost of evaluating `module` (its values may be abstract) on an input of `shape`.

    Args:
        module: a `Recognizer`, a backbone, or another module that maps one array.
        *shape: of the input, such as `1, 8, 224, 224, 3` for one clip.

    Returns:
        A `ModelCost`.
    """
    graph, state = nnx.split(module)
    parameters = nnx.as_pure(nnx.state(module, nnx.Not(nnx.BatchStat)))
    program = jax.make_jaxpr(lambda s, x: nnx.merge(graph, s)(x))(
        state, jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    return ModelCost(
        sum(leaf.size for leaf in jax.tree.leaves(parameters)), *_operations(program.jaxpr)
    )


def _operations(program, *, added=False):
    """Multiply-adds, outputs of batch norms, and outputs of products not `added` to others."""
    products = normalised = activations = 0
    for equation in program.eqns:
        name, output = equation.primitive.name, equation.outvars[0].aval
        operands = [variable.aval for variable in equation.invars]
        further = added or FURTHER_TAP_SCOPE in str(equation.source_info.name_stack)
        if name == "conv_general_dilated":
            kernel = operands[1].shape  # [height, width, in_channels / groups, out_channels]
            products += output.size * math.prod(kernel[:-1])
        elif name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            products += output.size * math.prod(operands[0].shape[axis] for axis in summed)
        if name in _PRODUCTS and not further:
            activations += output.size
        elif name == "mul" and NORM_SCOPE in str(equation.source_info.name_stack):
            # All but one of its products are of vectors `[channels]`.
            normalised += output.size if output.ndim > 1 else 0
        parts = [_operations(part, added=further) for part in jaxprs_in_params(equation.params)]
        if parts:
            # Branches are forms of one operation for different devices. Some have elementwise
            # products only, so the largest count is that of the operation.
            merge = max if name == "cond" else sum
            products += merge(part[0] for part in parts)
            normalised += merge(part[1] for part in parts)
            activations += merge(part[2] for part in parts)
    return products, normalised, activations
