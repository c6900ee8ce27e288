"""ONNX of a JAX function: its program, equation by equation.

Only operators of the ONNX standard are used. What can be computed at export is, and layers are
stored channels-first, see `onnx_graph`.
"""

import contextlib
from functools import partial

import jax
import numpy as np

from trn_jax import __version__
from trn_jax.errors import UserError, first_line
from trn_jax.export import onnx_axes, onnx_elementwise, onnx_indexing, onnx_products
from trn_jax.export.onnx_fusions import fuse
from trn_jax.export.onnx_graph import Graph, Value, constant, whole

# The first with Gelu and with reductions that take their axes as an input; onnxruntime 1.17
# (January 2024) and later read it.
OPSET = 20
_IR_VERSION = 9  # the file format of that opset's release, ONNX 1.15

_ROOMS = (onnx_axes, onnx_elementwise, onnx_indexing, onnx_products)  # which register the rules
RULES = onnx_elementwise.RULES

# Parameters with the program of an equation that only calls it.
_CALLS = {
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
_DTYPES = ("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8")


def to_onnx(function, inputs, *, input_names, output_names, opset=OPSET):
    """Write a JAX function as an ONNX model.

    Args:
        function: of arrays, returns an array or a list or tuple of them. The arrays that it closes
            over become initializers.
        inputs: a `jax.ShapeDtypeStruct` for each argument. Dimensions may be symbolic
            (`jax.export.symbolic_shape`); the exported model takes any size there.
        input_names: a name for each argument.
        output_names: a name for each result.
        opset: version of the ONNX operators, at least `OPSET`.

    Returns:
        An `onnx.ModelProto`, checked by ONNX.

    Raises:
        UserError: ONNX is not installed, the function uses something that can't be exported, or
            names don't fit.
    """
    onnx = _onnx()
    if opset < OPSET:
        raise UserError(f"opset={opset}: expected at least {OPSET}")
    closed = _traced(function, inputs)
    for kind, names, avals in (
        ("input", input_names, closed.in_avals),
        ("output", output_names, closed.out_avals),
    ):
        if len(names) != len(avals):
            raise UserError(f"{len(names)} {kind} names for {len(avals)} arrays: {list(names)}")
    if len({*input_names, *output_names}) != len(input_names) + len(output_names):
        raise UserError(f"names of inputs and outputs repeat: {[*input_names, *output_names]}")
    graph = Graph(reserved=[*input_names, *output_names])
    arguments = []
    for name, aval in zip(input_names, closed.in_avals, strict=True):
        _check_dtype(aval.dtype)
        arguments.append(graph.input(name, aval))
    results = _run(graph, closed.jaxpr, closed.consts, arguments)
    outputs = []
    for value in results:
        name = graph.full(value, range(len(value.shape)))
        if name in outputs or not any(node.output == name for node in graph.nodes):
            name = graph.emit("Identity", [name], value.shape)
        outputs.append(name)
    nodes = fuse(graph, outputs)
    names = dict(zip(outputs, output_names, strict=True))
    model = _model(onnx, graph, nodes, closed, input_names, names, opset)
    onnx.checker.check_model(model)
    return model


def _traced(function, inputs):
    """The program of a function."""
    open_sizes = [d for each in inputs for d in each.shape if not isinstance(d, int)]
    try:
        return jax.make_jaxpr(lambda *arrays: function(*arrays))(*inputs)
    except UserError:
        raise
    except Exception as problem:  # of any kind, from a stranger's code
        if not open_sizes:
            raise
        raise UserError(
            f"this can't be traced for any size of {', '.join(map(str, open_sizes))} "
            f"({type(problem).__name__}: {first_line(problem)}); export with a fixed batch"
        ) from problem


def _onnx():
    try:
        import onnx
    except ImportError:
        raise UserError(
            'ONNX export needs the package onnx: pip install onnx, or pip install -e ".[export]"'
        ) from None
    return onnx


def _check_dtype(dtype):
    if np.dtype(dtype).name not in _DTYPES:
        raise UserError(
            f"an array of {np.dtype(dtype).name} can't be exported; expected one of "
            f"{', '.join(_DTYPES)}: export with dtype=float32 or float16"
        )


def _run(graph, program, constants, arguments):
    """The values of the outputs of a program."""
    values: dict = {}

    def read(variable):
        if hasattr(variable, "val"):  # a literal
            return constant(np.asarray(variable.val, variable.aval.dtype))
        return values[variable]

    for variable, array in zip(program.constvars, constants, strict=True):
        _check_dtype(variable.aval.dtype)
        values[variable] = array if isinstance(array, Value) else constant(np.asarray(array))
    values.update(zip(program.invars, arguments, strict=True))
    for equation in _needed(program):
        found = _translate(graph, equation, [read(variable) for variable in equation.invars])
        for variable, value in zip(equation.outvars, found, strict=True):
            values[variable] = value
    return [read(variable) for variable in program.outvars]


def _needed(program):
    """The equations that outputs depend on."""
    wanted = {variable for variable in program.outvars if not hasattr(variable, "val")}
    found = []
    for equation in reversed(program.eqns):
        if wanted.isdisjoint(equation.outvars):
            continue
        found.append(equation)
        wanted.update(variable for variable in equation.invars if not hasattr(variable, "val"))
    return reversed(found)


def _translate(graph, equation, values):
    """The values of the results of an equation."""
    name = equation.primitive.name
    if name in _CALLS:
        program = equation.params[_CALLS[name]]
        constants = getattr(program, "consts", ())
        return _run(graph, getattr(program, "jaxpr", program), constants, values)
    if name == "platform_index":
        return [constant(np.int32(0))]  # the branch is chosen below
    if name == "cond":
        index, *arguments = values
        branch = _branch(equation, index)
        return _run(graph, branch.jaxpr, branch.consts, arguments)
    for variable in equation.outvars:
        _check_dtype(variable.aval.dtype)
    try:
        if name not in RULES:
            return _evaluated(equation, values)
        found = RULES[name](graph, equation, *values)
    except UserError as problem:
        raise UserError(f"{_place(equation)} can't be exported to ONNX: {problem}") from None
    except Exception as problem:
        if not graph.symbols or "ymbolic dimension" not in str(problem):
            raise
        raise UserError(
            f"{_place(equation)} can't be exported to ONNX for any batch; export with a fixed one"
        ) from problem
    return found if isinstance(found, list) else [found]


def _evaluated(equation, values):
    """Results of constants, computed by JAX."""
    if not all(value.is_constant for value in values):
        raise UserError("ONNX export knows no such primitive; write the layer in other operations")
    found = equation.primitive.bind(*(whole(value) for value in values), **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [constant(np.asarray(array)) for array in found]


def _branch(equation, index):
    """The program of a condition: by platform the one with a convolution, else the default."""
    branches = equation.params["branches"]
    platforms = equation.params.get("branches_platforms")
    if platforms is not None:
        for branch in branches:
            if any(e.primitive.name == "conv_general_dilated" for e in branch.jaxpr.eqns):
                return branch
        return next(
            (b for b, names in zip(branches, platforms, strict=True) if names is None),
            branches[-1],
        )
    if not index.is_constant:
        raise UserError(f"{_place(equation)} can't be exported to ONNX: its branch is computed")
    return branches[int(np.clip(index.data, 0, len(branches) - 1))]


def _place(equation):
    """The primitive and the line of code that it comes from."""
    place = ""
    with contextlib.suppress(Exception):  # JAX's record of the source, for the message only
        from jax._src import source_info_util

        found = source_info_util.summarize(equation.source_info)
        place = f" ({found})" if found else ""
    shapes = ", ".join(str(variable.aval) for variable in equation.invars)
    return f"the primitive {equation.primitive.name} of {shapes}{place}"


def _model(onnx, graph, nodes, closed, input_names, outputs, opset):
    helper = onnx.helper

    def described(name, shape, dtype):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        dims = [dim if isinstance(dim, int) else str(dim) for dim in shape]
        return helper.make_tensor_value_info(name, kind, dims)

    protos = []
    for number, node in enumerate(nodes):
        attributes = {
            key: helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value
            for key, value in node.attributes.items()
        }
        inputs = [outputs.get(name, name) for name in node.inputs]
        output = outputs.get(node.output, node.output)
        protos.append(
            helper.make_node(node.op, inputs, [output], name=f"{node.op}_{number}", **attributes)
        )
    named = partial(zip, strict=True)
    used = {name for node in nodes for name in node.inputs}
    weights = [
        onnx.numpy_helper.from_array(array, name)
        for name, array in graph.initializers.items()
        if name in used
    ]
    made = helper.make_graph(
        protos,
        "model",
        [described(n, a.shape, a.dtype) for n, a in named(input_names, closed.in_avals)],
        [described(n, a.shape, a.dtype) for n, a in named(outputs.values(), closed.out_avals)],
        initializer=weights,
        # Runtimes can't infer that a reshaped batch is the same as another one.
        value_info=[
            described(node.output, graph.dims[node.output], graph.dtypes[node.output])
            for node in nodes
            if node.output not in outputs
        ],
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION,
        producer_name="trn_jax",
        producer_version=__version__,
    )
