"""Work in several processes that survives the death of one of them."""

import multiprocessing
import os
import signal
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

CRASHED = "its decoder crashed"  # the reason of videos that `Died` stands for


class Died:
    """Stands for the result of an item that killed the process which worked on it."""


def num_cpus():
    """How many processors this process may use, where the system tells (macOS does not)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each(function, items, workers, *, worth):
    """Call a function for every item, in several processes if there are at least `worth` items.

    With fewer items, starting processes takes longer than the work. Else as `in_processes`.
    """
    if workers > 1 and len(items) >= worth:
        return in_processes(function, items, workers)
    return ((item, function(item)) for item in items)


def in_processes(function, items, workers):
    """Call a function for every item, in several processes.

    When a process dies, those items are tried again that were being worked on, each in a process of
    its own. So a memory shortage passes, and a file that crashes its decoder is found out.

    Args:
        function: of one item; a top-level function, or a `functools.partial` of one.
        items: what to call it with.
        workers: number of processes.

    Yields:
        `(item, result)` in the order in which they are done; `Died()` as the result of an item
        whose process died twice.

    Raises:
        What the function raises; items that wait are dropped then.
    """
    waiting = deque(items)
    while waiting:
        suspects = yield from _until_a_process_dies(function, waiting, workers)
        for item in suspects:
            alone = deque([item])
            died_again = yield from _until_a_process_dies(function, alone, 1)
            if died_again:
                yield item, Died()


def _until_a_process_dies(function, waiting, workers):
    """Take items from `waiting` and yield results; return those that were under way at a death."""
    context = multiprocessing.get_context("spawn")  # a copy of this process might have locks held
    running: dict[Future, Any] = {}
    pool = ProcessPoolExecutor(min(workers, len(waiting)), context, initializer=_ignore_interrupts)
    try:
        while waiting or running:
            # No more than there are workers, so that the suspects are few.
            while waiting and len(running) < workers:
                running[pool.submit(function, waiting[0])] = waiting[0]
                waiting.popleft()
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield running.pop(future), result
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _ignore_interrupts():
    # Ctrl-C reaches all processes of a terminal; the one that started the others acts on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
