"""ONNX of primitives that rename, split, merge, join or reduce axes."""

import itertools
import operator

import numpy as np

from trn_jax.errors import UserError
from trn_jax.export.onnx_elementwise import cast, rule
from trn_jax.export.onnx_graph import Value, constant, is_one, whole


def renamed(value, shape, name_of, *, drop=()):
    """The same stored tensor with other logical axes.

    Args:
        value: a `Value`.
        shape: the new logical shape.
        name_of: function from an old axis to the new one.
        drop: old axes of size 1 that are stored no more.
    """

    def rename(graph):
        kept = tuple(a for a in value.axes if a not in drop)
        axes = tuple(name_of(a) for a in kept)
        if value.is_constant:
            data = value.data.reshape(value.dims(kept))
            order = np.argsort(axes)
            axes = tuple(axes[i] for i in order)
            return Value(tuple(shape), value.dtype, axes, data=np.transpose(data, order))
        name = graph.stored(value, kept)
        return Value(tuple(shape), value.dtype, axes, name=name)

    return rename


def groups(old, new):
    """Runs of axes of two shapes with equal products, `[(old axes, new axes)]`."""
    found, i, j = [], 0, 0
    ends = list(itertools.accumulate(new, operator.mul))
    for stop, before in enumerate(itertools.accumulate(old, operator.mul), 1):
        match = next((k for k in range(j, len(new)) if ends[k] == before), None)
        if match is not None:
            found.append((list(range(i, stop)), list(range(j, match + 1))))
            i, j = stop, match + 1
    rest = list(range(i, len(old))), list(range(j, len(new)))
    if not found:
        return [rest]
    found[-1] = found[-1][0] + rest[0], found[-1][1] + rest[1]
    return found


def reshape(graph, value, shape):
    """The value with another logical shape, without a transposition where the layout allows it."""
    shape = tuple(shape)
    if shape == value.shape:
        return value
    pairs = [
        (
            [a for a in old if not is_one(value.shape[a])],
            [a for a in new if not is_one(shape[a])],
        )
        for old, new in groups(value.shape, shape)
    ]
    mixed = {
        a
        for old, new in pairs
        if (len(old), len(new)) != (1, 1) and any(b in value.axes for b in old)
        for a in old
    }
    value = graph.expanded(value, mixed)
    pairs = [(old, new) for old, new in pairs if any(a in value.axes for a in old)]
    if value.is_constant:
        order = [a for old, _ in pairs for a in old]
        axes = tuple(a for _, new in pairs for a in new)
        data = np.squeeze(value.data, tuple(i for i, a in enumerate(value.axes) if a not in order))
        return Value(shape, value.dtype, axes, data=data.reshape([shape[a] for a in axes]))
    pairs.sort(key=lambda pair: value.axes.index(pair[0][0]))
    order = [a for old, _ in pairs for a in old]
    axes = tuple(a for _, new in pairs for a in new)
    name = graph.reshape(graph.stored(value, order), [shape[a] for a in axes])
    return Value(shape, value.dtype, axes, name=name)


@rule("reshape")
def _reshape(graph, equation, x):
    return reshape(graph, x, equation.outvars[0].aval.shape)


@rule("squeeze")
def _squeeze(graph, equation, x):
    dropped = [d % len(x.shape) for d in equation.params["dimensions"]]
    kept = [a for a in range(len(x.shape)) if a not in dropped]
    shape = equation.outvars[0].aval.shape
    return renamed(x, shape, kept.index, drop=dropped)(graph)


@rule("transpose")
def _transpose(graph, equation, x):
    permutation = list(equation.params["permutation"])
    return renamed(x, equation.outvars[0].aval.shape, permutation.index)(graph)


@rule("broadcast_in_dim")
def _broadcast(graph, equation, x, *sizes):
    shape, places = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    repeated = [a for a, place in enumerate(places) if x.shape[a] != shape[place]]
    return renamed(x, shape, places.__getitem__, drop=repeated)(graph)


@rule("expand_dims")
def _expand_dims(graph, equation, x):
    new = equation.params["dimensions"]
    shape = equation.outvars[0].aval.shape
    kept = [a for a in range(len(shape)) if a not in new]
    return renamed(x, shape, kept.__getitem__)(graph)


@rule("iota")
def _iota(graph, equation, *sizes):
    axis, dtype = equation.params["dimension"], equation.params["dtype"]
    shape = equation.outvars[0].aval.shape
    if not isinstance(shape[axis], int):
        raise UserError(f"numbers from 0 to {shape[axis]}, which is not known before it runs")
    return Value(shape, np.dtype(dtype), (axis,), data=np.arange(shape[axis], dtype=dtype))


@rule("dim_as_value")
def _dim_as_value(graph, equation, *sizes):
    name = graph.reshape(graph.size(equation.params["dim"]), ())
    aval = equation.outvars[0].aval
    return cast(graph, Value((), np.dtype(np.int64), (), name=name), aval.dtype)


# ONNX operator, NumPy's function, and whether a repeated axis counts once.
_REDUCTIONS = {
    "reduce_sum": ("ReduceSum", np.sum, False),
    "reduce_prod": ("ReduceProd", np.prod, False),
    "reduce_max": ("ReduceMax", np.max, True),
    "reduce_min": ("ReduceMin", np.min, True),
}


def reduce(graph, op, function, x, reduced, *, once=False, **attributes):
    """Reduce axes with an ONNX operator that takes them as its second input."""
    kept = [a for a in range(len(x.shape)) if a not in reduced]
    shape = tuple(x.shape[a] for a in kept)
    if not once:
        x = graph.expanded(x, set(reduced))
    present = [i for i, a in enumerate(x.axes) if a in reduced]
    axes = tuple(kept.index(a) for a in x.axes if a not in reduced)
    if x.is_constant:
        data = function(x.data, axis=tuple(present)).astype(x.dtype)
        return Value(shape, x.dtype, axes, data=data)
    if not present:
        return Value(shape, x.dtype, axes, name=x.name)
    name = graph.emit(
        op,
        [x.name, graph.integers(*present)],
        [shape[a] for a in axes],
        keepdims=0,
        **attributes,
    )
    return Value(shape, x.dtype, axes, name=name)


@rule(*_REDUCTIONS)
def _reduce(graph, equation, x):
    op, function, once = _REDUCTIONS[equation.primitive.name]
    return reduce(graph, op, function, x, equation.params["axes"], once=once)


@rule("reduce_and", "reduce_or")
def _reduce_logic(graph, equation, x):
    name = equation.primitive.name
    found = cast(graph, x, np.int32)
    op = dict(reduce_and=("ReduceMin", np.min), reduce_or=("ReduceMax", np.max))[name]
    return cast(graph, reduce(graph, *op, found, equation.params["axes"], once=True), bool)


@rule("argmax", "argmin")
def _arg(graph, equation, x):
    name, (axis,) = equation.primitive.name, equation.params["axes"]
    x = graph.computed(graph.expanded(x, {axis}))
    kept = [a for a in range(len(x.shape)) if a != axis]
    shape = tuple(x.shape[a] for a in kept)
    axes = tuple(kept.index(a) for a in x.axes if a != axis)
    dims = [shape[a] for a in axes]
    op = dict(argmax="ArgMax", argmin="ArgMin")[name]
    found = graph.emit(op, [x.name], dims, axis=x.axes.index(axis), keepdims=0)
    indices = Value(shape, np.dtype(np.int64), axes, name=found)
    return cast(graph, indices, equation.params["index_dtype"])


@rule("cumsum")
def _cumsum(graph, equation, x):
    axis, backwards = equation.params["axis"], int(equation.params["reverse"])
    x = graph.computed(graph.expanded(x, {axis}))
    place = graph.initializer(np.array(x.axes.index(axis), np.int64))
    name = graph.emit("CumSum", [x.name, place], x.dims(), reverse=backwards)
    return Value(x.shape, x.dtype, x.axes, name=name)


def concatenate(graph, values, axis, shape):
    """Join values along an axis, in the layout of the largest that is computed."""
    known = all(isinstance(dim, int) for value in values for dim in value.shape)
    if known and all(value.is_constant for value in values):
        return constant(np.concatenate([whole(value) for value in values], axis))
    values = [value for value in values if value.shape[axis] != 0]
    computed = [value for value in values if not value.is_constant] or values
    first = max(computed, key=lambda value: (len(value.axes), axis in value.axes))
    order = list(first.axes)
    for a in range(len(shape)):
        needed = a == axis or any(a in value.axes for value in values)
        if a not in order and needed:
            order.insert(sum(b < a for b in order), a)
    names = [graph.full(value, order) for value in values]
    dims = [shape[a] for a in order]
    name = graph.emit("Concat", names, dims, axis=order.index(axis))
    return Value(shape, first.dtype, tuple(order), name=name)


@rule("concatenate")
def _concatenate(graph, equation, *values):
    axis = equation.params["dimension"]
    return concatenate(graph, values, axis, equation.outvars[0].aval.shape)


@rule("tile")
def _tile(graph, equation, x):
    repeats, shape = equation.params["reps"], equation.outvars[0].aval.shape
    x = graph.computed(graph.expanded(x, {a for a, times in enumerate(repeats) if times > 1}))
    missing = [a for a, times in enumerate(repeats) if times > 1 and a not in x.axes]
    order = (*missing, *x.axes)
    times = graph.integers(*(repeats[a] for a in order))
    name = graph.emit("Tile", [graph.stored(x, order), times], [shape[a] for a in order])
    return Value(shape, x.dtype, order, name=name)


@rule("stack")
def _stack(graph, equation, *values):
    axis, shape = equation.params["axis"], equation.outvars[0].aval.shape
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    kept = [a for a in range(len(shape)) if a != axis]
    parts = [renamed(value, single, kept.__getitem__)(graph) for value in values]
    return concatenate(graph, parts, axis, shape)
