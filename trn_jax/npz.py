"""Reads `.npz` files, checking every declared size before allocating memory."""

import io
import math
import zipfile

import numpy as np

from trn_jax.errors import UserError
from trn_jax.files import check_memory

_HEADERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}
_MAX_HEADER = 10_000  # bytes, as NumPy has it
_KINDS = "biufcU"  # numbers and text


def read_npz(archive, size):
    """Read all arrays of an open `zipfile.ZipFile`, `{name: array}`.

    Args:
        archive: the archive.
        size: bytes of its file.

    Raises:
        UserError: an entry is not an array of numbers or text, has another length than in its
            header, or the arrays are too large for the file's size.
    """
    # Sizes of all entries first, so that none is inflated in vain.
    check_memory(sum(info.file_size for info in archive.infolist()), size)
    return {
        info.filename.removesuffix(".npy"): _read_array(archive, info, size)
        for info in archive.infolist()
    }


def _read_array(archive, info, size):
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{info.filename!r} has a compression that NumPy does not use")
    with archive.open(info) as file:
        shape, fortran_order, dtype, start = _read_header(file, info.filename)
        needed, found = math.prod(shape) * dtype.itemsize, info.file_size - start
        if min(shape, default=0) < 0 or found != needed:
            raise UserError(
                f"{info.filename!r} has {found} bytes, {needed} according to its header"
            )
        check_memory(math.prod(shape), size)  # text of width 0 takes no bytes
        # Without an argument, `read` would inflate the whole entry first.
        data = file.read(needed)
        if len(data) != needed or file.read(1):
            raise UserError(f"{info.filename!r} has another length than the archive states")
    return np.ndarray(shape, dtype, data, order="F" if fortran_order else "C")


def _read_header(file, name):
    """Shape, order and dtype of an array, and the size of its header in bytes."""
    try:
        version = np.lib.format.read_magic(file)
        width, read = _HEADERS[version]
        length = file.read(width)
        if int.from_bytes(length, "little") > _MAX_HEADER:
            raise ValueError(f"a header of {int.from_bytes(length, 'little')} bytes")
        header = length + file.read(int.from_bytes(length, "little"))
        shape, fortran_order, dtype = read(io.BytesIO(header))
    except Exception as error:  # NumPy parses the header as Python: any error
        raise UserError(f"{name!r} is not a NumPy array ({error})") from error
    if dtype.hasobject:
        raise UserError(f"{name!r} holds Python objects, which are not supported")
    if dtype.kind not in _KINDS:
        raise UserError(
            f"{name!r} has dtype {dtype.str!r}, expected numbers or text (save bfloat16 as float32)"
        )
    return shape, fortran_order, dtype, np.lib.format.MAGIC_LEN + len(header)
