"""PyTorch tensors in our layout."""

import re

import numpy as np


def fitted(value, path, shape):
    """Bring a tensor into the layout of one of our variables.

    PyTorch's kernels have the output channels first, then the input channels; ours have them last.
    The variable decides the kind of tensor: a matrix may be a kernel, a table, or the statistics
    `(1, channels)` of PyTorch before 0.2. A 2-D kernel for a 3-D convolution is inflated: repeated
    over time and divided by the number of frames, so that still clips give the same result
    (Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017).

    Args:
        value: the tensor, an array.
        path: path of the variable, e.g. `backbone/conv1/kernel`.
        shape: its shape.

    Returns:
        The array; its shape is `shape` if the tensor fits.
    """
    if not path.endswith("/kernel"):
        if len(shape) == 1 and value.shape[1:] == (1, 1):  # torchvision's ConvNeXt scales maps
            return value[:, 0, 0]
        row = len(shape) == 1 and value.ndim == 2 and len(value) == 1
        return value[0] if row else value
    if value.ndim < 2:
        return value
    value = value.transpose(*range(2, value.ndim), 1, 0)
    if len(shape) == 5 and value.shape == shape[1:]:
        thin = value.astype(np.promote_types(value.dtype, np.float32)) / shape[0]
        return np.broadcast_to(thin, shape)
    # A 1x1 convolution may be a matrix on either side.
    return value.reshape(shape) if _without_ones(value.shape) == _without_ones(shape) else value


def _without_ones(shape):
    return tuple(size for size in shape[:-2] if size != 1) + tuple(shape[-2:])


# Query, key and value in three layers; ours are one.
_SEPARATE = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
# mmpretrain's Swin merges patches with `nn.Unfold`.
_UNFOLDED = re.compile(r"(.*\.)?stages\.\d\.downsample\.(norm|reduction)\.\w+")


def rearranged(tensors):
    """Rearrange tensors of code bases whose layout differs from the original networks.

    Hugging Face's Swin has query, key and value in three layers, which are joined. mmpretrain's
    Swin has merged patches innermost, row by row; the original has channels innermost and patches
    column by column.

    Args:
        tensors: `{name: array}` as in the file.

    Returns:
        The same, rearranged. Joined tensors have names like `self.query+key+value.weight`.
    """
    found = {}
    for name, value in tensors.items():
        names = _joined(name, tensors)
        if names is not None:
            stem, leaf = names[0].rpartition(".")[0].rpartition(".")[0], name.rpartition(".")[2]
            layers = "+".join(part.split(".")[-2] for part in names)
            joined = f"{stem}.{layers}.{leaf}"
            if joined not in found:
                found[joined] = np.concatenate([tensors[part] for part in names])
        elif _UNFOLDED.fullmatch(name) and value.ndim and value.shape[-1] % 4 == 0:
            patches = value.reshape(*value.shape[:-1], -1, 2, 2)  # [..., channels, rows, columns]
            found[name] = np.swapaxes(patches, -3, -1).reshape(value.shape)
        else:
            found[name] = value
    return found


def _joined(name, tensors):
    """The names of query, key and value if `name` is one of them, else `None`."""
    stem, _, leaf = name.rpartition(".")
    stem, _, layer = stem.rpartition(".")
    for layers in _SEPARATE:
        names = [f"{stem}.{other}.{leaf}" for other in layers]
        if layer in layers and all(other in tensors for other in names):
            return names if len({np.shape(tensors[other]) for other in names}) == 1 else None
    return None
