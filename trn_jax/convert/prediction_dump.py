"""Reads prediction dumps of mmaction2 1.x without PyTorch and without executing them."""

import functools
import io
import re

import jax.numpy as jnp
import numpy as np

from trn_jax.convert import torch_objects
from trn_jax.convert.unpickle import Inert, load_pickle
from trn_jax.errors import UserError, escaped
from trn_jax.files import check_memory

_EXPECTED = (
    "expected a list with a dict per video that has pred_score and gt_label, as mmaction2 1.x "
    "writes with --dump"
)
_NUMBERS = (jnp.integer, jnp.floating, jnp.bool_)
# Errors of the code below for files of another layout.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def read_prediction_dump(content):
    """Read the scores and labels of a dump.

    Args:
        content: the bytes of the file, with NumPy arrays or PyTorch's CPU tensors; the first
            versions have them in `pred_scores.item` and `gt_labels.item`.

    Returns:
        A dict of `pred_score`, float32 `[videos, classes]`; `gt_label`, float64 `[videos, n]`;
        `video_id`, the names of the videos, or an empty list if some have none; and `about`, that
        of the first video, or an empty dict.

    Raises:
        UserError: the file is corrupt, or of another layout.
    """
    storages: dict[str, bytes] = {}

    # A pickle can use the same argument any number of times; it is decoded once.
    @functools.cache
    def encoded(text):
        return text.encode("latin1")

    @functools.cache
    def storage(inside):
        return _read_storage(inside, storages)

    def call(name, args):
        if name == "torch.storage._load_from_bytes":
            return storage(args[0])
        if name == "torch.from_numpy":  # as earlier versions wrote tensors
            return args[0]
        if name == "_codecs.encode":  # bytes before protocol 3
            return encoded(args[0])
        return torch_objects.call(name, args)

    rows = load_pickle(io.BytesIO(content), call=call, persistent=torch_objects.persistent)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"not a prediction dump; {_EXPECTED}")
    names = [row.get("video_id") if isinstance(row, dict) else None for row in rows]
    columns = {
        name: _column(rows, name, dtype, storages, len(content))
        for name, dtype in (("pred_score", np.float32), ("gt_label", np.float64))
    }
    about = rows[0].get("about")
    return columns | {
        "video_id": names if all(isinstance(name, str) for name in names) else [],
        "about": about if isinstance(about, dict) else {},
    }


def _column(rows, name, dtype, storages, size):
    """The entries `name` of all rows, `[videos, n]`."""
    column = None
    for number, row in enumerate(rows):
        try:
            value = np.atleast_1d(_array(_entry(row, name), storages))
        except _MALFORMED as error:
            if isinstance(error, UserError):
                raise
            keys = list(row)[:10] if isinstance(row, dict) else [type(row).__name__]
            raise UserError(
                f"entry {number} holds {', '.join(map(escaped, keys))}; {_EXPECTED}"
            ) from None
        several = name == "gt_label" and value.size > 1  # 0 and 1, possibly bool
        if not any(jnp.issubdtype(value.dtype, kind) for kind in _NUMBERS[: 2 + several]):
            raise UserError(
                f"{name} of entry {number} has dtype {value.dtype}, expected real numbers"
            )
        if column is None:
            # A pickle can use one row any number of times.
            check_memory(len(rows) * value.size * np.dtype(dtype).itemsize, size)
            column = np.empty((len(rows), value.size), dtype)
        if value.shape != column.shape[1:]:
            raise UserError(
                f"{name} of entry {number} has shape {list(value.shape)}, that of the first entry "
                f"{list(column.shape[1:])}"
            )
        with np.errstate(over="ignore"):  # infinite scores are refused later
            column[number] = value
    return column


def _entry(row, name):
    return row[name] if name in row else row[f"{name}s"]["item"]


def _array(value, storages):
    if isinstance(value, Inert):
        return _numpy_array(value)
    if isinstance(value, int | float):
        return np.asarray(value)
    if isinstance(value, list):
        if not set(map(type, value)) <= {int, float}:  # nested lists may be exponentially large
            raise TypeError("a list of other values than numbers")
        return np.asarray(value)
    return torch_objects.array(value, lambda storage: storages[storage.key])


def _numpy_array(value):
    """The NumPy array of a pickled `value`."""
    function = value.name.rpartition(".")[2]
    shape, column_major = (), False
    if function == "_reconstruct":
        _, shape, dtype, column_major, data = value.state
    elif function == "_frombuffer":
        data, dtype, shape, order = value.args
        column_major = order == "F"
    elif function == "scalar":
        dtype, data = value.args
    else:
        raise UserError(f"{value.name} is neither a NumPy array nor a PyTorch tensor")
    kind, byte_order = dtype.args[0], dtype.state[1]
    if not re.fullmatch("[biuf][1248]", kind):
        raise UserError(f"predictions have dtype {kind!r}, expected numbers")
    array = np.frombuffer(data, np.dtype(kind).newbyteorder(byte_order))
    return array.reshape(shape, order="F" if column_major else "C")


def _read_storage(content, storages):
    """A storage inside a pickle, in PyTorch's format before 1.6."""
    file = io.BytesIO(content)

    def load():
        return load_pickle(file, call=torch_objects.call, persistent=torch_objects.persistent)

    load(), load(), load()  # magic number, protocol and system
    storage = load()
    load()  # the list of keys, a single one
    file.read(8)  # the number of elements again
    if not isinstance(storage, torch_objects.Storage):
        raise UserError("a tensor without storage")
    # Storages are numbered within their own pickle; here they need unique names.
    storage = storage._replace(key=str(len(storages)))
    storages[storage.key] = file.read(storage.num_bytes)
    return storage
