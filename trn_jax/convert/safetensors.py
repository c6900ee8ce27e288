"""Read `.safetensors` files: the length of a header, the header as JSON, then raw data.

The header says for each name its dtype, its shape, and where its bytes begin and end. It is checked
before anything is read, and the bytes must be covered exactly once.
"""

import json
import math

import jax.numpy as jnp
import numpy as np

from trn_jax.errors import UserError

_MAX_HEADER = 1 << 24  # bytes; those of 100,000 tensors take less

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def looks_like_safetensors(head, size):
    """Whether a file of `size` bytes that begins with the bytes `head` may be of this format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(file, size):
    """Read all tensors, `{name: array}`.

    Args:
        file: binary file at its beginning.
        size: number of bytes of the file.

    Raises:
        UserError: the header is malformed, or contradicts the size of the file.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise UserError(f"its safetensors header has {length:,} bytes, more than {_MAX_HEADER:,}")
    try:
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
        begins = [_check(name, **entry) for name, entry in entries]
    except UserError:
        raise
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"its safetensors header is malformed ({error})") from error
    end = 0
    for (name, entry), begin in zip(entries, begins, strict=True):
        if begin != end:
            raise UserError(f"tensor {name!r} begins at byte {begin}, the one before ends at {end}")
        end = entry["data_offsets"][1]
    if end != size - 8 - length:
        raise UserError(
            f"its header tells of {end} bytes of data, there are {size - 8 - length}; the file is "
            "cut off or damaged, get it again"
        )
    data = file.read(end)
    return {
        name: np.ndarray(entry["shape"], jnp.dtype(_DTYPES[entry["dtype"]]), data, begin)
        for (name, entry), begin in zip(entries, begins, strict=True)
    }


def _check(name, *, dtype, shape, data_offsets):
    begin, end = data_offsets
    if not all(type(number) is int and number >= 0 for number in [*shape, begin, end]):
        raise UserError(f"tensor {name!r} has shape {shape} and offsets {data_offsets}")
    if dtype not in _DTYPES:
        raise UserError(f"tensor {name!r} has dtype {dtype!r}; known: {', '.join(_DTYPES)}")
    needed = math.prod(shape) * jnp.dtype(_DTYPES[dtype]).itemsize
    if end - begin != needed:
        raise UserError(f"tensor {name!r} needs {needed} bytes, the header gives {end - begin}")
    return begin
