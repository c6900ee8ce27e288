"""Pieces of malformed zip archives, `.npz` members and pickles."""

import io
import struct
import zipfile
import zlib

import numpy as np

HUGE = 2**40
GIGABYTE = 1 << 30
ESCAPE = "\x1b[2Jname\u202e\n\r\x08"


def zeros(num_bytes, head=b""):
    """`head` and zeros as a raw deflate stream, a thousandth of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (num_bytes >> 20) + packer.flush()


def deflated_zip(name, stream, file_size, *, method=8, flags=0, compress_size=None):
    """A zip file whose one member says what it likes about itself."""
    compress_size = len(stream) if compress_size is None else compress_size
    size = min(file_size, 2**32 - 1)
    fields = (20, flags, method, 0, 0, 0, compress_size, size, len(name))
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields, 0) + name.encode()
    central = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0, 0)
    central += name.encode()
    start = len(local) + len(stream)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), start, 0)
    return local + stream + central + end


def npy(shape, dtype="<f4", version=1, header=None):
    """The head of a `.npy` member."""
    header = header or repr({"descr": dtype, "fortran_order": False, "shape": shape}) + "\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin1")


def npz(**members):
    """A `.npz` file of members as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def compressed(method, **arrays):
    """A `.npz` file packed in a way that NumPy does not use."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array)
            archive.writestr(f"{name}.npy", content.getvalue())
    return file.getvalue()


def nested_pickle(depth, opening=b"]", closing=b"a"):
    """Containers within containers."""
    return b"\x80\x02" + opening * depth + closing * (depth - 1) + b"."


def laughs(levels=60):
    """A tuple of two of the same tuple of two ...: exponential for all that walks it."""
    return b")q\x630" + b"h\x63h\x63\x86q\x630" * levels + b"h\x63"


def storage_of(size, key=b"X\x01\x00\x00\x000"):
    """The instructions for a storage of `size`, given as instructions."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + key
        + b"X\x03\x00\x00\x00cpu"
        + size
        + b"tQ"
    )


def rebuilt(
    storage, offset=b"K\x00", shape=b"K\x01\x85", strides=b"K\x01\x85", name=b"X\x01\x00\x00\x00w"
):
    """A pickled state dict with one tensor, in instructions."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides
    return b"\x80\x02}" + name + call + b"\x89}tRs."


def torch_zip(data, **members):
    """A zip file of PyTorch around a pickle given in instructions."""
    members = {"0": np.ones(1, np.float32).tobytes()} | members
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", data)
        for key, content in members.items():
            archive.writestr(f"m/data/{key}", content)
    return file.getvalue()
