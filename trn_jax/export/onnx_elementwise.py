"""ONNX of elementwise primitives, of any layout."""

import math

import numpy as np

from trn_jax.export.onnx_graph import Value, constant, is_one, stored_constant


def _truncating(function):
    """Division and remainder as in C, for integers."""

    def divide(a, b):
        if np.issubdtype(a.dtype, np.integer):
            quotient = (np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)).astype(a.dtype)
            return quotient if function is np.divide else a - quotient * b
        return function(a, b)

    return divide


def _sigmoid(x):
    return (1 / (1 + np.exp(-x))).astype(x.dtype)


def _erf(x):
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


# ONNX operator, and NumPy's function for constants.
PLAIN = {
    "abs": ("Abs", np.abs),
    "add": ("Add", np.add),
    "add_any": ("Add", np.add),
    "ceil": ("Ceil", np.ceil),
    "cos": ("Cos", np.cos),
    "div": ("Div", _truncating(np.divide)),
    "eq": ("Equal", np.equal),
    "erf": ("Erf", _erf),
    "exp": ("Exp", np.exp),
    "floor": ("Floor", np.floor),
    "ge": ("GreaterOrEqual", np.greater_equal),
    "gt": ("Greater", np.greater),
    "le": ("LessOrEqual", np.less_equal),
    "log": ("Log", np.log),
    "logistic": ("Sigmoid", _sigmoid),
    "lt": ("Less", np.less),
    "max": ("Max", np.maximum),
    "min": ("Min", np.minimum),
    "mul": ("Mul", np.multiply),
    "neg": ("Neg", np.negative),
    "pow": ("Pow", np.power),
    "sign": ("Sign", np.sign),
    "sin": ("Sin", np.sin),
    "sqrt": ("Sqrt", np.sqrt),
    "sub": ("Sub", np.subtract),
    "tanh": ("Tanh", np.tanh),
}
_LOGIC = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_BITS = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}

RULES = {}


def rule(*names):
    """Register the rule of primitives: a function of graph, equation and values."""

    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def common_order(values):
    """The stored axes of the result of an elementwise operation: those of its largest operand."""
    computed = [value for value in values if not value.is_constant] or values
    order = list(max(computed, key=_num_stored).axes)
    for axis in sorted({a for value in values for a in value.axes} - set(order)):
        later = [i for i, a in enumerate(order) if a > axis]
        order.insert(later[0] if later and order == sorted(order) else 0, axis)
    return tuple(order)


def _num_stored(value):
    return sum(not is_one(size) for size in value.dims()), len(value.axes)


def apply(graph, op, function, values, *, dtype=None, **attributes):
    """Apply an ONNX operator with NumPy's broadcasting, or `function` to constants.

    Args:
        graph: the `Graph`.
        op: ONNX operator.
        function: the same for arrays.
        values: `Value`s of one rank, or of rank 0; along axes of size 1 they are repeated.
        dtype: of the result; by default that of the first.
        **attributes: of the node.
    """
    shape = _joint_shape(values)
    dtype = np.dtype(dtype or values[0].dtype)
    if all(value.is_constant for value in values):
        order = tuple(sorted({a for value in values for a in value.axes}))
        arrays = [stored_constant(value, order if value.shape else ()) for value in values]
        with np.errstate(all="ignore"):
            return Value(shape, dtype, order, data=np.asarray(function(*arrays), dtype))
    order = common_order(values)
    inputs = []
    for value in values:
        first = min((order.index(a) for a in value.axes), default=len(order))
        inputs.append(graph.stored(value, order[first:]))
    dims = [shape[axis] for axis in order]
    return Value(shape, dtype, order, name=graph.emit(op, inputs, dims, **attributes))


def _joint_shape(values):
    """The shape of the result: axes of size 1 are repeated."""
    shapes = [value.shape for value in values if value.shape]
    sizes = zip(*shapes, strict=True)
    return tuple(next((dim for dim in dims if not is_one(dim)), 1) for dims in sizes)


def plain(graph, primitive, *values, dtype=None):
    """Apply a primitive of `PLAIN`."""
    op, function = PLAIN[primitive]
    return apply(graph, op, function, values, dtype=dtype)


def number(value, like):
    """A constant of rank 0 of the dtype of another value."""
    return constant(np.asarray(value, like.dtype))


def cast(graph, value, dtype):
    """The value in another dtype."""
    dtype = np.dtype(dtype)
    if value.dtype == dtype:
        return value
    return apply(graph, "Cast", lambda x: x.astype(dtype), [value], dtype=dtype, to=dtype)


def _plain_rule(graph, equation, *values):
    return plain(graph, equation.primitive.name, *values, dtype=equation.outvars[0].aval.dtype)


RULES.update(dict.fromkeys(PLAIN, _plain_rule))


@rule("max")
def _max(graph, equation, x, y):
    for value, other in ((x, y), (y, x)):
        floats = np.issubdtype(x.dtype, np.floating)
        if other.is_constant and other.data.size == 1 and not value.is_constant and floats:
            if other.data.item() == 0:
                return apply(graph, "Relu", None, [value])
            if other.data.item() == -math.inf:
                return value
    return plain(graph, "max", x, y)


@rule("rsqrt")
def _rsqrt(graph, equation, x):
    return plain(graph, "div", number(1, x), plain(graph, "sqrt", x))


@rule("square")
def _square(graph, equation, x):
    return plain(graph, "mul", x, x)


@rule("integer_pow")
def _integer_pow(graph, equation, x):
    power = equation.params["y"]
    if power == 2:
        return plain(graph, "mul", x, x)
    if power == -1:
        return plain(graph, "div", number(1, x), x)
    return plain(graph, "pow", x, number(power, x))


@rule("erfc")
def _erfc(graph, equation, x):
    return plain(graph, "sub", number(1, x), plain(graph, "erf", x))


@rule("expm1")
def _expm1(graph, equation, x):
    return plain(graph, "sub", plain(graph, "exp", x), number(1, x))


@rule("log1p")
def _log1p(graph, equation, x):
    return plain(graph, "log", plain(graph, "add", x, number(1, x)))


@rule("exp2")
def _exp2(graph, equation, x):
    return plain(graph, "pow", number(2, x), x)


@rule("rem")
def _rem(graph, equation, x, y):
    return apply(graph, "Mod", _truncating(np.fmod), [x, y], fmod=1)


@rule("and", "or", "xor")
def _logic(graph, equation, x, y):
    name = equation.primitive.name
    if x.dtype == bool:
        return apply(graph, name.capitalize(), _LOGIC[name], [x, y])
    return apply(graph, f"Bitwise{name.capitalize()}", _BITS[name], [x, y])


@rule("not")
def _not(graph, equation, x):
    op = "Not" if x.dtype == bool else "BitwiseNot"
    return apply(graph, op, np.invert, [x])


@rule("ne")
def _ne(graph, equation, x, y):
    return apply(graph, "Not", np.invert, [plain(graph, "eq", x, y, dtype=bool)])


@rule("is_finite")
def _is_finite(graph, equation, x):
    below = plain(graph, "abs", x)
    return plain(graph, "lt", below, number(math.inf, x), dtype=bool)


@rule("round")
def _round(graph, equation, x):
    if int(equation.params["rounding_method"]) == 1:  # to even
        return apply(graph, "Round", np.round, [x])
    magnitude = plain(graph, "floor", plain(graph, "add", plain(graph, "abs", x), number(0.5, x)))
    return plain(graph, "mul", plain(graph, "sign", x), magnitude)


@rule("clamp")
def _clamp(graph, equation, low, x, high):
    return plain(graph, "min", plain(graph, "max", x, low), high)


@rule("select_n")
def _select(graph, equation, which, *cases):
    if which.is_constant and which.data.size == 1:
        case = cases[int(which.data.item())]
        if case.shape == equation.outvars[0].aval.shape:
            return case
    result = cases[-1]
    for i in reversed(range(len(cases) - 1)):
        if which.dtype == bool:
            other, condition = cases[i], which
            found = [condition, result, other]
        else:
            condition = plain(graph, "eq", which, number(i, which), dtype=bool)
            found = [condition, cases[i], result]
        result = apply(graph, "Where", np.where, found, dtype=cases[0].dtype)
    return result


@rule("convert_element_type")
def _convert(graph, equation, x):
    return cast(graph, x, equation.params["new_dtype"])


@rule("stop_gradient", "copy", "copy_p", "optimization_barrier", "reduce_precision", "name")
def _same(graph, equation, *values):
    return list(values)
