"""Reuses memory, of pixels and of the C library.

The system maps new memory page by page on first write, and zeroes it. For the frames of a clip that
takes a quarter of the time of decoding, in a training step on a CPU a fifth of its time.
"""

import collections
import contextlib
import ctypes
import math
import os
import threading

import numpy as np

# From malloc.h of the GNU C library.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGEST_KEPT = 2**31 - 1  # bytes; mallopt takes an int
_kept = threading.Event()  # `keep` has changed the C library
MAX_SPARE = 16  # unused arrays; more than the batches in flight


class Scratch:
    """Memory for one frame, which the next one overwrites."""

    def __init__(self):
        self._memory = np.empty(0, np.uint8)

    def array(self, *shape):
        """A uint8 array of a shape, in the memory of the one before."""
        size = math.prod(shape)
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(shape)


# Used by many threads; deque operations on one element are atomic.
_spare_scratches: collections.deque[Scratch] = collections.deque()
spare_memory: collections.deque[np.ndarray] = collections.deque(maxlen=MAX_SPARE)


@contextlib.contextmanager
def scratch():
    """Lend a `Scratch` exclusively, in any thread."""
    try:
        lent = _spare_scratches.pop()
    except IndexError:
        lent = Scratch()
    try:
        yield lent
    finally:
        _spare_scratches.append(lent)


def empty(shape):
    """A uint8 array like `numpy.empty`; its memory is reused once no array refers to it."""
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
    """Owner of the memory for NumPy: every view of the array refers to it."""

    def __init__(self, memory):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    # Bound here, as globals are gone at exit.
    def __del__(self, give_back=spare_memory.append):
        give_back(self._memory)


def keep():
    """Let the GNU C library reuse freed memory instead of returning it, in all threads.

    On a CPU, XLA allocates the memory of every training step anew; returning it takes a fifth of
    the step. Blocks above 2 GiB, or an eighth of the machine, are still returned: the larger the
    blocks, the more memory is lost to fragmentation. `keep_all` keeps those, too.

    All threads share one arena. By default there are up to 8 per core, and the short-lived threads
    of evaluations leave unused pieces in each, so a process would grow with every evaluation.

    Call it before threads start. Environment variables take precedence; other C libraries are not
    changed.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_")]
    mallopt = _of_the_c_library("mallopt")
    if mallopt and not chosen and "glibc.malloc" not in os.environ.get("GLIBC_TUNABLES", ""):
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, min(available_bytes() // 8, _LARGEST_KEPT))
        mallopt(_TRIM_THRESHOLD, -1)
        _kept.set()


def keep_all():
    """Let the C library reuse blocks of any size, too, if there is memory for it.

    Fragmentation about doubles the memory that the process has used so far, which must fit into
    half of the machine. Call it after the first steps of a training; without `keep`, as in a
    program of somebody else, it does nothing.
    """
    if _kept.is_set():
        import resource  # not on Windows

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if 2 * used <= available_bytes() / 2:
            _of_the_c_library("mallopt")(_MMAP_MAX, 0)


def available_bytes():
    """Bytes of memory of the machine, or of the container."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Without a limit, the file is missing or says "max".
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        return min(machine, int(file.read()))
    return machine


def give_back():
    """Return free memory to the system, as evaluations fragment it; takes milliseconds."""
    if trim := _of_the_c_library("malloc_trim"):
        trim(0)


def _of_the_c_library(name):
    """A function of the C library, or `None`."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
