"""Checksums of the files of a folder.

`checksums.json` holds the length and the CRC-32 of every file. That finds what happens to files by
accident: cut off, deleted, bits flipped. It costs a tenth of what a cryptographic hash does, and
nobody is expected to forge a checkpoint.
"""

import json
import zlib

NAME = "checksums.json"
_CHUNK = 1 << 20  # bytes that are read at a time


def write(folder, *, ignored=()):
    """Write down the files of `folder` (a `pathlib.Path`), but for those with names in `ignored`.

    Raises:
        OSError: a file cannot be read, or the list not be written.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (NAME, *ignored):
            files[path.relative_to(folder).as_posix()] = [path.stat().st_size, _crc32(path)]
    content = {"files": files, "crc32": crc32_of(files)}
    (folder / NAME).write_text(json.dumps(content, indent=1) + "\n")


def of_folder(folder):
    """The checksum of all files of `folder` (a `pathlib.Path`) by its list; `None` without one."""
    try:
        return int(json.loads((folder / NAME).read_text())["crc32"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def problems(folder, parts):
    """What happened to the files of `folder` since `write`.

    Args:
        folder: a `pathlib.Path`.
        parts: names of the folders in it to check.

    Returns:
        A list of messages; empty if all files are what they were. Files that are not on the list
        do not matter.
    """
    try:
        content = json.loads((folder / NAME).read_text())
        files = content["files"]
        if content["crc32"] != crc32_of(files):
            return [f"{NAME} has changed"]
        wanted = {name: entry for name, entry in files.items() if name.split("/")[0] in parts}
        found = [_problem(folder / name, *entry) for name, entry in wanted.items()]
    except FileNotFoundError:
        return [f"{NAME} is missing"]
    except (AttributeError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{NAME} cannot be read ({error})"]
    return [f"{name} {text}" for name, text in zip(wanted, found, strict=True) if text]


def _problem(path, size, crc32):
    try:
        if not path.is_file():  # a device, which a foreign list may name, has no end
            return "is missing"
        found = path.stat().st_size
        if found != size:
            return f"has {found} bytes instead of {size}"
        return "" if _crc32(path) == crc32 else "does not match its checksum"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _crc32(path):
    value, chunk = 0, bytearray(_CHUNK)
    with path.open("rb") as file:
        while count := file.readinto(chunk):
            value = zlib.crc32(memoryview(chunk)[:count], value)
    return value


def crc32_of(content):
    """The CRC-32 of something that JSON can hold."""
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
