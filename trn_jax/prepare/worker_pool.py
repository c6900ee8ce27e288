"""Parallel work that survives crashes of worker processes."""

import multiprocessing
import signal
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

CRASHED = "its decoder crashed"  # why a video with the result `Died` is unreadable
MIN_PARALLEL_VIDEOS = 200  # with fewer videos, starting processes takes longer than opening them


class Died:
    """Result of an item whose worker process died."""


def for_each(function, items, workers, *, min_items=None):
    """Call a function for every item, as `in_processes`, or in this process if items are few.

    `min_items` are enough for several processes; by default `MIN_PARALLEL_VIDEOS`.
    """
    if workers > 1 and len(items) >= (min_items or MIN_PARALLEL_VIDEOS):
        return in_processes(function, items, workers)
    return ((item, function(item)) for item in items)


def in_processes(function, items, workers):
    """Call a function for every item, in several processes.

    When a process dies, the items in progress are retried, each in a process of its own. So a
    shortage of memory passes, and a file that crashes its decoder is identified.

    The function is a top-level one, or a `functools.partial` of one. What it raises ends the work.

    Yields:
        `(item, result)` in order of completion; the result is `Died()` if the process died twice.
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
    """Take items from `waiting` and yield results; return those in progress when a process dies."""
    context = multiprocessing.get_context("spawn")  # a fork might inherit held locks
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
    # Ctrl-C reaches all processes of a terminal; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
