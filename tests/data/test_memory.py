"""Memory is reused, but never while an array refers to it."""

import gc
import os
import platform
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from trn_jax.data import memory


@pytest.fixture(autouse=True)
def nothing_spare():
    gc.collect()
    memory.spare_memory.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_nobody_refers_to_it():
    array = memory.empty((3, 4, 5))
    assert (array.shape, array.dtype) == ((3, 4, 5), np.uint8)
    place = address(array)
    view = array[1:, ::2].transpose(2, 0, 1)
    del array
    assert address(memory.empty((60,))) != place  # the view refers to it
    del view
    assert {address(memory.empty((6, 10))) for _ in range(3)} & {place}


def test_memory_is_not_used_for_arrays_of_other_sizes():
    place = address(memory.empty((100,)))
    assert len(memory.spare_memory) == 1
    for size in (101, 49):
        kept = memory.empty((size,))
        assert address(kept) != place
    del kept
    assert address(memory.empty((50,))) == place


def test_only_so_much_is_kept():
    arrays = [memory.empty((1000,)) for _ in range(memory.MAX_SPARE + 5)]
    del arrays
    assert len(memory.spare_memory) == memory.MAX_SPARE


def test_arrays_on_the_device_keep_the_memory():
    on_device = []
    for value in range(20):
        array = memory.empty((256, 1024))
        array[:] = value
        on_device.append(jax.device_put(array))
        del array
    for value, array in enumerate(on_device):
        assert np.asarray(array).min() == np.asarray(array).max() == value


def test_threads_never_share_memory():
    together = threading.Barrier(4)

    def work(value):
        together.wait()
        for turn in range(300):
            array = memory.empty((50 + turn % 7,))
            array[:] = value
            with memory.scratch() as scratch:
                frame = scratch.array(4, 5, 3)
                frame[:] = value
                assert (array == value).all() and (frame == value).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_scratches_grow_and_are_the_same_memory():
    with memory.scratch() as scratch:
        large = scratch.array(10, 10, 3)
        small = scratch.array(2, 2, 3)
        assert small.shape == (2, 2, 3) and np.shares_memory(large, small)
        with memory.scratch() as other:
            assert not np.shares_memory(other.array(2, 2, 3), small)


def test_programs_end_quietly_with_arrays_in_use():
    program = "from trn_jax.data import memory; import sys; sys.kept = memory.empty((100,))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ
    )
    assert (ended.returncode, ended.stderr) == (0, "")


_ALLOCATE = """
import ctypes, sys, threading
from trn_jax.data import memory
if sys.argv[1:]: memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
barrier = threading.Barrier(4)
def allocate():
    found.append(libc.malloc(5000))
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
@pytest.mark.parametrize(
    ("arguments", "chosen", "shared"),
    [
        ([], {}, False),
        (["keep"], {}, True),
        (["keep"], {"MALLOC_ARENA_TEST": "8"}, False),
        (["keep"], {"GLIBC_TUNABLES": "glibc.malloc.arena_test=8"}, False),
    ],
)
def test_threads_share_one_arena_unless_the_environment_says_how(arguments, chosen, shared):
    free = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", _ALLOCATE, *arguments],
        capture_output=True,
        text=True,
        env=free | chosen,
        check=True,
    )
    # The arenas of threads lie in regions of 64 MiB each.
    addresses = [int(address) for address in ended.stdout.split()]
    assert (max(addresses) - min(addresses) < 2**25) == shared, ended.stdout


_FREE = """
import ctypes, resource, sys
from trn_jax.data import memory
if sys.argv[1:]: memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(100_000_000))
    ctypes.memset(block, 1, 100_000_000)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
@pytest.mark.parametrize(("arguments", "kept"), [([], False), (["keep"], True)])
def test_large_blocks_are_used_again_and_not_got_anew_from_the_system(arguments, kept):
    free = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    ended = subprocess.run(
        [sys.executable, "-c", _FREE, *arguments],
        capture_output=True,
        text=True,
        env=free,
        check=True,
    )
    pages = 100_000_000 / os.sysconf("SC_PAGE_SIZE")
    assert (int(ended.stdout) < pages / 100) == kept, ended.stdout


_FREE_LARGE = """
import ctypes, sys
from trn_jax.data import memory
if "not kept" not in sys.argv: memory.keep()
ctypes.CDLL(None).mallopt(-3, 50_000_000)  # the threshold of mmap, instead of 2 GiB
if "small machine" in sys.argv: memory.available_bytes = lambda: 100_000_000
memory.keep_all()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")
@pytest.mark.parametrize("machine", ["machine", "small machine", "not kept"])
def test_larger_blocks_are_used_again_where_they_fit_twice(machine):
    free = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    program = _FREE_LARGE + _FREE.replace("if sys.argv[1:]: memory.keep()", "")
    ended = subprocess.run(
        [sys.executable, "-c", program, machine],
        capture_output=True,
        text=True,
        env=free,
        check=True,
    )
    pages = 100_000_000 / os.sysconf("SC_PAGE_SIZE")
    assert (int(ended.stdout) < pages / 100) == (machine == "machine"), ended.stdout


@pytest.mark.parametrize(("found", "available"), [(None, 800), ("max\n", 800), ("300\n", 300)])
def test_a_container_may_have_less_memory_than_the_machine(monkeypatch, tmp_path, found, available):
    if found is not None:
        (tmp_path / "memory.max").write_text(found)

    def redirected(path, *arguments):
        assert path == "/sys/fs/cgroup/memory.max"
        return open(tmp_path / "memory.max", *arguments)

    monkeypatch.setattr(memory, "open", redirected, raising=False)
    sizes = {"SC_PHYS_PAGES": 8, "SC_PAGE_SIZE": 100}
    monkeypatch.setattr(memory.os, "sysconf", sizes.get, raising=False)
    assert memory.available_bytes() == available


def test_memory_is_given_back_where_that_can_be_done(monkeypatch):
    given_back = []
    library = types.SimpleNamespace(malloc_trim=given_back.append)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    memory.give_back()
    assert given_back == [0]
    del library.malloc_trim  # of another C library
    memory.give_back()
    memory.keep()
    assert given_back == [0]
