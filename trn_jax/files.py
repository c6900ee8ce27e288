"""Files that are complete or not there, survive a power failure, and are read whatever happened."""

import contextlib
import json
import os

from trn_jax.errors import UserError


def read_json_lines(path, **types):
    """The entries of a log with one JSON object per line.

    Whatever happened to the file costs the lines that it happened to: bytes that are no text,
    blocks of zeros after a power failure, a line that was cut.

    Args:
        path: the file.
        **types: keys that every entry has, and the types of their values.

    Returns:
        `(entries, num_bad)`: a list of dicts, and the number of lines that are none.

    Raises:
        OSError: the file cannot be read.
    """
    entries, num_bad = [], 0
    with open(path, "rb") as file:
        for line in file.read().split(b"\n"):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if isinstance(entry, dict) and all(type(entry.get(k)) is t for k, t in types.items()):
                entries.append(entry)
            else:
                num_bad += 1
    return entries, num_bad


def write_text(path, text):
    """Write a text file, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path, content):
    """Write a file that is complete or not there, whenever the process is killed.

    Raises:
        UserError: it cannot be written.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # or, after a power failure, it may be there and empty
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)  # on a full disk, it takes the room of others
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another place"
        ) from error


def sync_folder(folder):
    """Wait until a folder (a `pathlib.Path`) and everything in it are on the disk.

    Raises:
        OSError: the disk is full or broken.
    """
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path):
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: the disk is full or broken.
    """
    is_folder = path.is_dir()
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:  # some file systems cannot sync folders
            raise
    finally:
        os.close(handle)
