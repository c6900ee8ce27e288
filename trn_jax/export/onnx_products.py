"""ONNX of convolutions, matrix products and pooling."""

import numpy as np

from trn_jax.errors import UserError
from trn_jax.export.onnx_elementwise import cast, number, plain, rule
from trn_jax.export.onnx_graph import Value, is_one, product, stored_constant


@rule("conv_general_dilated")
def _convolution(graph, equation, x, kernel):
    given = equation.params
    numbers, borders = given["dimension_numbers"], given["padding"]
    if given["batch_group_count"] != 1 or any(step != 1 for step in given["lhs_dilation"]):
        raise UserError("transposed convolutions and gradients of convolutions")
    if any(low < 0 or high < 0 for low, high in borders):
        raise UserError("convolutions with negative padding")
    aval = equation.outvars[0].aval
    x, kernel = cast(graph, x, aval.dtype), cast(graph, kernel, aval.dtype)
    inputs = [graph.full(x, numbers.lhs_spec), graph.full(kernel, numbers.rhs_spec)]
    name = graph.emit(
        "Conv",
        inputs,
        [aval.shape[a] for a in numbers.out_spec],
        kernel_shape=[kernel.shape[a] for a in numbers.rhs_spec[2:]],
        strides=list(given["window_strides"]),
        pads=[low for low, _ in borders] + [high for _, high in borders],
        dilations=list(given["rhs_dilation"]),
        group=given["feature_group_count"],
    )
    return Value(aval.shape, aval.dtype, tuple(numbers.out_spec), name=name)


@rule("dot_general")
def _dot_general(graph, equation, x, y):
    (of_x, of_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    aval = equation.outvars[0].aval
    x, y = cast(graph, x, aval.dtype), cast(graph, y, aval.dtype)
    free_x = [a for a in range(len(x.shape)) if a not in (*of_x, *batch_x)]
    free_y = [a for a in range(len(y.shape)) if a not in (*of_y, *batch_y)]
    count = len(batch_x)
    places_x = dict(zip(free_x, range(count, len(aval.shape)), strict=False))
    places_y = dict(zip(free_y, range(count + len(free_x), len(aval.shape)), strict=True))
    left = x, list(of_x), list(batch_x), free_x, places_x
    right = y, list(of_y), list(batch_y), free_y, places_y
    if not batch_x:
        if x.is_constant:
            left, right = right, left
        return _plain_product(graph, aval, left, right)
    return _batched_product(graph, aval, left, right)


def _plain_product(graph, aval, left, right):
    """`MatMul` of an array of any rank, in its own layout, with a matrix."""
    x, of_x, _, free_x, places_x = left
    y, of_y, _, free_y, places_y = right
    x = graph.computed(graph.expanded(x, set(of_x)))
    free = [a for a in x.axes if a in free_x]
    contracted = [a for a in x.axes if a in of_x]
    contracted += [a for a in of_x if a not in contracted]
    shared = product(x.shape[a] for a in contracted)
    name = graph.stored(x, free + contracted)
    if len(contracted) != 1:
        name = graph.reshape(name, [*x.dims(free), shared])
    matching = [of_y[of_x.index(a)] for a in contracted]
    y = graph.expanded(y, {*matching, *free_y})
    columns = product(y.shape[a] for a in free_y)
    matrix = _matrix(graph, y, matching, free_y, (shared, columns))
    name = graph.emit("MatMul", [name, matrix], [*x.dims(free), columns])
    axes = [places_x[a] for a in free] + [places_y[a] for a in free_y]
    name = graph.reshape(name, [aval.shape[a] for a in axes])
    return Value(aval.shape, aval.dtype, tuple(axes), name=name)


def _matrix(graph, y, rows, columns, dims):
    if y.is_constant:
        axes = [*rows, *columns]
        data = np.broadcast_to(stored_constant(y, axes), [y.shape[a] for a in axes])
        return graph.initializer(data.reshape(dims))
    return graph.reshape(graph.full(y, [*rows, *columns]), dims)


def _batched_product(graph, aval, left, right):
    """`MatMul` of stacks of matrices."""
    x, of_x, batch_x, free_x, _ = left
    y, of_y, batch_y, free_y, _ = right
    leading = [x.shape[a] for a in batch_x]
    shared = product(x.shape[a] for a in of_x)
    rows = product(x.shape[a] for a in free_x)
    columns = product(y.shape[a] for a in free_y)
    first = graph.reshape(graph.full(x, [*batch_x, *free_x, *of_x]), [*leading, rows, shared])
    second = graph.reshape(graph.full(y, [*batch_y, *of_y, *free_y]), [*leading, shared, columns])
    name = graph.emit("MatMul", [first, second], [*leading, rows, columns])
    name = graph.reshape(name, aval.shape)
    return Value(aval.shape, aval.dtype, tuple(range(len(aval.shape))), name=name)


@rule("reduce_window_max", "reduce_window_sum")
def _pool(graph, equation, x):
    given, aval = equation.params, equation.outvars[0].aval
    window, steps = given["window_dimensions"], given["window_strides"]
    borders = given["padding"]
    dilated = [*given["base_dilation"], *given["window_dilation"]]
    if any(step != 1 for step in dilated) or any(min(border) < 0 for border in borders):
        raise UserError("pooling with dilation or negative padding")
    pooled = [
        a
        for a in range(len(x.shape))
        if (window[a], steps[a]) != (1, 1) or tuple(borders[a]) != (0, 0)
    ]
    if not pooled:
        return x
    x = graph.computed(graph.expanded(x, set(pooled)))
    order, before, spatial, after = _pooling_layout(x, pooled)
    dims, result = [x.shape[a] for a in order], [aval.shape[a] for a in order]
    # Two leading axes; then those of windows; all axes behind them as one.
    lead = dims[: len(before)] if len(before) == 2 else [product(dims[: len(before)]), 1]
    middle = [x.shape[a] for a in spatial]
    tail = [product(x.shape[a] for a in after)] if after else []
    name = graph.reshape(graph.stored(x, order), [*lead, *middle, *tail])
    one = [1] * len(tail)
    options = dict(
        kernel_shape=[window[a] for a in spatial] + one,
        strides=[steps[a] for a in spatial] + one,
        pads=[
            *(borders[a][0] for a in spatial),
            *(0 for _ in tail),
            *(borders[a][1] for a in spatial),
            *(0 for _ in tail),
        ],
    )
    shrunk = [*lead, *(aval.shape[a] for a in spatial), *tail]
    if equation.primitive.name == "reduce_window_max":
        name = graph.emit("MaxPool", [name], shrunk, **options)
        return Value(aval.shape, x.dtype, tuple(order), name=graph.reshape(name, result))
    name = graph.emit("AveragePool", [name], shrunk, count_include_pad=1, **options)
    mean = Value(aval.shape, x.dtype, tuple(order), name=graph.reshape(name, result))
    return plain(graph, "mul", mean, number(product(window), mean))


def _pooling_layout(x, pooled):
    """Stored axes for pooling, and which lead, are among the windows, and trail."""
    order = [a for a in x.axes if a in pooled or not is_one(x.shape[a])]
    order = [*(a for a in pooled if a not in order), *order]
    others = [a for a in order if a not in pooled]
    places = [order.index(a) for a in pooled]
    first, last = min(places), max(places) + 1
    if (len(order) == 4 and len(pooled) == 2) or last - first + (last < len(order)) > 3:
        order = others + pooled
        first, last = len(others), len(order)
    return order, order[:first], order[first:last], order[last:]
