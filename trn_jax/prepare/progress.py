"""How far a long piece of work has come: a bar on a terminal, now and then a line elsewhere."""

import sys
import time

import tqdm

_SECONDS_BETWEEN_LINES = 30


class Progress:
    """Counts what is done of a whole, and shows it on standard error.

    Args:
        what: what is being done, such as "Counting frames".
        total: how much there is to do.
        unit: of `total`, such as "B" or "videos".
    """

    def __init__(self, what, total, unit):
        self._what = what
        self._total = total
        self._done = 0
        self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def add(self, amount=1):
        """Note that `amount` more is done."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() >= self._next_line:
            share = self._done / max(self._total, 1)
            print(f"{self._what}: {share:.0%}", file=sys.stderr, flush=True)
            self._next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
