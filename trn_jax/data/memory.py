"""Memory that is used over and over: that of pixels, and that of the C library.

The system hands out new memory page by page, as it is written to for the first time, and fills it
with zeros. For the frames of a clip that takes a quarter as long as decoding them, for a training
step on a CPU a fifth of its time.
"""

import collections
import contextlib
import ctypes
import math
import os

import numpy as np

# Of the GNU C library's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 2**31 - 1  # bytes; a larger number cannot be told
MAX_SPARE = 16  # arrays that nobody uses; more than the batches that are on their way


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
spare_memory: collections.deque[np.ndarray] = collections.deque(maxlen=MAX_SPARE)


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
        for _ in range(len(spare_memory)):
            found = spare_memory.popleft()
            if size <= found.size <= 2 * size:
                memory = found
                break
            spare_memory.append(found)
    lent = _Lent(np.empty(size, np.uint8) if memory is None else memory)
    return np.asarray(lent)[:size].reshape(shape)


class _Lent:
    """The owner of memory in the eyes of NumPy, which every view of an array refers to."""

    def __init__(self, memory):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    # Bound here, as at the end of the program there are no globals any more.
    def __del__(self, give_back=spare_memory.append):
        give_back(self._memory)


def keep():
    """Let the GNU C library use freed memory again instead of returning it, for all threads.

    XLA allocates the memory of a training step on a CPU anew for every step. By default it is
    returned after each, which takes a fifth of the step. Blocks of more than 2 GiB, or an eighth of
    the machine, are returned all the same, because others would be put between two of them: the
    larger the blocks, the more memory is lost to that.

    Each thread would also get an arena of its own, up to 8 per core, and evaluations, whose threads
    come and go, would leave pieces in each that nobody uses: a process would grow with every one of
    them. There is one arena for all.

    Has to be called before there are threads. Settings of the environment go first; other C
    libraries are left as they are.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_")]
    mallopt = _of_the_c_library("mallopt")
    if mallopt and not chosen and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, min(machine // 8, _LARGEST_KEPT))
        mallopt(_TRIM_THRESHOLD, -1)


def give_back():
    """Give memory that is allocated but not used back to the system, where the C library can.

    Evaluations leave it between pieces that are in use. Takes some milliseconds.
    """
    if trim := _of_the_c_library("malloc_trim"):
        trim(0)


def _of_the_c_library(name):
    """A function of the C library, or `None` if it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
