"""Stand-ins for the objects in PyTorch's pickles: storages, tensors, wrappers of state dicts."""

import math
import reprlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from trn_jax.convert.selection import Network, StateDict, choose
from trn_jax.convert.unpickle import Global, Inert
from trn_jax.errors import UserError, escaped
from trn_jax.files import check_memory

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "UntypedStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
# Dtypes that the bytes of an untyped storage can have.
_DTYPES = frozenset(_STORAGE_DTYPES.values()) | {
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
}

_REBUILD = "torch._utils._rebuild"
_TENSORS = (f"{_REBUILD}_tensor", f"{_REBUILD}_tensor_v2", f"{_REBUILD}_tensor_v3")
# Subclasses of Tensor, tensors with attributes, and buffers: `(function, class, args, state)`; the
# function rebuilds the tensor.
_FROM_TYPE = ("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2")
_PARAMETERS = (
    f"{_REBUILD}_parameter",
    f"{_REBUILD}_parameter_with_state",
    f"{_REBUILD}_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
    "torch.autograd.variable.Variable",
)
_DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict")

# Keys of the weights in a checkpoint, the likeliest first.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
_MAX_DEPTH = 5
_MAX_AXES = 64  # of NumPy and PyTorch


class Storage(NamedTuple):
    """A block of memory: `size` elements of `dtype`; a view starts at element `begin`."""

    key: str
    dtype: Any
    size: int
    begin: int

    @property
    def num_bytes(self):
        """Bytes of the whole block."""
        return self.size * self.dtype.itemsize


class _Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple
    strides: tuple
    dtype: Any


def persistent(identifier):
    """The object of a persistent id, see `load_pickle`.

    Raises:
        UserError: a storage has an unknown type or an impossible size.
    """
    kind, *rest = identifier if isinstance(identifier, tuple) else [identifier]
    if kind != "storage":
        # A pickled module stores its source code under such an id; its first entry is the module.
        return rest[0] if rest else Inert("persistent id")
    storage_type, key, _, size, *view = rest
    name = storage_type.name if isinstance(storage_type, Global) else reprlib.repr(storage_type)
    module, _, attribute = name.rpartition(".")
    if module not in _STORAGE_MODULES or attribute not in _STORAGE_DTYPES:
        raise UserError(
            f"unknown storage type {escaped(name)}; known: {', '.join(_STORAGE_DTYPES)}"
        )
    begin = view[0][1] if view and view[0] else 0
    if not isinstance(key, str) or not _is_size(size) or not _is_size(begin):
        # These may be tuples of the same tuple of the same tuple ..., too long to print.
        key, size, begin = map(reprlib.repr, (key, size, begin))
        raise UserError(f"storage {key} has size {size} and begins at {begin}")
    return Storage(key, jnp.dtype(_STORAGE_DTYPES[attribute]), size, begin)


def call(name, args):
    """The tensor, parameter or dictionary that a call returns, else `None`; see `load_pickle`."""
    if name in _TENSORS:
        storage, offset, shape, strides, *more = args
        dtype = None
        if name.endswith("v3"):
            dtype = more[2].name.removeprefix("torch.")
            if dtype not in _DTYPES:
                raise UserError(f"unknown dtype {dtype}; known: {', '.join(sorted(_DTYPES))}")
        return _tensor(storage, offset, _sizes(shape), _sizes(strides), dtype)
    if name in _PARAMETERS:
        return args[0] if args and isinstance(args[0], _Tensor) else None
    if name in _FROM_TYPE:
        function, kind, inner, *_ = args
        made = call(function.name, inner)
        return Inert(f"{function.name} of {kind.name}") if made is None else made
    if name in _DICTIONARIES:
        pairs = args[0] if args and isinstance(args[0], list) else []
        entries = {key: value for key, value in pairs if isinstance(key, str)}
        pairs.clear()  # the pickle may use the same list any number of times
        return entries
    return None


def state_dict_arrays(value, read, size, key=None):
    """Find the state dict in an unpickled value and make arrays of its tensors.

    Args:
        value: result of `load_pickle`.
        read: function that returns the bytes of a `Storage`.
        size: bytes of the file.
        key: selects one of several state dicts, see `selection.choose`.

    Returns:
        A `StateDict`.

    Raises:
        UserError: it has no tensor, one that can't be read, several networks but no key, or tensors
            that are too large for the file's size.
    """
    found = list(_mappings(value))
    if not found:
        raise UserError(f"no tensors with names in it; {_contents(value)}")
    networks = [
        Network(path, named, {n: math.prod(t.shape) for n, t in _tensors(entries).items()})
        for path, named, entries in found
    ]
    chosen, left_unread = choose(networks, key)
    entries = next(entries for path, _, entries in found if path == chosen.path)
    for name, inner in entries.items():
        if isinstance(inner, Inert) and inner.name.startswith(("torch._utils._re", "torch._tens")):
            raise UserError(
                f"{name!r} has an unsupported type ({escaped(inner.name)}); save it as an "
                "ordinary tensor"
            )
    tensors = {name: entries[name] for name in chosen.sizes}
    # A view of a storage takes no memory, whatever its strides, but the model's copy does, and a
    # number of classes that is derived from it determines the size of the model.
    check_memory(sum(map(_num_bytes, tensors.values())), size)
    blocks: dict[str, bytes] = {}

    def block(storage):
        if storage.key not in blocks:
            blocks[storage.key] = read(storage)
        return blocks[storage.key]

    arrays = {name: array(tensor, block, name) for name, tensor in tensors.items()}
    return StateDict(arrays, chosen.path, left_unread)


def array(tensor, read, name=""):
    """The array of one tensor, a read-only view of its storage.

    Args:
        tensor: a result of `call`.
        read: function that returns the bytes of a `Storage`.
        name: for messages.

    Raises:
        TypeError: it is not a tensor.
        UserError: it does not fit into its storage.
    """
    if not isinstance(tensor, _Tensor):
        raise TypeError(f"{type(tensor).__name__} is not a tensor")
    data = read(tensor.storage)
    try:
        return _array(tensor, data)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{name!r} of shape {tensor.shape}, strides {tensor.strides} and offset "
            f"{tensor.offset} does not fit into its storage of {tensor.storage.num_bytes} bytes; "
            "the file is corrupt"
        ) from error


def _tensor(storage, offset, shape, strides, dtype):
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(map(_is_size, numbers)):
        raise UserError(
            f"a tensor has shape {reprlib.repr(shape)}, strides {reprlib.repr(strides)} and offset "
            f"{reprlib.repr(offset)}"
        )
    dtype = storage.dtype if dtype is None else jnp.dtype(dtype)
    return _Tensor(storage, offset, shape, strides, dtype)


def _num_bytes(tensor):
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _array(tensor, data):
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("as many strides as axes expected")
    itemsize = tensor.dtype.itemsize
    if math.prod(tensor.shape) == 0:
        return np.empty(tensor.shape, tensor.dtype)
    # NumPy checks that all elements are inside the data.
    return np.ndarray(
        tensor.shape,
        tensor.dtype,
        data,
        tensor.offset * itemsize + tensor.storage.begin * tensor.storage.dtype.itemsize,
        tuple(stride * itemsize for stride in tensor.strides),
    )


def _mappings(value):
    """All mappings that hold tensors, the likeliest first, except inside optimizers.

    Yields:
        `(path, whether it consists of usual wrappers, entries)`.
    """
    seen: set[int] = set()

    def search(value, path, named):
        mapping = value.items if isinstance(value, Inert) else value
        if not isinstance(mapping, dict) or len(path) >= _MAX_DEPTH or id(mapping) in seen:
            return
        seen.add(id(mapping))
        entries = {key: inner for key, inner in mapping.items() if isinstance(key, str)}
        for key in _WRAPPERS:
            if key in entries:
                yield from search(entries[key], (*path, key), named)
        if _tensors(entries):
            yield path, named, entries
        for key, inner in entries.items():
            if "optim" not in key and key not in _WRAPPERS:
                yield from search(inner, (*path, key), False)

    return search(value, (), True)


def _tensors(entries):
    return {name: inner for name, inner in entries.items() if isinstance(inner, _Tensor)}


def _contents(value):
    if isinstance(value, Inert) and not value.items:
        return f"it is an object of {escaped(value.name)}: save its state_dict() instead"
    keys = value.items if isinstance(value, Inert) else value
    if isinstance(keys, dict):
        objects = [escaped(inner.name) for inner in keys.values() if isinstance(inner, Inert)]
        hint = f", with objects of {', '.join(objects[:3])}" if objects else ""
        names = ", ".join(map(reprlib.repr, list(keys)[:10])) or "none"
        return f"its keys are {names}{hint}"
    return f"it is a {type(value).__name__}"


def _sizes(value):
    if isinstance(value, Inert) and value.name == "torch.Size" and value.args:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > _MAX_AXES:
        raise UserError(f"a tensor has shape or strides {reprlib.repr(value)}")
    return tuple(value)


def _is_size(value):
    return type(value) is int and 0 <= value < 2**62
