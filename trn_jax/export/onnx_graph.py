"""An ONNX graph in the making: nodes, initializers, and values with axes stored in any order.

JAX programs are channels-last, ONNX convolutions channels-first. So a `Value` has logical axes, as
in JAX, and `axes`, the order that its tensor stores them in. Rules for primitives work on the
stored axes as they are where they can, so that no transposition stays between convolutions.
"""

import dataclasses
import hashlib
import itertools
from typing import Any

import numpy as np

from trn_jax.errors import UserError

_BOOLEAN = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_INTEGER = ("ArgMax", "ArgMin", "Shape")
# Dtypes of outputs that are not those of inputs.
_DTYPES = dict.fromkeys(_BOOLEAN, np.bool_) | dict.fromkeys(_INTEGER, np.int64)

END = np.iinfo(np.int64).max  # the end of a slice to the end


@dataclasses.dataclass(eq=False)
class Value:
    """A variable of a JAX program.

    Attributes:
        shape: logical shape, as in JAX; dimensions may be symbolic.
        dtype: of the elements.
        axes: the logical axis of each axis of the stored tensor. Along the others, which have
            size 1 or are broadcast, the stored tensor has no axis.
        data: the stored tensor of a constant, its axes ascending; `None` if it is computed.
        name: the stored tensor in the graph; `None` for constants.
        forms: names of the same tensor with other orders of axes.
    """

    shape: tuple
    dtype: Any
    axes: tuple
    data: np.ndarray | None = None
    name: str | None = None
    forms: dict = dataclasses.field(default_factory=dict)

    @property
    def is_constant(self):
        """Whether it is known already."""
        return self.data is not None

    def dims(self, axes=None):
        """Sizes of `axes`, by default those that are stored."""
        return tuple(self.shape[axis] for axis in (self.axes if axes is None else axes))

    def broadcast_axes(self):
        """Axes of a size other than 1 that are not stored."""
        return [a for a, size in enumerate(self.shape) if a not in self.axes and not is_one(size)]


@dataclasses.dataclass(eq=False)
class Node:
    """An ONNX node with one output.

    Attributes:
        op: ONNX operator.
        inputs: names of tensors; "" for a missing one.
        output: name of its tensor.
        attributes: of the operator.
    """

    op: str
    inputs: list
    output: str
    attributes: dict


def is_one(size):
    """Whether a dimension is the number 1 (a symbolic one is not)."""
    return isinstance(size, int) and size == 1


def product(sizes):
    """The product of dimensions, which may be symbolic."""
    total = 1
    for size in sizes:
        total = total * size
    return total


class Graph:
    """Collects nodes and initializers.

    Args:
        reserved: names that its tensors don't get.

    Attributes:
        nodes: in the order of computation.
        initializers: `{name: array}`.
        dims: `{name: sizes}` of every tensor.
        dtypes: `{name: dtype}` of every tensor.
        symbols: `{symbolic dimension: (input, axis)}`, where its size is found at run time.
    """

    def __init__(self, reserved=()):
        self._reserved = frozenset(reserved)
        self.nodes = []
        self.initializers = {}
        self.dims = {}
        self.dtypes = {}
        self.symbols = {}
        self._known = {}

    def emit(self, op, inputs, dims, **attributes):
        """Append a node; returns the name of its output, of sizes `dims`."""
        node = self.node(op, inputs, dims, **attributes)
        self.nodes.append(node)
        return node.output

    def node(self, op, inputs, dims, **attributes):
        """A node that is not in the graph yet."""
        name = self._fresh(op.lower())
        self.dims[name] = tuple(dims)
        if op in _DTYPES:
            self.dtypes[name] = np.dtype(_DTYPES[op])
        else:
            typed = inputs[1] if op == "Where" else inputs[0]
            self.dtypes[name] = attributes.get("to", self.dtypes[typed])
        return Node(op, list(inputs), name, attributes)

    def _fresh(self, kind):
        """A name that no tensor has."""
        names = (f"{kind}_{number}" for number in itertools.count(len(self.dims)))
        return next(n for n in names if n not in self._reserved and n not in self.dims)

    def input(self, name, aval):
        """Add an input of the program; returns its `Value`."""
        self.dims[name], self.dtypes[name] = tuple(aval.shape), np.dtype(aval.dtype)
        for axis, dim in enumerate(aval.shape):
            if not isinstance(dim, int):
                self.symbols.setdefault(dim, (name, axis))
        return Value(aval.shape, aval.dtype, tuple(range(len(aval.shape))), name=name)

    def initializer(self, array):
        """The name of a constant tensor; equal ones are stored once."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest()
        if key not in self._known:
            name = self._fresh("constant")
            self._known[key] = name
            self.initializers[name] = array
            self.dims[name], self.dtypes[name] = array.shape, array.dtype
        return self._known[key]

    def integers(self, *values):
        """A constant of 64-bit integers, such as axes."""
        return self.initializer(np.array(values, np.int64))

    def size(self, dim):
        """A tensor `[1]` of int64 with the size of a dimension.

        Raises:
            UserError: it is no multiple of a dimension of an input.
        """
        if isinstance(dim, int):
            return self.integers(dim)
        for symbol, (name, axis) in self.symbols.items():
            factor = dim // symbol
            if isinstance(factor, int) and factor * symbol == dim:
                found = self.emit("Shape", [name], (1,), start=axis, end=axis + 1)
                if factor == 1:
                    return found
                return self.emit("Mul", [found, self.integers(factor)], (1,))
        raise UserError(
            f"the dimension {dim} can't be exported; expected a number or a multiple of a "
            "dimension of an input: export with a fixed batch"
        )

    def sizes(self, dims):
        """A tensor of int64 with several sizes."""
        if all(isinstance(dim, int) for dim in dims):
            return self.integers(*dims)
        return self.emit("Concat", [self.size(dim) for dim in dims], (len(dims),), axis=0)

    def reshape(self, name, dims):
        """The tensor with other sizes."""
        if tuple(dims) == self.dims[name]:
            return name
        free = [i for i, dim in enumerate(dims) if not isinstance(dim, int)]
        if len(free) > 1:
            target = self.sizes(dims)
        else:
            target = self.integers(*(-1 if i in free else dim for i, dim in enumerate(dims)))
        return self.emit("Reshape", [name, target], dims)

    def stored(self, value, order):
        """A tensor with the axes `order`; of size 1 along those that are broadcast.

        Args:
            value: a `Value`.
            order: logical axes, at least all that it stores with a size other than 1.
        """
        order = tuple(order)
        if value.is_constant:
            return self.initializer(stored_constant(value, order))
        if order not in value.forms:
            value.forms[order] = self._reordered(value, order)
        return value.forms[order]

    def _reordered(self, value, order):
        dims = tuple(value.shape[a] if a in value.axes else 1 for a in order)
        now = [a for a in value.axes if not is_one(value.shape[a])]
        wanted = [a for a in order if a in now]
        name = value.name
        if now != wanted:
            if set(order) >= set(value.axes):
                wanted = [a for a in order if a in value.axes]
            else:
                name = self.reshape(name, value.dims(now))
                return self.reshape(self._transposed(name, now, wanted, value), dims)
            name = self._transposed(name, list(value.axes), wanted, value)
        return self.reshape(name, dims)

    def _transposed(self, name, now, wanted, value):
        perm = [now.index(a) for a in wanted]
        return self.emit("Transpose", [name], value.dims(wanted), perm=perm)

    def full(self, value, order):
        """As `stored`, but repeated along the axes that are broadcast."""
        if value.is_constant:
            shape = [value.shape[a] for a in order]
            if all(isinstance(size, int) for size in shape):
                return self.initializer(np.broadcast_to(stored_constant(value, order), shape))
        name = self.stored(value, order)
        missing = set(value.broadcast_axes()) & set(order)
        if not missing:
            return name
        target = self.sizes([value.shape[a] if a in missing else 1 for a in order])
        return self.emit("Expand", [name, target], [value.shape[a] for a in order])

    def expanded(self, value, axes):
        """The value with `axes` stored, at the front, if they were broadcast."""
        missing = tuple(a for a in value.broadcast_axes() if a in axes)
        if not missing:
            return value
        if value.is_constant and all(isinstance(value.shape[a], int) for a in missing):
            order = tuple(sorted({*value.axes, *missing}))
            array = np.broadcast_to(stored_constant(value, order), value.dims(order))
            return Value(value.shape, value.dtype, order, data=array)
        order = missing + value.axes
        return Value(value.shape, value.dtype, order, name=self.full(value, order))

    def computed(self, value):
        """The value as a tensor of the graph, if it is a constant."""
        if not value.is_constant:
            return value
        return Value(value.shape, value.dtype, value.axes, name=self.stored(value, value.axes))


def constant(array, shape=None):
    """A constant `Value`; one element stands for all of `shape`."""
    array = np.asarray(array)
    if shape is None:
        return Value(array.shape, array.dtype, tuple(range(array.ndim)), data=array)
    return Value(tuple(shape), array.dtype, (), data=array)


def stored_constant(value, order):
    """The data of a constant with the axes `order`; of size 1 along those that are broadcast."""
    present = [a for a in order if a in value.axes]
    dropped = [i for i, a in enumerate(value.axes) if a not in present]
    data = np.squeeze(value.data, tuple(dropped)) if dropped else value.data
    kept = [a for a in value.axes if a in present]
    data = np.transpose(data, [kept.index(a) for a in present])
    return data.reshape([value.shape[a] if a in present else 1 for a in order])


def whole(value):
    """The data of a constant in its logical shape."""
    return np.broadcast_to(stored_constant(value, range(len(value.shape))), value.shape)
