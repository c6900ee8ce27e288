"""Memory for pixels that is used over and over, and memory that is shared and given back.

The system hands out new memory page by page, as it is written to for the first time, and fills it
with zeros. For the frames of a clip that takes a quarter as long as decoding them.
"""

import collections
import contextlib
import ctypes
import math
import os

import numpy as np

_ARENA_MAX = -8  # of the GNU C library's malloc.h
_KEPT = 16  # arrays that nobody uses; more than the batches that are on their way


class Scratch:
    """Memory for one frame, which the next one overwrites."""

    def __init__(self):
        self._memory = np.empty(0, np.uint8)

    def array(self, *shape):
        """A uint8 array of a shape; all of them are the same memory."""
        size = math.prod(shape)
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(shape)


# Both are used by many threads; what deques do with one element cannot be interrupted.
_spare_scratches: collections.deque[Scratch] = collections.deque()
_spare_memory: collections.deque[np.ndarray] = collections.deque(maxlen=_KEPT)


@contextlib.contextmanager
def scratch():
    """Lend a `Scratch` that nobody else uses meanwhile, in whatever thread."""
    try:
        lent = _spare_scratches.pop()
    except IndexError:
        lent = Scratch()
    try:
        yield lent
    finally:
        _spare_scratches.append(lent)


def empty(shape):
    """A uint8 array like `numpy.empty`, whose memory is used again when nobody refers to it."""
    size = math.prod(shape)
    memory = None
    with contextlib.suppress(IndexError):
        for _ in range(len(_spare_memory)):
            found = _spare_memory.popleft()
            if size <= found.size <= 2 * size:
                memory = found
                break
            _spare_memory.append(found)
    lent = _Lent(np.empty(size, np.uint8) if memory is None else memory)
    return np.asarray(lent)[:size].reshape(shape)


class _Lent:
    """The owner of memory in the eyes of NumPy, which every view of an array refers to."""

    def __init__(self, memory):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    # Bound here, as at the end of the program there are no globals any more.
    def __del__(self, give_back=_spare_memory.append):
        give_back(self._memory)


def share():
    """Let all threads allocate from one arena of the GNU C library.

    Each thread would get one of its own, up to 8 per core, and evaluations, whose threads come and
    go, would leave pieces in each that nobody uses: a process would grow with every one of them.

    Has to be called before there are threads. Settings of the environment go first; other C
    libraries are left as they are.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_")]
    mallopt = _of_the_c_library("mallopt")
    if mallopt and not chosen and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        mallopt(_ARENA_MAX, 1)


def give_back():
    """Give memory that is allocated but not used back to the system, where the C library can.

    Evaluations leave it between pieces that are in use. Takes some milliseconds.
    """
    if trim := _of_the_c_library("malloc_trim"):
        trim(0)


def _of_the_c_library(name):
    """A function of the C library, or `None` if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
