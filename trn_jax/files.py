"""Write files that are complete or not there."""

import contextlib
import os

from trn_jax.errors import UserError


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
