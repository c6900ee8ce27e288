"""Reads files of PyTorch weights without PyTorch, and without executing their pickles."""

import hashlib
import io
import mmap
import os
import re
import reprlib
import struct
import zipfile
import zlib

import numpy as np
from safetensors import SafetensorError, safe_open

from trn_jax.convert import shards
from trn_jax.convert.selection import Network, StateDict, choose
from trn_jax.convert.torch_objects import Storage, call, persistent, state_dict_arrays
from trn_jax.convert.unpickle import load_pickle
from trn_jax.errors import UserError, escaped
from trn_jax.files import reading

# Eight decimal digits are a date.
_HASH_IN_NAME = re.compile(r"-(?!\d{8}\.)([0-9a-f]{8,64})\.(?:pth|pt|pth\.tar|safetensors)$")

# The first pickle of files before version 1.6.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# zipfile's errors for corrupt archives, unknown compression and passwords.
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def read_torch_file(path, key=None):
    """Read the weights in a file, or in several, see `shards`.

    The formats are PyTorch's (of all versions since 0.1.10) and `.safetensors`, detected by the
    content, not the name. The weights may have a wrapper such as `{"state_dict": ...}`; optimizer
    states and everything else are skipped.

    Args:
        path: the file, or an index or folder of several. It may be untrusted: nothing in it is
            executed, and the arrays, copies included, take at most the memory that
            `files.check_memory` allows for its size.
        key: selects one of several networks in the file, see `selection.choose`.

    Returns:
        A `selection.StateDict`, `{name: array}` in the file's order, with its names, dtypes and
        layouts. Arrays of PyTorch's formats are read-only; tensors that shared memory share it.

    Raises:
        UserError: the file is missing, of another format, truncated, corrupt, big-endian, without
            tensors or with far more of them than bytes, or its pickle would run code; or it has
            several networks, and `key` is missing or none of them.
    """
    files = shards.resolve(path)
    if list(files.values()) == [None]:
        (file,) = files
        return _read_one(file, key)
    tensors: dict[str, np.ndarray] = {}
    for file, names in files.items():
        part = _read_one(file)
        lacking = [name for name in names or () if name not in part]
        if lacking:
            raise UserError(
                f"{file} lacks {len(lacking)} tensors of the index, such as {lacking[0]!r}; the "
                "files are of different versions, download all of them again"
            )
        if twice := tensors.keys() & (part if names is None else names):
            raise UserError(f"{file}: {min(twice)!r} is in another file, too")
        tensors |= part if names is None else {name: part[name] for name in names}
    with reading(path, "weights"):
        return _flat(tensors, key)


def _read_one(path, key=None):
    with reading(path, "a file of weights"), open(path, "rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size, key)


def _flat(tensors, key):
    """A `StateDict` of a format without nested mappings."""
    sizes = {name: tensor.size for name, tensor in tensors.items()}
    chosen, left_unread = choose([Network((), True, sizes)], key)
    return StateDict({name: tensors[name] for name in chosen.sizes}, (), left_unread)


def file_sha256(path):
    """The SHA-256 of a file, in hexadecimal digits.

    For several files, see `shards`, it is that of all of them in order.
    """
    digest = hashlib.sha256()
    for part in sorted(shards.resolve(path)):
        with open(part, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_name(path):
    """Check a file against the hash in its name, as in `resnet50-0676ba61.pth`, if there is one.

    Published files have the first digits of their SHA-256 in their names.

    Raises:
        UserError: the hashes differ.
    """
    stated = _HASH_IN_NAME.search(os.path.basename(path))
    if stated is None:
        return
    found = file_sha256(path)
    if not found.startswith(stated[1]):
        raise UserError(
            f"the SHA-256 of {path} begins with {found[: len(stated[1])]}, not with {stated[1]} as "
            "in its name: the file is corrupt, or a different one. Download it again, or rename it "
            "without the hash"
        )


def _read(file, size, key):
    head = file.read(512)
    file.seek(0)
    if not head:
        raise UserError("the file is empty")
    if head.startswith(b"PK"):
        return _read_zip(file, size, key)
    if head[:1] == b"\x80":  # the first byte of a pickle
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _read_legacy(mapped, key)
    if head[8:9] == b"{":  # behind the length of the header
        return _flat(_read_safetensors(file.name), key)
    if head[257:262] == b"ustar":
        raise UserError("the file is a tar archive; save it again with PyTorch 0.1.10 or later")
    raise UserError(f"neither PyTorch weights nor .safetensors; the file begins with {head[:16]!r}")


def _read_zip(file, size, key):
    try:
        with zipfile.ZipFile(file) as archive:
            # Members may overlap, to become more than the archive.
            if sum(info.compress_size for info in archive.infolist()) > size:
                raise UserError(
                    "the archive's members are larger than the file; it is truncated or corrupt"
                )
            names = archive.namelist()
            if any(name.endswith(".npy") for name in names):
                raise UserError(
                    ".npz files of weights are not read; convert it: safetensors.numpy.save_file("
                    "{name: np.ascontiguousarray(array) for name, array in "
                    "np.load('weights.npz').items()}, 'weights.safetensors')"
                )
            folders = [name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")]
            if len(folders) != 1:
                raise UserError("a zip archive, but not one of PyTorch")
            return _Zip(archive, folders[0]).read(size, key)
    except UserError:
        raise
    except _BROKEN_ZIP as error:
        raise UserError(
            f"the archive can't be read ({error}); with {size} bytes it is probably truncated or "
            "corrupt, download it again"
        ) from error


def _read_safetensors(path):
    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("library_name") == "trn_jax":
                raise UserError(
                    "these are the weights of a checkpoint of trn_jax, which needs no conversion: "
                    f"give its folder, {os.path.dirname(os.path.abspath(path))}, as a checkpoint"
                )
            return {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise UserError(
            f"malformed or truncated .safetensors ({escaped(str(error))}); download it again"
        ) from error
    except (AttributeError, ValueError) as error:  # a dtype or a shape that NumPy does not have
        raise UserError(f"a tensor can't be read ({escaped(str(error))})") from error


class _Zip:
    """The format since version 1.6: a pickle and one uncompressed file per storage."""

    def __init__(self, archive, folder):
        self.archive = archive
        self.folder = folder

    def read(self, size, key):
        if f"{self.folder}byteorder" in self.archive.namelist():
            _check_byte_order(self.member("byteorder") == b"little")
        file = io.BytesIO(self.member("data.pkl"))
        value = load_pickle(file, call=call, persistent=persistent)
        return state_dict_arrays(value, self.storage, size, key)

    def storage(self, storage):
        data = self.member(f"data/{storage.key}")
        if len(data) != storage.num_bytes:
            raise UserError(
                f"storage {storage.key} has {len(data)} bytes instead of {storage.num_bytes}; the "
                "file is corrupt"
            )
        return data

    def member(self, name):
        name = f"{self.folder}{name}"
        try:
            info = self.archive.getinfo(name)
        except KeyError:
            raise UserError(f"the archive lacks {name}; it is corrupt") from None
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{name} is compressed, unlike PyTorch's files; store it uncompressed")
        return self.archive.read(info)


def _read_legacy(file, key):
    """The format before 1.6: five pickles, then all storages, each after its size."""
    used = {}

    def remember(identifier):
        found = persistent(identifier)
        if isinstance(found, Storage):
            used[found.key] = found
        return found

    def load():
        return load_pickle(file, call=call, persistent=remember)

    if load() != _LEGACY_MAGIC:
        raise UserError("a pickle, but not one of PyTorch")
    protocol, system, value, keys = load(), load(), load(), load()
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
        raise UserError(f"protocol {reprlib.repr(protocol)}, expected {_LEGACY_PROTOCOL}")
    _check_byte_order(system.get("little_endian") is True)
    named = [used.get(str(key)) if isinstance(key, str | int) else None for key in keys]
    places = _storage_places(file, named)

    def read(storage):
        if storage.key not in places:
            raise UserError(f"the file lacks storage {storage.key}; it is corrupt")
        begin, end = places[storage.key]
        return file[begin:end]

    return state_dict_arrays(value, read, len(file), key)


def _storage_places(file, storages):
    """Where the bytes of each storage are, `{key: (begin, end)}`."""
    places = {}
    end = file.tell()
    for storage in storages:
        if storage is None:
            raise UserError("the file lists a storage without a tensor; it is corrupt")
        declared = int.from_bytes(file[end : end + 8], "little")
        begin, end = end + 8, end + 8 + storage.num_bytes
        if end > len(file):
            raise UserError(
                f"the file is truncated: storage {storage.key} ends at byte {end}, the file has "
                f"{len(file)}; download it again"
            )
        if declared != storage.size:
            raise UserError(
                f"storage {storage.key} has {declared} elements instead of {storage.size}; the "
                "file is corrupt"
            )
        places[storage.key] = (begin, end)
    return places


def _check_byte_order(little):
    if not little:
        raise UserError("the file is big-endian; save it again on a little-endian machine")
