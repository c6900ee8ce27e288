"""Tensors of PyTorch in our layout."""

import numpy as np


def fitted(value, path, shape):
    """Bring a tensor into the layout of one of our variables.

    PyTorch's kernels have the output channels first, then the input channels; ours have them last.
    What a tensor is, is decided by the variable: a matrix may be a kernel, a table, or the
    statistics `(1, channels)` of PyTorch before 0.2. Kernels of 2-D convolutions for a 3-D one are
    repeated over time and divided by the number of repetitions, which leaves the result for a still
    clip as it was (Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017).

    Args:
        value: the tensor, an array.
        path: path of the variable, e.g. `backbone/conv1/kernel`.
        shape: its shape.

    Returns:
        The array; its shape is `shape` if the tensor fits.
    """
    if not path.endswith("/kernel"):
        row = len(shape) == 1 and value.ndim == 2 and len(value) == 1
        return value[0] if row else value
    if value.ndim < 2:
        return value
    value = value.transpose(*range(2, value.ndim), 1, 0)
    if len(shape) == 5 and value.shape == shape[1:]:
        thin = value.astype(np.promote_types(value.dtype, np.float32)) / shape[0]
        return np.broadcast_to(thin, shape)
    # A 1x1 convolution may be a matrix here or there.
    return value.reshape(shape) if _without_ones(value.shape) == _without_ones(shape) else value


def _without_ones(shape):
    return tuple(size for size in shape[:-2] if size != 1) + tuple(shape[-2:])
