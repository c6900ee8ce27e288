"""Watchdog: exits when a run hangs, and stops all processes at the same step.

When a process dies or hangs, the others block in a collective and can't be interrupted. When one
receives a stop signal, it must not exit alone. Every process therefore runs threads that share its
progress through the key-value store of JAX's runtime.
"""

import contextlib
import dataclasses
import faulthandler
import itertools
import os
import sys
import threading
import time
from functools import partial

import jax

from trn_jax.distributed import processes
from trn_jax.distributed.kill_message import KillMessage
from trn_jax.errors import INTERRUPTED, STUCK, UserError, first_line

TICK = 0.25  # polling interval, seconds
HEARTBEAT = 2.0  # interval, seconds; shorter if the timeout is short
SILENCE = 60.0  # seconds without a heartbeat after which a process counts as dead
SHORTEST = 10  # shortest timeout, seconds
FIRST = 5  # factor on the timeout while programs compile, such as in the first step
_KILLERS = "kill -9, out of memory, or a crash"
_NUMBERS = itertools.count()  # the n-th watchdog has the same number on all processes


@dataclasses.dataclass(frozen=True)
class _Sign:
    """Heartbeat of another process.

    Attributes:
        number: changes with every heartbeat.
        count: progress events so far.
        doing: current activity.
        heard: arrival time on the receiver's clock.
    """

    number: str
    count: str
    doing: str
    heard: float


class Watchdog:
    """Exits when nothing makes progress, and agrees with the other processes on the last step.

    `note` and `alive` report progress, on any process. Without progress for `timeout` seconds, or
    without heartbeats of another process, every process logs what all of them were doing and exits
    with status `STUCK`. Time in which this process was stopped or the machine slept does not count.
    If this process is killed, for example by JAX's runtime when process 0 is gone, a child process
    prints the message in its place.

    A process that fails with a `UserError` reports it to the others, which exit with its status:
    if they were restarted, they would wait for it.

    Use it in a `with` statement around a training or an evaluation, on all processes.

    Args:
        timeout: seconds without progress (`train.step_timeout`), five times as long while programs
            compile; 0 turns it off.
        again: what running the same command again does, for messages.

    Attributes:
        again: the same; assign to it when that changes.
        kill_message: the `KillMessage` of this process.

    Raises:
        UserError: the timeout is too short.
    """

    def __init__(self, timeout, *, again="starts from the beginning"):
        if timeout and timeout < SHORTEST:
            raise UserError(
                f"train.step_timeout={timeout:g}: expected at least {SHORTEST} seconds, or 0 to "
                "wait forever"
            )
        self._timeout = timeout
        self._heartbeat = min(HEARTBEAT, timeout / 10) if timeout else HEARTBEAT
        self._index, self._num_processes = jax.process_index(), jax.process_count()
        folder = f"trn_jax/watchdog/{next(_NUMBERS)}"
        self._store = processes.KeyValueStore(folder) if self._num_processes > 1 else None
        self.again = again
        self._doing = "startup"
        self._count = 0  # progress events of this process
        self._compiles = True  # until its first result
        self._signs: dict[int, _Sign] = {}  # latest heartbeat of each other process
        self._clock = 0.0  # seconds in which this process ran
        self._happened = 0.0  # last progress of any process, by that clock
        self._answered = 0.0  # last answer of the store
        self._changed = threading.Condition()
        self._begun = 0  # collective operations that this process has committed to
        self._notice = ""  # stop signal of this process
        self._holds = False  # begin no further operation until all processes agree
        self._agreed: tuple[int, str] | None = None  # the last operation, and the signal
        self._closed = threading.Event()
        self._well = False  # closed without an error
        self.kill_message = KillMessage(processes.coordinator())
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if self._store:
            talk = partial(self._talk, self._store)
            self._threads.append(threading.Thread(target=talk, name="processes", daemon=True))
        for thread in self._threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, _, error, traceback):
        if self._store and isinstance(error, Exception):
            if isinstance(error, UserError) and isinstance(error.__cause__, OSError | None):
                self._closed.set()
                with contextlib.suppress(processes.StoreGone):
                    self._store.write(f"failed/{self._index}", f"{error.status} {error}")
            else:
                # Perhaps because another process died, which takes some heartbeats to notice.
                time.sleep(5 * self._heartbeat)
                if self._silent(4 * self._heartbeat):
                    self._end(f"this process failed ({first_line(error.__cause__ or error)})")
        self._well = error is None
        self._closed.set()
        for thread in self._threads:
            thread.join(4 * TICK)  # one may wait for a store that is gone
        self.kill_message.close()

    def note(self, doing, *, compiles=False):
        """Report progress and the next activity.

        Args:
            doing: the activity that begins, such as "step 12, waiting for clips".
            compiles: whether it compiles programs before it makes progress.
        """
        self._doing = doing
        self._compiles = self._compiles or compiles
        self._count += 1
        self._happened = self._clock

    def alive(self):
        """Report that something finished, such as a step; from any thread."""
        self._compiles = False
        self._count += 1
        self._happened = self._clock

    # Stopping together

    def stop(self, notice):
        """Request that all processes stop at the same step; `notice` names the signal."""
        self._notice = self._notice or notice

    def exit_at_once(self, notice):
        """Exit on all processes without saving; `notice` names the signal. From any thread."""
        text = f"stopped by {notice} during {self._doing}"
        if self._store:
            with contextlib.suppress(processes.StoreGone):
                self._store.write(f"failed/{self._index}", f"{INTERRUPTED} {text}")
        self.kill_message.close()
        print(f"{text}. {self._again()}", file=sys.stderr, flush=True)
        if self._store and self._index == 0:
            time.sleep(2 * self._heartbeat)  # the store ends with this process
        os._exit(INTERRUPTED)

    def stop_requested(self):
        """Whether a stop was requested on any process, as far as this one knows.

        Work of a single process may stop then. Collective work continues until `stops_here` returns
        a notice.
        """
        return bool(self._notice or self._holds)

    def stops_here(self, *, requested=False):
        """The signal for which all processes stop here, or "".

        Call it on all processes before every collective operation, such as a step, equally often on
        each. It is free until a stop is requested; then the processes exchange the number of
        operations that each has begun.

        Args:
            requested: whether all processes already got the request; then they stop here.
        """
        with self._changed:
            if not self._store:
                return self._notice
            self._holds = self._holds or requested
            while self._holds and self._agreed is None:
                self._changed.wait()
            if self._agreed and self._begun == self._agreed[0]:
                return self._agreed[1]
            self._begun += 1
            return ""

    def _agree(self, store):
        """After a stop request, agree on the last collective operation that any process has begun.

        A thread does this: the loop may be blocked in a step that another process has not begun
        yet, and will begin only when it knows that this one has.
        """
        if self._agreed:
            return
        found = store.read("stop")
        if str(self._index) not in found and (found or self._notice or self._holds):
            with self._changed:
                self._holds = True
                begun = self._begun
            store.write(f"stop/{self._index}", f"{begun} {self._notice}")
            found = store.read("stop")
        if len(found) == self._num_processes:
            counts, notices = zip(*(text.split(" ") for text in found.values()), strict=True)
            with self._changed:
                self._agreed = max(map(int, counts)), max(notices)
                self._changed.notify_all()

    # Heartbeats

    def _talk(self, store):
        """Send and receive heartbeats; `_watch` notices if the store does not answer."""
        sent = heard = -2 * HEARTBEAT
        while not self._closed.wait(TICK):
            with contextlib.suppress(processes.StoreGone):
                self._agree(store)
                if self._clock - sent >= self._heartbeat:
                    sent = self._clock
                    text = f"{sent:.2f} {self._count} {self._doing}"
                    store.write(f"life/{self._index}", text)
                if self._clock - heard >= self._heartbeat:
                    heard = self._clock
                    self._listen(store)
                self._answered = self._clock
        if self._well:
            with contextlib.suppress(processes.StoreGone):
                store.write(f"life/{self._index}", "")  # no more heartbeats will follow

    def _listen(self, store):
        for name, text in store.read("failed").items():
            if int(name) != self._index and not self._closed.is_set():
                status, reason = text.split(" ", 1)
                self.kill_message.close()
                processes.fail(f"error: process {name} has failed: {reason}", int(status))
        for name, text in store.read("life").items():
            process = int(name)
            if process == self._index:
                continue
            if not text:
                self._signs.pop(process, None)
                continue
            number, count, doing = text.split(" ", 2)
            before = self._signs.get(process)
            if before is None or before.count != count:
                self._happened = self._clock
            if before is None or before.number != number:
                self._signs = self._signs | {process: _Sign(number, count, doing, self._clock)}

    def _watch(self):
        # Progress of the others arrives this much later.
        late = 3 * self._heartbeat if self._store else 0.0
        limit = self._timeout - late
        before = time.monotonic()
        while not self._closed.wait(TICK):
            now = time.monotonic()
            self._clock += min(now - before, 4 * TICK)  # more: this process was stopped
            before = now
            self.kill_message.change(self._message_if_killed())
            patience = FIRST * limit if self._compiles else limit
            if self._timeout and self._silent(min(SILENCE, limit)):
                self._end("another process does not respond")
            if self._timeout and self._clock - self._happened > patience:
                limit_text = f"{self._timeout:g} s (train.step_timeout; 0: no limit)"
                # Stacks show where a process hangs; if another one died, they don't.
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                self._end(f"no progress for {limit_text}; the stacks of all threads are above")

    def _silent(self, seconds):
        """Whether another process, or the store, has been silent for `seconds`."""
        heard = [sign.heard for sign in self._signs.values()]
        if self._store:
            heard.append(self._answered)
        return any(self._clock - when > seconds for when in heard)

    def _end(self, why):
        """Log the state of all processes and exit."""
        lines = [f"error: {why}", *self._report(), self._again()]
        print("\n".join(lines), file=sys.stderr, flush=True)
        self.kill_message.close()
        if self._store and self._index == 0:
            # The store ends with this process, and the runtime then aborts the others, which need
            # time for their own message.
            time.sleep(2 * self._heartbeat)
        os._exit(STUCK)

    def _report(self):
        """The current activity of every process, a line each."""
        if not self._store:
            return [f"in {self._doing}, for {self._clock - self._happened:.0f} s"]
        alive = [
            f"process {process} is in {sign.doing}"
            for process, sign in sorted(self._signs.items())
            if not self._is_silent(sign.heard)
        ]
        if self._is_silent(self._answered):
            alive = []  # their heartbeats come through process 0
        return [*self._silent_processes(), f"process {self._index} is in {self._doing}", *alive]

    def _silent_processes(self):
        """A line about each process that has gone silent."""
        cause = "killed, stopped, or the network failed"
        if self._is_silent(self._answered):
            return [f"process 0, which relays all heartbeats, doesn't answer ({cause})"]
        return [
            f"process {process} has sent no heartbeat since {sign.doing} ({cause})"
            for process, sign in sorted(self._signs.items())
            if self._is_silent(sign.heard)
        ]

    def _is_silent(self, heard):
        return self._clock - heard > 4 * self._heartbeat

    def _again(self):
        where = " on all processes" if self._store else ""
        return f"The same command{where} {self.again}"

    def _message_if_killed(self):
        """The message if this process is killed; after a tab, the one if process 0 is gone, too."""
        if not self._store:
            return f"killed during {self._doing} ({_KILLERS}). {self._again()}"
        # JAX's runtime aborts a process that loses another one.
        silent = "; ".join(self._silent_processes())
        reasons = [silent or f"killed ({_KILLERS})"]
        if self._index:
            reasons.append("process 0 has died")
        ended = f"process {self._index} ended during {self._doing}"
        return "\t".join(f"{ended}: {reason}. {self._again()}" for reason in reasons)
