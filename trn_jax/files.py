"""Bounds on what reading a foreign file may take, and atomic writes of own files."""

import contextlib
import os

from trn_jax.errors import UserError, first_line

# Weights and scores hardly compress: 2 x where half precision is stored as float32, 4 x where
# numbers are text of one digit. Whole files of zeros are the exception, so small ones may be so.
_MAX_INFLATION = 16
_ALWAYS_ALLOWED = 64 << 20  # bytes


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
        raise UserError(f"{path}: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than this process may have") from error
    except KeyError as error:
        raise UserError(f"cannot read {path} as {what}: {error} is missing in it") from error
    except Exception as error:
        raise UserError(f"cannot read {path} as {what}: {first_line(error)}") from error


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
