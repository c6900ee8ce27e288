"""Loads the elements of a data set ahead of time, in threads or in worker processes."""

import multiprocessing
import os
import re
import signal
import threading
from functools import cache

import grain

from trn_jax.errors import PassingError
from trn_jax.signals import ignore as ignore_signals

_ELEMENTS_AHEAD = 2


def num_cpus():
    """Number of CPUs that this process may use; on macOS, of all CPUs."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def iterate(elements, *, num_threads=1, num_workers=0):
    """Iterate over the elements of a `grain.MapDataset`, in order.

    Args:
        elements: the data set.
        num_threads: elements that a process loads at a time.
        num_workers: worker processes; 0 loads in threads of this process.

    Returns:
        An iterator with a method `close`, which stops the processes.

    Raises:
        PassingError: in the iteration, if a worker process dies.
    """
    ahead = max(num_threads, _ELEMENTS_AHEAD)
    elements = elements.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    )
    if not num_workers:
        return iter(elements)
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=_ELEMENTS_AHEAD
    )
    return _FromWorkers(iter(elements.mp_prefetch(options, _ignore_signals)))


class _FromWorkers:
    """Explains grain's `RuntimeError` about a worker process that died."""

    def __init__(self, elements):
        self._elements = elements

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._elements)
        except RuntimeError as error:
            code = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if code is None:
                raise
            raise PassingError(
                f"a worker process of the data loader died ({_cause(int(code[1]))}); run the same "
                "command again to resume from the last checkpoint. If it dies again: fewer "
                "data.num_workers need less memory, data.num_workers=0 needs no processes, and "
                "`trn-jax extract` names videos that crash their decoder"
            ) from None

    def close(self):
        self._elements.close()


def _cause(code):
    if code != -getattr(signal, "SIGKILL", 9):  # Windows has none
        return f"exit code {code}"
    return f"exit code {code}: killed, as the system does when memory runs out"


def _ignore_signals(*_):
    """Worker processes ignore Ctrl-C and what job managers send: the trainer needs batches to save.

    Both go to all processes of a group.
    """
    ignore_signals()


@cache
def exit_with_parent(process):
    """Exit a worker process as soon as the trainer exits; a killed one would leave it waiting.

    Args:
        process: the worker's number; the watching thread starts once per process.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch():
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
