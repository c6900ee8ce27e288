"""Stop signals: from a terminal, a job manager or a preempted machine."""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

from trn_jax.errors import INTERRUPTED

# Ctrl-C, the end of a job or a machine, a closed terminal, and the warnings of job managers.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
STOP_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
# Seconds in which the same signal counts once: a terminal sends it to all processes, and the one
# that started this one may pass it on.
_PASSED_ON = 1.0
_interrupted = threading.Event()


def ignore(numbers=STOP_SIGNALS):
    """Ignore signals, in a worker process: its owner decides when it ends."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def exit_at_once(name):
    """End a run that has computed nothing yet."""
    print(f"stopped by {name} during startup", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


class Interrupted(KeyboardInterrupt):
    """A signal to stop other than Ctrl-C; `status` is that of an interrupted command."""

    status = INTERRUPTED


def interrupted_status(error):
    """The exit status after a `KeyboardInterrupt`: 130 after Ctrl-C."""
    return getattr(error, "status", 130)


@contextlib.contextmanager
def interrupting():
    """Let `STOP_SIGNALS` raise `Interrupted`, once, or `KeyboardInterrupt`, in the main thread.

    A signal that was ignored from the start stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Any] = {}

    def interrupt(number, _):
        _interrupted.set()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        for other in handlers.keys() - {signal.SIGINT}:
            signal.signal(other, signal.SIG_IGN)  # what is written now must be complete
        raise Interrupted

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            handlers[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        _interrupted.clear()
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def is_interrupted():
    """Whether a signal came to stop what is done in `interrupting`."""
    return _interrupted.is_set()


class StopSignals:
    """Hands `STOP_SIGNALS` to whoever can act on them; use it in a `with`, in the main thread.

    Python runs signal handlers between two lines of the main thread, so a compilation of minutes
    would delay them. A thread therefore reads signals from a pipe that the interpreter writes to at
    once. A signal that was ignored from the start stays ignored, as `nohup` expects.

    Another Ctrl-C, a second or more after the first signal, raises `KeyboardInterrupt` for those
    who do not want to wait for a save.

    Attributes:
        action: called with the name of a signal, perhaps twice and in any thread. At first, the
            process exits at once with the status `INTERRUPTED`.
    """

    def __init__(self):
        self.action = exit_at_once
        self._first: float | None = None  # when the first signal came
        self._handlers: dict = {}  # as they were before
        self._lock = threading.RLock()

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self  # handlers belong to the main thread
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        if not self._handlers:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._before)
        os.close(self._writer)  # ends the thread

    def _watch(self, reader):
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while numbers := signals.read(16):
                for number in numbers:
                    if number in STOP_SIGNALS:
                        self._act(number)

    def _handle(self, number, _):
        again = self._first is not None and time.monotonic() - self._first > _PASSED_ON
        self._act(number)  # whoever has taken the pipe meanwhile
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt

    def _act(self, number):
        with self._lock:
            self._first = self._first or time.monotonic()
            self.action(signal.Signals(number).name)
