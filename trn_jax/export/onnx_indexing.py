"""ONNX of slices, padding and gathers."""

import numpy as np

from trn_jax.errors import UserError
from trn_jax.export.onnx_axes import renamed, reshape
from trn_jax.export.onnx_elementwise import cast, number, plain, rule
from trn_jax.export.onnx_graph import END, Value, constant, is_one, product, whole


def sliced(graph, x, ranges):
    """A part of a value.

    Args:
        graph: the `Graph`.
        x: a `Value`.
        ranges: `{axis: (start, stop, step)}`, not negative; a stop of `None` is the end.
    """
    shape = list(x.shape)
    needed = {}
    for axis, (start, stop, step) in ranges.items():
        if start == 0 and step == 1 and (stop is None or stop == x.shape[axis]):
            continue
        end = x.shape[axis] if stop is None else stop
        shape[axis] = (end - start + step - 1) // step
        if axis in x.axes:
            needed[axis] = start, stop, step
    if x.is_constant:
        index = tuple(slice(*needed.get(a, (None,))) for a in x.axes)
        return Value(tuple(shape), x.dtype, x.axes, data=x.data[index])
    if not needed:
        return Value(tuple(shape), x.dtype, x.axes, name=x.name)
    starts, stops, steps = zip(*needed.values(), strict=True)
    places = [x.axes.index(a) for a in needed]
    ends = [END if stop is None else stop for stop in stops]
    rows = [graph.integers(*row) for row in (starts, ends, places, steps)]
    name = graph.emit("Slice", [x.name, *rows], [shape[a] for a in x.axes])
    return Value(tuple(shape), x.dtype, x.axes, name=name)


@rule("slice")
def _slice(graph, equation, x):
    given = equation.params
    steps = given["strides"] or (1,) * len(x.shape)
    ranges = {
        a: (start, None if stop == x.shape[a] else stop, step)
        for a, (start, stop, step) in enumerate(
            zip(given["start_indices"], given["limit_indices"], steps, strict=True)
        )
    }
    return sliced(graph, x, ranges)


@rule("split")
def _split(graph, equation, x):
    axis, found, start = equation.params["axis"], [], 0
    for size in equation.params["sizes"]:
        found.append(sliced(graph, x, {axis: (start, start + size, 1)}))
        start += size
    return found


@rule("rev")
def _rev(graph, equation, x):
    reversed_axes = [a for a in equation.params["dimensions"] if a in x.axes]
    x = graph.computed(x)
    places = [x.axes.index(a) for a in reversed_axes]
    if not places:
        return x
    count = len(places)
    backwards = [-1] * count
    rows = [graph.integers(*row) for row in (backwards, [-END] * count, places, backwards)]
    return Value(x.shape, x.dtype, x.axes, name=graph.emit("Slice", [x.name, *rows], x.dims()))


@rule("pad")
def _pad(graph, equation, x, fill):
    config = equation.params["padding_config"]
    shape = equation.outvars[0].aval.shape
    if any(interior for _, _, interior in config):
        raise UserError("padding between elements")
    if not fill.is_constant:
        raise UserError("padding with a computed value")
    if x.is_constant and all(isinstance(size, int) for size in x.shape):
        cut = tuple(
            slice(max(-low, 0), size - max(-high, 0))
            for size, (low, high, _) in zip(x.shape, config, strict=True)
        )
        borders = [(max(low, 0), max(high, 0)) for low, high, _ in config]
        return constant(np.pad(whole(x)[cut], borders, constant_values=fill.data.item()))
    x = graph.expanded(x, {a for a, (low, high, _) in enumerate(config) if low > 0 or high > 0})
    missing = [
        a for a, (low, high, _) in enumerate(config) if (low > 0 or high > 0) and a not in x.axes
    ]
    order = (*missing, *x.axes)
    x = Value(x.shape, x.dtype, order, name=graph.stored(x, order))
    cuts = {
        a: (max(-low, 0), x.shape[a] + high if high < 0 else None, 1)
        for a, (low, high, _) in enumerate(config)
        if low < 0 or high < 0
    }
    x = sliced(graph, x, cuts)
    added = [(max(config[a][0], 0), max(config[a][1], 0)) for a in x.axes]
    if not any(map(any, added)):
        return x
    pads = graph.integers(*(low for low, _ in added), *(high for _, high in added))
    value = graph.initializer(fill.data.reshape(()).astype(x.dtype))
    dims = [shape[a] for a in x.axes]
    return Value(shape, x.dtype, x.axes, name=graph.emit("Pad", [x.name, pads, value], dims))


@rule("dynamic_slice")
def _dynamic_slice(graph, equation, x, *starts):
    sizes = equation.params["slice_sizes"]
    places = [a for a, size in enumerate(sizes) if size != x.shape[a]]
    if all(starts[a].is_constant for a in places):
        ranges = {}
        for a in places:
            first = int(starts[a].data)
            if first:  # 0 is inside of any size
                first = int(np.clip(first, 0, x.shape[a] - sizes[a]))
            ranges[a] = first, first + sizes[a], 1
        return sliced(graph, x, ranges)
    for a in places:
        start = starts[a]
        limit = number(x.shape[a] - sizes[a], start)
        first = plain(graph, "min", plain(graph, "max", start, number(0, start)), limit)
        counted = constant(np.arange(sizes[a], dtype=first.dtype))
        x = _taken(graph, x, a, plain(graph, "add", counted, first))
    return x


def _taken(graph, x, axis, indices):
    """The entries of `x` at `indices` `[n]` (or of any rank) along one axis, which they replace."""
    rank = len(indices.shape)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    new = list(range(axis, axis + rank))
    x = graph.computed(graph.expanded(x, {axis}))
    if axis not in x.axes:
        x = Value(x.shape, x.dtype, (axis, *x.axes), name=graph.stored(x, (axis, *x.axes)))
    place = x.axes.index(axis)
    later = [a if a < axis else a + rank - 1 for a in x.axes]
    axes = (*later[:place], *new, *later[place + 1 :])
    name = graph.full(indices, range(rank))
    found = graph.emit("Gather", [x.name, name], [shape[a] for a in axes], axis=place)
    return Value(shape, x.dtype, axes, name=found)


@rule("gather")
def _gather(graph, equation, x, indices):
    numbers = equation.params["dimension_numbers"]
    if numbers.operand_batching_dims:
        raise UserError("gathers with batch axes")
    mapped, collapsed = list(numbers.start_index_map), list(numbers.collapsed_slice_dims)
    sizes = list(equation.params["slice_sizes"])
    batch = indices.shape[:-1]
    if indices.is_constant:
        starts = _checked(whole(indices), x, mapped, sizes, equation.params["mode"])
        columns = [starts[..., i] for i in range(len(mapped))]
        fixed = {}
        for axis, column in zip(mapped, columns, strict=True):
            if column.size and (column == column.flat[0]).all():
                fixed[axis] = int(column.flat[0]), int(column.flat[0]) + sizes[axis], 1
        if len(fixed) == len(mapped) and any(size != 1 for size in batch):
            del fixed[mapped[0]]  # the same entries several times
        varying = [(a, c) for a, c in zip(mapped, columns, strict=True) if a not in fixed]
        x = sliced(graph, x, fixed)
    else:
        if len(mapped) != 1:
            raise UserError("gathers at computed positions along several axes")
        (axis,) = mapped
        column = renamed(indices, batch, lambda a: a, drop=[len(batch)])(graph)
        limit = x.shape[axis] - sizes[axis]
        if str(equation.params["mode"]).endswith("FILL_OR_DROP"):
            raise UserError("gathers at computed positions that may be outside of the array")
        column = plain(graph, "max", column, number(0, column))
        varying = [(axis, plain(graph, "min", column, number(limit, column)))]
    if any(a not in collapsed for a, _ in varying):
        raise UserError("gathers of slices at several positions")
    return _arranged(graph, x, varying, collapsed, list(numbers.offset_dims), batch, equation)


def _checked(starts, x, mapped, sizes, mode):
    """Constant start positions, inside of the array."""
    widths = [x.shape[axis] - sizes[axis] for axis in mapped]
    limits = np.array(widths, starts.dtype)
    if str(mode).endswith("CLIP"):
        return np.clip(starts, 0, limits)
    if (starts < 0).any() or (starts > limits).any():
        raise UserError("gathers outside of the array")
    return starts


def _arranged(graph, x, varying, collapsed, offsets, batch, equation):
    """Take entries along the axes of `varying`, then put the axes where the equation has them."""
    shape = equation.outvars[0].aval.shape
    batch_places = [a for a in range(len(shape)) if a not in offsets]
    kept = [a for a in range(len(x.shape)) if a not in collapsed]
    place_of = dict(zip(kept, offsets, strict=True))
    separate = _separate(varying, batch)
    if separate is not None:
        for axis, (batch_axis, positions) in separate.items():
            place_of[axis] = batch_places[batch_axis]
            x = _stepped(graph, x, axis, positions)
        gone = [a for a in collapsed if a not in separate]
        return renamed(x, shape, place_of.__getitem__, drop=gone)(graph)
    axes, x_shape = [axis for axis, _ in varying], x.shape
    x, merged, row = _merged(graph, x, varying)
    found = _taken(graph, x, merged, row)
    # Logical axes of `found`: those of x with `axes` replaced by the axes of the batch.
    counter = iter(a for a in range(len(x_shape)) if a not in axes)
    places = {}
    rank = len(batch)
    for a in range(len(found.shape)):
        if merged <= a < merged + rank:
            places[a] = batch_places[a - merged]
        else:
            places[a] = place_of.get(next(counter))
    gone = [a for a, place in places.items() if place is None]
    return renamed(found, shape, places.__getitem__, drop=gone)(graph)


def _separate(varying, batch):
    """`{axis: (batch axis, positions)}` if every axis follows another batch axis, else `None`."""
    found = {}
    for axis, column in varying:
        if isinstance(column, Value):
            return None
        moving = [
            i
            for i in range(column.ndim)
            if column.shape[i] > 1 and (np.diff(column, axis=i) != 0).any()
        ]
        if len(moving) != 1:
            return None
        found[axis] = moving[0], _along(column, moving[0])
    used = [batch_axis for batch_axis, _ in found.values()]
    others = [size for i, size in enumerate(batch) if i not in used]
    return found if len(set(used)) == len(used) and all(size == 1 for size in others) else None


def _along(array, axis):
    """The first entries of an array along an axis."""
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])[0]


def _stepped(graph, x, axis, positions):
    """The entries at `positions` `[n]` along an axis, as a slice if they are evenly spaced."""
    steps = np.diff(positions)
    shape = (*x.shape[:axis], len(positions), *x.shape[axis + 1 :])
    if axis not in x.axes and not is_one(x.shape[axis]):
        return Value(shape, x.dtype, x.axes, data=x.data, name=x.name)
    if (steps == steps[0]).all() and steps[0] > 0:
        return sliced(graph, x, {axis: (int(positions[0]), int(positions[-1]) + 1, int(steps[0]))})
    if x.is_constant:
        order = x.axes.index(axis)
        data = np.take(x.data, positions, order)
        return Value(shape, x.dtype, x.axes, data=data)
    return _taken(graph, x, axis, constant(positions.astype(np.int64)))


def _merged(graph, x, varying):
    """The axes of `varying` as one axis of `x`, and the positions along it."""
    axes = [axis for axis, _ in varying]
    if len(axes) == 1:
        (axis, column) = varying[0]
        row = column if isinstance(column, Value) else constant(column.astype(np.int64))
        return x, axis, cast(graph, row, np.int64)
    # The merged axis takes the place of the first one.
    rest = [a for a in range(len(x.shape)) if a not in axes]
    merged = sum(a < min(axes) for a in rest)
    order = [*rest[:merged], *axes, *rest[merged:]]
    shape = [x.shape[a] for a in order]
    adjacent = renamed(x, shape, order.index)(graph)
    end = merged + len(axes)
    shape[merged:end] = [product(shape[merged:end])]
    row = np.zeros((), np.int64)
    for axis, column in varying:
        row = row * x.shape[axis] + column.astype(np.int64)
    return reshape(graph, adjacent, shape), merged, constant(row)
