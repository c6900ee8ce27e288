"""Combines nodes of a graph into those that runtimes have fast kernels for."""

import numpy as np

from trn_jax.export.onnx_axes import groups
from trn_jax.export.onnx_layers import normalise
from trn_jax.export.onnx_rewriting import POINTWISE, Rewriter, slid


def fuse(graph, outputs):
    """The nodes that outputs depend on, combined.

    Args:
        graph: the `Graph`.
        outputs: names of its results.
    """
    nodes = graph.nodes
    for step in (
        _share,
        _drop_neutral,
        _average,
        normalise,
        _join_transpositions,
        _fold_affine,
        _activate,
        _join_slices,
        _lift_transpositions,
        _scale_kernels,
        _pool_globally,
        _share,
    ):
        rewriter = Rewriter(graph, nodes, outputs)
        step(rewriter)
        nodes = rewriter.needed()
    return nodes


def _share(rewriter):
    """Compute equal nodes once."""
    known: dict = {}
    same: dict = {}
    for node in rewriter.nodes:
        node.inputs = [same.get(name, name) for name in node.inputs]
        key = node.op, tuple(node.inputs), str(sorted(node.attributes.items()))
        if node.output in rewriter.outputs:
            continue
        if key in known:
            same[node.output] = known[key]
        else:
            known[key] = node.output


def _drop_neutral(rewriter):
    """Multiply by 1 no more: a mean over one pixel."""
    for node in rewriter.nodes:
        if node.op in ("Div", "Mul") and node.output not in rewriter.outputs:
            name, factor = rewriter.scaled(node)
            if factor is not None and factor.ndim == 0 and factor.item() == 1:
                rewriter.replace(node.output, name)


def _average(rewriter):
    """A sum that is divided by the number of its terms is a mean."""
    for node in rewriter.nodes:
        if node.op not in ("Div", "Mul"):
            continue
        source, factor = rewriter.with_constant(node)
        if source is None or source.op != "ReduceSum" or factor.size != 1:
            continue
        if node.op == "Div" and node.inputs[0] != source.output:
            continue
        axes = rewriter.constant(source.inputs[1])
        sizes = [rewriter.dims(source.inputs[0])[a] for a in axes]
        if not all(isinstance(size, int) for size in sizes):
            continue
        count, factor = np.prod(sizes), factor.item()
        if np.isclose(factor if node.op == "Div" else 1 / (factor or np.nan), count, rtol=1e-6):
            rewriter.become(node, "ReduceMean", source.inputs, **source.attributes)


def _fold_affine(rewriter):
    """Multiply and shift the channels of a convolution by its kernel and bias."""
    for node in rewriter.nodes:
        if node.op not in ("Add", "Sub", "Mul", "Div"):
            continue
        source, value = rewriter.with_constant(node)
        if source is None or source.op != "Conv":
            continue
        if node.op in ("Sub", "Div") and node.inputs[0] != source.output:
            continue
        kernel = rewriter.constant(source.inputs[1])
        if kernel is None:
            continue
        channels = rewriter.per_channel(value, kernel.ndim, len(kernel))
        if channels is None:
            continue
        has_bias = len(source.inputs) > 2
        bias = rewriter.constant(source.inputs[2]) if has_bias else np.zeros(len(kernel))
        if bias is None:
            continue
        dtype = kernel.dtype
        kernel, bias = kernel.astype(np.float64), bias.astype(np.float64)
        if node.op in ("Add", "Sub"):
            bias = bias + (channels if node.op == "Add" else -channels)
        else:
            scale = channels if node.op == "Mul" else 1 / channels
            kernel = kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
            bias = bias * scale
        weights = [rewriter.initializer(array.astype(dtype)) for array in (kernel, bias)]
        if node.op in ("Mul", "Div") and not has_bias:
            weights = weights[:1]
        rewriter.become(node, "Conv", [source.inputs[0], *weights], **source.attributes)


def _activate(rewriter):
    """The least of a number and the output of a ReLU is a `Clip`."""
    for node in rewriter.nodes:
        if node.op != "Min":
            continue
        source, bound = rewriter.with_constant(node)
        if source is not None and source.op == "Relu" and bound.size == 1:
            limits = [np.zeros((), bound.dtype), bound.reshape(())]
            names = [rewriter.initializer(limit) for limit in limits]
            rewriter.become(node, "Clip", [source.inputs[0], *names])


def _join_slices(rewriter):
    """A part of a part is one part."""
    for node in rewriter.nodes:
        source = rewriter.single(node.inputs[0]) if node.op == "Slice" else None
        if source is None or source.op != "Slice":
            continue
        rows = [[rewriter.constant(name) for name in each.inputs[1:]] for each in (source, node)]
        if any(part is None for row in rows for part in row) or set(rows[0][2]) & set(rows[1][2]):
            continue
        joined = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        names = [rewriter.initializer(row) for row in joined]
        rewriter.become(node, "Slice", [source.inputs[0], *names])


def _join_transpositions(rewriter):
    """Two transpositions are one, or none."""
    for node in rewriter.nodes:
        source = rewriter.producer(node.inputs[0]) if node.op == "Transpose" else None
        if source is None or source.op != "Transpose":
            continue
        first, second = source.attributes["perm"], node.attributes["perm"]
        perm = [first[a] for a in second]
        if perm == sorted(perm) and node.output not in rewriter.outputs:
            rewriter.replace(node.output, source.inputs[0])
        else:
            rewriter.become(node, "Transpose", source.inputs, perm=perm)


def _lift_transpositions(rewriter):
    """Transpose an input before its pixels become floats, instead of behind that."""
    for node in list(rewriter.nodes):
        if node.op == "Transpose" and _comes_from_input(rewriter, node.inputs[0]):
            while _lift(rewriter, node):
                node = rewriter.producer(node.inputs[0])


def _comes_from_input(rewriter, name):
    while (source := rewriter.single(name)) is not None:
        computed = [i for i in source.inputs if rewriter.constant(i) is None]
        if source.op not in (*POINTWISE, "Reshape", "Cast") or len(computed) != 1:
            return False
        name = computed[0]
    return rewriter.producer(name) is None


def _lift(rewriter, node):
    """Exchange a transposition with the node before it; whether that was possible."""
    source = rewriter.single(node.inputs[0])
    if source is None:
        return False
    perm = list(node.attributes["perm"])
    dims = rewriter.dims(node.output)
    if source.op == "Reshape":
        before = rewriter.dims(source.inputs[0])
        perm = slid(perm, groups(before, rewriter.dims(source.output)))
        if perm is None:
            return False
        moved = rewriter.insert(
            node, "Transpose", [source.inputs[0]], [before[a] for a in perm], perm=perm
        )
        target = rewriter.target(dims)
        if target is None:
            return False
        rewriter.become(node, "Reshape", [moved, target])
        return True
    inputs = []
    for name in source.inputs:
        array = rewriter.constant(name)
        if array is None:
            moved = rewriter.insert(node, "Transpose", [name], dims, perm=perm)
            inputs.append(moved)
        elif array.ndim == 0:
            inputs.append(name)
        else:
            array = array.reshape([1] * (len(perm) - array.ndim) + list(array.shape))
            inputs.append(rewriter.initializer(array.transpose(perm)))
    rewriter.become(node, source.op, inputs, **source.attributes)
    return True


def _scale_kernels(rewriter):
    """Divide the kernel of the first convolution instead of the pixels."""
    for node in rewriter.nodes:
        if node.op != "Conv" or node.attributes["group"] != 1:
            continue
        kernel = rewriter.constant(node.inputs[1])
        path, source = [], rewriter.single(node.inputs[0])
        while source is not None and source.op == "Reshape":
            path.append(source)
            source = rewriter.single(source.inputs[0])
        if kernel is None or source is None or source.op not in ("Div", "Mul"):
            continue
        name, factor = rewriter.scaled(source)
        tail = kernel.ndim - 1  # channels and the axes of space
        ends = {rewriter.dims(each)[-tail:] for each in (node.inputs[0], source.output)}
        if factor is None or (factor.ndim > tail and any(n > 1 for n in factor.shape[:-tail])):
            continue
        factor = factor.reshape([1] * (tail - factor.ndim) + list(factor.shape[-tail:]))
        if len(ends) > 1 or any(size != 1 for size in factor.shape[1:]):
            continue
        wide = kernel.astype(np.float64)
        wide = wide / factor if source.op == "Div" else wide * factor
        node.inputs[1] = rewriter.initializer(wide.astype(kernel.dtype))
        rewriter.replace(source.output, name)


def _pool_globally(rewriter):
    """A mean over the axes of space of an image is a `GlobalAveragePool`."""
    for node in rewriter.nodes:
        if node.op != "ReduceMean" or node.attributes.get("keepdims", 1):
            continue
        dims = rewriter.dims(node.inputs[0])
        if len(dims) == 4 and list(rewriter.constant(node.inputs[1])) == [2, 3]:
            pooled = rewriter.insert(node, "GlobalAveragePool", node.inputs[:1], (*dims[:2], 1, 1))
            target = rewriter.target(dims[:2])
            if target is not None:
                rewriter.become(node, "Reshape", [pooled, target])
