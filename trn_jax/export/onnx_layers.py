"""Finds softmax, GELU and layer normalisation among nodes, where JAX writes them out."""


def normalise(rewriter):
    """Softmax, layer normalisation and GELU, written out."""
    for node in rewriter.nodes:
        for match in (_softmax, _gelu, _layer_norm):
            if match(rewriter, node):
                break


def _softmax(rewriter, node):
    if node.op != "Div":
        return False
    exponential = rewriter.producer(node.inputs[0])
    total = rewriter.unshaped(node.inputs[1])
    if exponential is None or exponential.op != "Exp" or total is None:
        return False
    if total.op != "ReduceSum" or total.inputs[0] != exponential.output:
        return False
    shifted = rewriter.producer(exponential.inputs[0])
    if shifted is None or shifted.op != "Sub":
        return False
    largest = rewriter.unshaped(shifted.inputs[1])
    if largest is None or largest.op != "ReduceMax" or largest.inputs[0] != shifted.inputs[0]:
        return False
    axes = rewriter.constant(total.inputs[1])
    if len(axes) != 1 or list(axes) != list(rewriter.constant(largest.inputs[1])):
        return False
    x = shifted.inputs[0]
    if not all(rewriter.repeats(each.inputs[1], x, axes) for each in (node, shifted)):
        return False
    rewriter.become(node, "Softmax", [x], axis=int(axes[0]))
    return True


def _gelu(rewriter, node):
    """`x / 2 * (1 - erf(-x / sqrt(2)))`."""
    if node.op != "Mul":
        return False
    for half, rest in (node.inputs, node.inputs[::-1]):
        half, rest = rewriter.producer(half), rewriter.producer(rest)
        if half is None or rest is None or (half.op, rest.op) != ("Mul", "Sub"):
            continue
        x, factor = rewriter.scaled(half)
        error = rewriter.producer(rest.inputs[1])
        one = rewriter.constant(rest.inputs[0])
        if error is None or error.op != "Erf" or not _equals(one, 1) or not _equals(factor, 0.5):
            continue
        product = rewriter.producer(error.inputs[0])
        if product is None or product.op != "Mul":
            continue
        negative, factor = rewriter.scaled(product)
        source = rewriter.producer(negative) if negative else None
        if source is None or source.op != "Neg" or not _equals(factor, 0.5**0.5):
            continue
        if source.inputs[0] == x:
            rewriter.become(node, "Gelu", [x])
            return True
    return False


def _equals(array, value):
    return array is not None and array.size == 1 and abs(array.item() - value) < 1e-3 * value


def _layer_norm(rewriter, node):
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias`, along one axis."""
    if node.op != "Add":
        return False
    scaled, bias = rewriter.with_constant(node)
    if scaled is None or scaled.op != "Mul":
        return False
    unit, scale = rewriter.with_constant(scaled)
    if unit is None or unit.op != "Mul":
        return False
    centred = rewriter.producer(unit.inputs[0])
    inverse = rewriter.unshaped(unit.inputs[1])
    if centred is None or centred.op != "Sub" or inverse is None or inverse.op != "Div":
        return False
    found = _variance(rewriter, inverse, centred)
    mean = rewriter.unshaped(centred.inputs[1])
    if found is None or mean is None or mean.op != "ReduceMean":
        return False
    epsilon, axes = found
    x = centred.inputs[0]
    rank = len(rewriter.dims(x))
    if mean.inputs[0] != x or len(axes) != 1 or list(rewriter.constant(mean.inputs[1])) != [*axes]:
        return False
    if not all(rewriter.repeats(each.inputs[1], x, axes) for each in (centred, unit)):
        return False
    axis, size = int(axes[0]), rewriter.dims(x)[int(axes[0])]
    scale, bias = (rewriter.along(array, rank, axis, size) for array in (scale, bias))
    if scale is None or bias is None:
        return False
    weights = [rewriter.initializer(array) for array in (scale, bias)]
    options = dict(axis=-1, epsilon=epsilon)
    if axis == rank - 1:
        rewriter.become(node, "LayerNormalization", [x, *weights], **options)
        return True
    perm = [a for a in range(rank) if a != axis] + [axis]
    dims = [rewriter.dims(x)[a] for a in perm]
    moved = rewriter.insert(node, "Transpose", [x], dims, perm=perm)
    found = rewriter.insert(node, "LayerNormalization", [moved, *weights], dims, **options)
    rewriter.become(node, "Transpose", [found], perm=[perm.index(a) for a in range(rank)])
    return True


def _variance(rewriter, inverse, centred):
    """Epsilon and axes of `1 / sqrt(mean(centred ** 2) + epsilon)`, or `None`."""
    root = rewriter.producer(inverse.inputs[1])
    if not _equals(rewriter.constant(inverse.inputs[0]), 1) or root is None or root.op != "Sqrt":
        return None
    total = rewriter.producer(root.inputs[0])
    if total is None or total.op != "Add":
        return None
    mean, epsilon = rewriter.with_constant(total)
    mean = rewriter.unshaped(mean.output) if mean is not None else None
    if mean is None or mean.op != "ReduceMean" or epsilon.size != 1:
        return None
    square = rewriter.producer(mean.inputs[0])
    if square is None or square.op != "Mul" or set(square.inputs) != {centred.output}:
        return None
    return float(epsilon.item()), [int(a) for a in rewriter.constant(mean.inputs[1])]
