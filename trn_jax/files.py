"""Atomic, durable writes; bounded reads of foreign and corrupt files."""

import contextlib
import json
import os
import pathlib
import re
import tempfile

from trn_jax.errors import UserError, escaped, first_line

# Weights and scores hardly compress: 2 x where half precision is stored as float32, 4 x where
# numbers are text of one digit. Whole files of zeros are the exception, so small ones may be so.
_MAX_INFLATION = 16
_ALWAYS_ALLOWED = 64 << 20  # bytes
_MOST_DIFFERENCES = 5  # named in a message
_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")  # of a file name that is not UTF-8


def check_memory(needed, size):
    """Check, before memory is taken, that the content of a file is in proportion to the file.

    A few bytes can stand for gigabytes: zeros behind deflate, a tensor with strides of 0, a list
    that a pickle refers to a million times.

    Args:
        needed: bytes that the content takes in memory.
        size: bytes of the file.

    Raises:
        UserError: it takes more than 16 times the file and more than 64 MiB.
    """
    if needed > max(_MAX_INFLATION * size, _ALWAYS_ALLOWED):
        raise UserError(
            f"its {size:,} bytes would become {needed:,} in memory, more than {_MAX_INFLATION} "
            "times as many, as weights, scores and annotations never do; get the file from another "
            "source, or, if it is right, save it without compression and expanded tensors"
        )


@contextlib.contextmanager
def reading(path, what):
    """Turn whatever a foreign file makes a reader raise into a `UserError` that names the file.

    Readers of formats with so many ways to be malformed check what they need for a good message;
    this catches the rest.

    Args:
        path: the file.
        what: what it is expected to be, with an article.

    Raises:
        UserError: in place of any `Exception` in the `with` block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError as error:
        name = escaped(path)
        named = str(error).startswith((f"{name}:", f"{name} ", f"cannot read {name}:"))
        raise UserError(str(error) if named else f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than this process may have") from error
    except KeyError as error:
        raise UserError(f"cannot read {path} as {what}: {error} is missing in it") from error
    except Exception as error:
        raise UserError(f"cannot read {path} as {what}: {first_line(error)}") from error


def read_text(path):
    """Read text in UTF-8, or in UTF-16 with a byte order mark; any line ends become newlines.

    Raises:
        UserError: it cannot be read, or has another encoding.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8, "
            "which spreadsheets call 'CSV UTF-8'"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_stripped_lines(path):
    """Read text as `read_text`: its lines without surrounding spaces, and without blank lines."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


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


def as_text(name):
    r"""The name of a file for a text in UTF-8: bytes that are not UTF-8 become escapes, `\udce9`.

    `from_text` is the inverse.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def from_text(text):
    """The name of a file that `as_text` has written."""
    return _BYTE.sub(lambda m: chr(0xDC00 + int(m[1], 16)), text)


def check_folder(path, flag="--to"):
    """Check, before what takes long, that a folder is there or can be made, and be written to.

    Args:
        path: the folder.
        flag: that names it, for messages.

    Raises:
        UserError: it can't be written to, or there is a file in its place.
    """
    _check_place(path, os.path.abspath(path), "a folder", flag)


def check_file(path, flag="--to", *, makes_folder=True):
    """As `check_folder`, of a file; `makes_folder`: its folder is made by who writes it."""
    if os.path.isdir(path):
        raise UserError(f"{flag}={path} is a folder; expected the name of a file")
    folder = os.path.dirname(os.path.abspath(path))
    if not (makes_folder or os.path.lexists(folder)):
        raise UserError(f"{flag}={path}: there is no folder {folder}; make it, or choose another")
    _check_place(path, folder, "a file", flag)


def _check_place(path, folder, what, flag):
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise UserError(
            f"{flag}={path} can't be {what}, as {folder} is not a folder; choose another place"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{flag}={path} can't be written: {folder}: {error.strerror or error}; choose another "
            "place"
        ) from None


def make_folder(folder):
    """Make a folder and those above it, if they are missing.

    Raises:
        UserError: it can't be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make the folder {folder}: {error.strerror}") from None


def write_text(path, text):
    """Write a text file, see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path, content):
    """Write a file that is complete or not there, whenever the process is killed.

    Raises:
        UserError: it cannot be written.
    """
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomic(path, *, sync=True):
    """Open a file to write bytes to; it gets its name at the end of the `with` block.

    Args:
        path: the file.
        sync: whether to wait until it is on the disk. Without, a power failure may leave it empty.

    Raises:
        UserError: it cannot be written.
    """
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(partial)  # on a full disk, it takes the room of others
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another place, "
            "and run the same command again"
        ) from error


@contextlib.contextmanager
def new_folder(path):
    """Make a folder that is complete or not there, whenever the process is killed.

    Args:
        path: the folder, which must not exist.

    Yields:
        A `pathlib.Path` beside it that does not exist yet, for what the `with` block makes there;
        at the end of the block it gets its name.

    Raises:
        UserError: the folder exists, or can't be written.
    """
    path = pathlib.Path(path).absolute()
    if os.path.lexists(path):
        raise UserError(f"{path} exists; choose a folder that does not")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as parent:
            unnamed = pathlib.Path(parent) / path.name
            yield unnamed
            sync_folder(unnamed)
            unnamed.rename(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from None


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


def differences(before, now):
    """How two descriptions of what made a file differ, as text for a message.

    Of nested dicts, such as a view, only what differs is named: `view.crop: 'center' -> 'ten'`.

    Args:
        before: a dict that JSON can hold.
        now: the same; a "checksum" is that of a checkpoint, and a "step" its step.
    """
    before, now = dict(_flat(before)), dict(_flat(now))
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    found = []
    if "checksum" in keys:
        found.append("another checkpoint (its checksum differs)")
        keys = [key for key in keys if key not in ("checksum", "step")]
    found += [f"{key}: {before.get(key)!r:.80} -> {now.get(key)!r:.80}" for key in keys]
    more = len(found) - _MOST_DIFFERENCES
    return "; ".join(found[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _flat(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
