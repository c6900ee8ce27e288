"""Read predictions that mmaction2 1.x dumped, without PyTorch and without running the file."""

import io
import re

import numpy as np

from trn_jax.convert import torch_objects
from trn_jax.convert.unpickle import Inert, load_pickle
from trn_jax.errors import UserError

_EXPECTED = (
    "expected a list with a dict per video that has pred_score and gt_label, as mmaction2 1.x "
    "writes with --dump"
)
# What a file of another layout makes of the code below.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def read_rows(content):
    """Read the entries of a dump.

    Args:
        content: the bytes of the file; NumPy arrays and PyTorch's tensors on the CPU are known,
            also inside of `pred_scores.item` and `gt_labels.item`, as in the first versions.

    Returns:
        A list of one dict per video: the entries of the file, with arrays as `pred_score`
        `[classes]` and `gt_label`.

    Raises:
        UserError: the file is damaged, or of another layout.
    """
    storages: dict[str, bytes] = {}

    def call(name, args):
        if name == "torch.storage._load_from_bytes":
            return _read_storage(args[0], storages)
        if name == "torch.from_numpy":  # as `scores.write` makes tensors
            return args[0]
        if name == "_codecs.encode":  # how pickles of before protocol 3 hold bytes
            return args[0].encode("latin1")
        return torch_objects.call(name, args)

    rows = load_pickle(io.BytesIO(content), call=call, persistent=torch_objects.persistent)
    if not isinstance(rows, list) or not rows:
        raise UserError(f"this is no dump of predictions; {_EXPECTED}")
    found = []
    for number, row in enumerate(rows):
        try:
            values = {name: _entry(row, name) for name in ("pred_score", "gt_label")}
            found.append(row | {name: _array(v, storages) for name, v in values.items()})
        except _MALFORMED as error:
            if isinstance(error, UserError):
                raise
            keys = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise UserError(f"entry {number} holds {keys}; {_EXPECTED}") from None
    lengths = {(row["pred_score"].shape, row["gt_label"].size) for row in found}
    if len(lengths) > 1:
        raise UserError(f"its entries have scores and labels of different lengths: {lengths}")
    return found


def _entry(row, name):
    return row[name] if name in row else row[f"{name}s"]["item"]


def _array(value, storages):
    if isinstance(value, Inert):
        return _numpy_array(value)
    if isinstance(value, int | float | list):
        return np.asarray(value)
    return torch_objects.state_dict_arrays({"": value}, lambda storage: storages[storage.key])[""]


def _numpy_array(value):
    """The array whose pickle is `value`."""
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
        raise UserError(f"{value.name} is neither an array of NumPy nor a tensor of PyTorch")
    kind, byte_order = dtype.args[0], dtype.state[1]
    if not re.fullmatch("[biuf][1248]", kind):
        raise UserError(f"arrays of type {kind!r} are not known among predictions")
    array = np.frombuffer(data, np.dtype(kind).newbyteorder(byte_order))
    return array.reshape(shape, order="F" if column_major else "C")


def _read_storage(content, storages):
    """A storage that PyTorch saved inside of a pickle, in its format of before 1.6."""
    file = io.BytesIO(content)

    def load():
        return load_pickle(file, call=torch_objects.call, persistent=torch_objects.persistent)

    load(), load(), load()  # magic number, protocol and system
    storage = load()
    load()  # the list of the keys, of which there is one
    file.read(8)  # the number of elements, again
    # Storages are numbered within their own little file; here they need names of their own.
    storage = storage._replace(key=str(len(storages)))
    storages[storage.key] = file.read(storage.num_bytes)
    return storage
