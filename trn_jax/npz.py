"""Arrays of `.npz` files, with every declared size checked before memory is taken."""

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
        UserError: an entry is no array of numbers or text, or not as long as its header says, or
            the arrays are out of proportion to the file.
    """
    # All headers first: nothing is inflated that the others make too much.
    check_memory(sum(info.file_size for info in archive.infolist()), size)
    return {
        info.filename.removesuffix(".npy"): _read_array(archive, info, size)
        for info in archive.infolist()
    }


def _read_array(archive, info, size):
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{info.filename!r} is compressed in a way that NumPy does not use")
    with archive.open(info) as file:
        shape, fortran_order, dtype, start = _read_header(file, info.filename)
        needed, found = math.prod(shape) * dtype.itemsize, info.file_size - start
        if min(shape, default=0) < 0 or found != needed:
            raise UserError(f"{info.filename!r} has {found} bytes, its header tells of {needed}")
        check_memory(math.prod(shape), size)  # of text without letters, which takes no bytes
        # Without its argument, `read` would inflate all there is before it looks at the size.
        data = file.read(needed)
        if len(data) != needed or file.read(1):
            raise UserError(f"{info.filename!r} is not as long as the archive says")
    return np.ndarray(shape, dtype, data, order="F" if fortran_order else "C")


def _read_header(file, name):
    """Shape, order and dtype of an array, and the bytes that the header takes."""
    try:
        version = np.lib.format.read_magic(file)
        width, read = _HEADERS[version]
        length = file.read(width)
        if int.from_bytes(length, "little") > _MAX_HEADER:
            raise ValueError(f"a header of {int.from_bytes(length, 'little')} bytes")
        header = length + file.read(int.from_bytes(length, "little"))
        shape, fortran_order, dtype = read(io.BytesIO(header))
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        raise UserError(f"{name!r} is no NumPy array ({error})") from error
    if dtype.hasobject:
        raise UserError(f"{name!r} holds Python objects, which are not read")
    if dtype.kind not in _KINDS:
        raise UserError(
            f"{name!r} has the dtype {dtype.str!r}; numbers and text are read (save bfloat16 as "
            "float32)"
        )
    return shape, fortran_order, dtype, np.lib.format.MAGIC_LEN + len(header)
