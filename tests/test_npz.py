"""Headers of `.npz` files that contradict the file; see `foreign_scores` for full files."""

import io
import struct
import zipfile

import pytest

from trn_jax.errors import UserError
from trn_jax.npz import read_npz

HUGE = 2**40


def npz_with_header(shape, dtype="<f8"):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", member)
    return file


def read(file):
    with zipfile.ZipFile(file) as archive:
        return read_npz(archive, len(file.getvalue()))


def test_headers_are_checked():
    assert read(npz_with_header((2, 5)))["a"].shape == (2, 5)
    for shape in [(HUGE,), (11,), (-2, -5), (9,)]:
        with pytest.raises(UserError, match=r"a\.npy.* 80"):
            read(npz_with_header(shape))
    with pytest.raises(UserError, match=r"a\.npy.*objects"):
        read(npz_with_header((10,), "|O"))
    with pytest.raises(UserError, match=r"a\.npy"):
        read(npz_with_header("__import__('os')"))
