"""Progress of long work: a bar on a terminal, occasional lines elsewhere."""

import sys
import time

import tqdm

SECONDS_BETWEEN_LINES = 30


class Progress:
    """Shows progress and the remaining time on standard error.

    Args:
        what: the work, such as "Counting frames".
        total: number of units.
        unit: such as "B" or "videos".
        shown: whether to show anything, such as on process 0 only.
    """

    def __init__(self, what, total, unit, *, shown=True):
        self._what = what
        self._total = total
        self._unit = unit
        self._shown = shown
        self._done = 0
        self._start = time.monotonic()
        self._next_line = self._start + SECONDS_BETWEEN_LINES
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm.tqdm(total=total, desc=what, unit=unit, unit_scale=unit == "B")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def add(self, amount=1, detail=""):
        """Advance by a number of units; `detail` is shown besides, such as the accuracy so far."""
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(amount)
        elif self._shown and time.monotonic() >= self._next_line:
            print(self._line(detail), file=sys.stderr, flush=True)
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def _line(self, detail):
        rate = self._done / (time.monotonic() - self._start)
        minutes, seconds = divmod(round((self._total - self._done) / max(rate, 1e-9)), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        share = f"{self._done / max(self._total, 1):.0%}"
        if self._unit == "B":
            return f"{self._what}: {share}, {rate / 1e6:.1f} MB/s, {left}"
        counts = f"{self._done:,} of {self._total:,} {self._unit}"
        extra = f", {detail}" if detail else ""
        return f"{self._what}: {counts} ({share}){extra}, {rate:.1f} {self._unit}/s, {left}"
