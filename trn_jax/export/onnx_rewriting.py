"""Looks up and replaces nodes of an ONNX graph."""

import collections

import numpy as np

from trn_jax.export.onnx_graph import is_one

POINTWISE = ("Add", "Div", "Max", "Min", "Mul", "Relu", "Sub")


class Rewriter:
    """Nodes of a graph by their outputs, and their uses.

    Args:
        graph: the `Graph`, for initializers and sizes.
        nodes: its nodes, in the order of computation.
        outputs: names of its results.
    """

    def __init__(self, graph, nodes, outputs):
        self.graph = graph
        self.nodes = nodes
        self.outputs = set(outputs)
        self.initializer = graph.initializer
        self._new = collections.defaultdict(list)
        self._producers = {node.output: node for node in nodes}
        self._uses = collections.Counter(name for node in nodes for name in node.inputs)
        self._uses.update(outputs)

    def producer(self, name):
        """The node that computes a tensor; `None` for inputs and constants."""
        return self._producers.get(name)

    def single(self, name):
        """The same, if the tensor is used once."""
        return self.producer(name) if self._uses[name] == 1 else None

    def constant(self, name):
        """The array of a constant, or `None`."""
        return self.graph.initializers.get(name)

    def dims(self, name):
        """Sizes of a tensor."""
        return self.graph.dims[name]

    def with_constant(self, node):
        """The node that computes an operand for this one only, and the other, constant operand."""
        arrays = [self.constant(name) for name in node.inputs]
        if len(arrays) == 2 and sum(array is None for array in arrays) == 1:
            place = 0 if arrays[0] is None else 1
            source = self.single(node.inputs[place])
            if source is not None:
                return source, arrays[1 - place]
        return None, None

    def scaled(self, node):
        """The operand of a product or quotient with a constant, and that constant."""
        first, second = (self.constant(name) for name in node.inputs)
        if first is None and second is not None:
            return node.inputs[0], second
        if node.op == "Mul" and second is None and first is not None:
            return node.inputs[1], first
        return None, None

    def unshaped(self, name):
        """The node that computes a tensor, before axes of size 1 were added."""
        node = self.producer(name)
        while node is not None and node.op == "Reshape":
            before, after = (
                [dim for dim in self.dims(each) if not is_one(dim)]
                for each in (node.inputs[0], node.output)
            )
            if before != after:
                return None
            node = self.producer(node.inputs[0])
        return node

    def repeats(self, name, like, axes):
        """Whether a tensor has the sizes of another one, and size 1 along `axes` only."""
        wanted = [1 if a in axes else dim for a, dim in enumerate(self.dims(like))]
        found = self.dims(name)
        return [1] * (len(wanted) - len(found)) + list(found) == wanted

    def per_channel(self, array, rank, channels):
        """An array that broadcasts along axis 1 of a tensor only, as `[channels]`, or `None`."""
        return self.along(array, rank, 1, channels)

    def along(self, array, rank, axis, size):
        """An array that broadcasts along one axis of a tensor only, as `[size]`, or `None`."""
        if array.ndim > rank or not isinstance(size, int):
            return None
        shape = [1] * (rank - array.ndim) + list(array.shape)
        if array.size not in (1, size) or shape[axis] != array.size:
            return None
        return np.broadcast_to(array.ravel(), (size,))

    def target(self, dims):
        """A constant shape for `Reshape`, or `None`."""
        free = [dim for dim in dims if not isinstance(dim, int)]
        if len(free) > 1:
            return None
        return self.graph.integers(*(dim if isinstance(dim, int) else -1 for dim in dims))

    def become(self, node, op, inputs, **attributes):
        """Turn a node into another one with the same output."""
        node.op, node.inputs, node.attributes = op, list(inputs), attributes
        self.graph.dtypes[node.output] = attributes.get("to", self.graph.dtypes[inputs[0]])

    def insert(self, before, op, inputs, dims, **attributes):
        """Add a node before another one; returns the name of its output."""
        node = self.graph.node(op, inputs, dims, **attributes)
        self._producers[node.output] = node
        self._uses[node.output] += 1
        self._new[before.output].append(node)
        return node.output

    def replace(self, old, new):
        """Let all nodes use another tensor."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]

    def needed(self):
        """The nodes that the results depend on, in the order of computation."""
        wanted, kept = set(self.outputs), []

        def keep(node):
            if node.output in wanted:
                kept.append(node)
                wanted.update(node.inputs)
                for new in reversed(self._new[node.output]):
                    keep(new)

        for node in reversed(self.nodes):
            keep(node)
        return kept[::-1]


def slid(perm, pairs):
    """The permutation before a reshape that equals `perm` behind it, or `None`.

    Args:
        perm: order of the axes after the reshape.
        pairs: axes before and after it that belong together, see `onnx_axes.groups`.
    """
    found, rest = [], list(perm)
    while rest:
        pair = next((pair for pair in pairs if pair[1] and pair[1][0] == rest[0]), None)
        if pair is None or rest[: len(pair[1])] != pair[1]:
            return None
        found += pair[0]
        rest = rest[len(pair[1]) :]
    return found if len(found) == sum(len(old) for old, _ in pairs) else None
