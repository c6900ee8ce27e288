"""Lock of a folder that is written to."""

import contextlib
import os

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from trn_jax.errors import UserError


@contextlib.contextmanager
def locked_folder(folder, *, wait=False):
    """Make a folder, unless it exists, and lock it against other processes.

    The lock ends with the process. On Windows there is none.

    Args:
        folder: its path.
        wait: wait until no other process has locked it.

    Raises:
        UserError: the folder cannot be made or written to, or another process has locked it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY) if fcntl else None
    except OSError as error:
        raise _unusable(folder, error.strerror) from None
    if handle is None:
        yield
        return
    try:
        if not os.access(folder, os.W_OK):
            raise _unusable(folder, "it is read-only")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(
                f"another process is writing to {folder}; wait for it, or stop it and run this "
                "command again"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _unusable(folder, reason):
    return UserError(f"cannot write to {folder}: {reason}; choose another folder with --to")
