"""Read `.npz` archives, with every declared size checked before memory is taken."""

import math

import numpy as np

from trn_jax.errors import UserError

# Deflate makes at most 1,032 bytes out of one.
_MAX_INFLATION = 1032


def read_npz(archive):
    """Read all arrays of an open `zipfile.ZipFile`, `{name: array}`.

    Raises:
        UserError: an entry is no array of numbers, or not as long as its header says.
    """
    return {
        info.filename.removesuffix(".npy"): _read_array(archive, info)
        for info in archive.infolist()
    }


def _read_array(archive, info):
    if info.file_size > _MAX_INFLATION * info.compress_size:
        raise UserError(f"{info.filename} cannot be as large as it says; the file is damaged")
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            headers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, fortran_order, dtype = headers[version](file)
        except (KeyError, ValueError) as error:
            raise UserError(f"{info.filename} is no NumPy array ({error})") from error
        if dtype.hasobject:
            raise UserError(f"{info.filename} holds Python objects, which are not read")
        data = file.read()
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(data) != needed:
        raise UserError(f"{info.filename} has {len(data)} bytes, its header tells of {needed}")
    return np.ndarray(shape, dtype, data, order="F" if fortran_order else "C")
