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
import subprocess
import sys
import threading
import time
from functools import partial

import jax

from trn_jax.distributed import processes
from trn_jax.errors import INTERRUPTED, STUCK, UserError, first_line
from trn_jax.training.signals import STOP_SIGNALS

_TICK = 0.25  # polling interval, seconds
_TELL = 2.0  # heartbeat interval, seconds; shorter if the timeout is short
_SILENCE = 60.0  # seconds without a heartbeat after which a process counts as dead
_SHORTEST = 10  # shortest timeout, seconds
_FIRST = 5  # factor on the timeout while programs compile, such as in the first step
_KILLERS = "kill -9, the system when memory runs out, or a crash"
_NUMBERS = itertools.count()  # watchdogs of a process are numbered alike on all processes
# Reads messages, one per line, and prints the last one: its first part, or its second if the
# coordinator does not answer.
_LAST_WORDS = f"""
import signal, socket, sys
for number in {[int(number) for number in STOP_SIGNALS]}:
    signal.signal(number, signal.SIG_IGN)  # it ends with the other process
words = ""
for words in sys.stdin:
    pass
killed, _, deserted = words.strip().partition("\\t")
host, _, port = sys.argv[1].rpartition(":")
if deserted and port:
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError:
        killed = deserted
if killed:
    sys.stderr.write(killed + "\\n")
"""


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

    Raises:
        UserError: the timeout is too short.
    """

    def __init__(self, timeout, *, again="starts from the beginning"):
        if timeout and timeout < _SHORTEST:
            raise UserError(
                f"train.step_timeout={timeout:g}: expected at least {_SHORTEST} seconds, or 0 to "
                "wait for ever"
            )
        self._timeout = timeout
        self._tell = min(_TELL, timeout / 10) if timeout else _TELL
        self._host, self._num_hosts = jax.process_index(), jax.process_count()
        folder = f"trn_jax/watchdog/{next(_NUMBERS)}"
        self._register = processes.KeyValueStore(folder) if self._num_hosts > 1 else None
        self.again = again
        self._doing = "startup"
        self._count = 0  # of what happened here
        self._compiles = True  # until something is finished here
        self._signs: dict[int, _Sign] = {}  # of the other hosts, the latest of each
        self._clock = 0.0  # seconds in which this process ran
        self._happened = 0.0  # when something happened anywhere, by that clock
        self._answered = 0.0  # when the register did
        self._changed = threading.Condition()
        self._begun = 0  # number of things done together that this host is bound to take part in
        self._notice = ""  # that came to this host
        self._holds = False  # nothing further is begun until all hosts have agreed
        self._agreed: tuple[int, str] | None = None  # the last of these things, and the notice
        self._closed = threading.Event()
        self._well = False  # whether it was closed without an error
        self._last_words = _LastWords()
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if self._register:
            talk = partial(self._talk, self._register)
            self._threads.append(threading.Thread(target=talk, name="hosts", daemon=True))
        for thread in self._threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, _, error, traceback):
        if self._register and isinstance(error, Exception):
            if isinstance(error, UserError) and isinstance(error.__cause__, OSError | None):
                self._closed.set()
                with contextlib.suppress(processes.StoreGone):
                    self._register.write(f"failed/{self._host}", f"{error.status} {error}")
            else:
                # It may have failed because another host is gone. That shows only later.
                time.sleep(5 * self._tell)
                if self._silent(4 * self._tell):
                    self._end(f"this host failed ({first_line(error.__cause__ or error)})")
        self._well = error is None
        self._closed.set()
        for thread in self._threads:
            thread.join(4 * _TICK)  # one may be waiting for a register that is gone
        self._last_words.close()

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

    # The end of all hosts

    def stop(self, notice):
        """Request that all processes stop at the same step; `notice` names the signal."""
        self._notice = self._notice or notice

    def exit_at_once(self, notice):
        """Exit on all processes without saving; `notice` names the signal. From any thread."""
        text = f"stopped by {notice} during {self._doing}"
        if self._register:
            with contextlib.suppress(processes.StoreGone):
                self._register.write(f"failed/{self._host}", f"{INTERRUPTED} {text}")
        self._last_words.close()
        print(f"{text}. {self._again()}", file=sys.stderr, flush=True)
        if self._register and self._host == 0:
            time.sleep(2 * self._tell)  # the register ends with this process
        os._exit(INTERRUPTED)

    def asked(self):
        """Whether a stop was requested on any process, as far as this one knows.

        Work of a single process may stop then. Collective work continues until `ends_here` returns
        a notice.
        """
        return bool(self._notice or self._holds)

    def ends_here(self, *, asked=False):
        """The signal for which all processes stop here, or "".

        Call it on all processes before every collective operation, such as a step, equally often on
        each. It is free until a stop is requested; then the processes exchange the number of
        operations that each has begun.

        Args:
            asked: whether all processes already know of the request; then they stop here.
        """
        with self._changed:
            if not self._register:
                return self._notice
            self._holds = self._holds or asked
            while self._holds and self._agreed is None:
                self._changed.wait()
            if self._agreed and self._begun == self._agreed[0]:
                return self._agreed[1]
            self._begun += 1
            return ""

    def _agree(self, register):
        """After a stop request, agree on the last collective operation that any process has begun.

        A thread does this: the loop may be blocked in a step that another process has not begun
        yet, and will begin only when it knows that this one has.
        """
        if self._agreed:
            return
        said = register.read("stop")
        if str(self._host) not in said and (said or self._notice or self._holds):
            with self._changed:
                self._holds = True
                begun = self._begun
            register.write(f"stop/{self._host}", f"{begun} {self._notice}")
            said = register.read("stop")
        if len(said) == self._num_hosts:
            counts, notices = zip(*(text.split(" ") for text in said.values()), strict=True)
            with self._changed:
                self._agreed = max(map(int, counts)), max(notices)
                self._changed.notify_all()

    # Signs of life

    def _talk(self, register):
        """Send and receive heartbeats; `_watch` notices if the store does not answer."""
        told = heard = -2 * _TELL
        while not self._closed.wait(_TICK):
            with contextlib.suppress(processes.StoreGone):
                self._agree(register)
                if self._clock - told >= self._tell:
                    told = self._clock
                    text = f"{told:.2f} {self._count} {self._doing}"
                    register.write(f"life/{self._host}", text)
                if self._clock - heard >= self._tell:
                    heard = self._clock
                    self._listen(register)
                self._answered = self._clock
        if self._well:
            with contextlib.suppress(processes.StoreGone):
                register.write(f"life/{self._host}", "")  # nobody is to wait for more

    def _listen(self, register):
        for name, text in register.read("failed").items():
            if int(name) != self._host and not self._closed.is_set():
                status, reason = text.split(" ", 1)
                self._last_words.close()
                processes.fail(f"error: host {name} has failed: {reason}", int(status))
        for name, text in register.read("life").items():
            host = int(name)
            if host == self._host:
                continue
            if not text:
                self._signs.pop(host, None)
                continue
            number, count, doing = text.split(" ", 2)
            before = self._signs.get(host)
            if before is None or before.count != count:
                self._happened = self._clock
            if before is None or before.number != number:
                self._signs = self._signs | {host: _Sign(number, count, doing, self._clock)}

    def _watch(self):
        # What happens on the others is known so much later.
        late = 3 * self._tell if self._register else 0.0
        limit = self._timeout - late
        before = time.monotonic()
        while not self._closed.wait(_TICK):
            now = time.monotonic()
            self._clock += min(now - before, 4 * _TICK)  # if it was more, this process was stopped
            before = now
            self._last_words.change(self._farewell())
            patience = _FIRST * limit if self._compiles else limit
            if self._timeout and self._silent(min(_SILENCE, limit)):
                self._end("another host does not respond")
            if self._timeout and self._clock - self._happened > patience:
                limit_text = f"{self._timeout:g} s (train.step_timeout; 0: none)"
                # Where a process hangs is what its threads show; where one has died, they do not.
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                self._end(f"nothing happened for {limit_text}. Above is where the threads are")

    def _silent(self, seconds):
        """Whether another process, or the store, has been silent for `seconds`."""
        heard = [sign.heard for sign in self._signs.values()]
        if self._register:
            heard.append(self._answered)
        return any(self._clock - when > seconds for when in heard)

    def _end(self, why):
        """Log the state of all processes and exit."""
        told = [f"error: {why}", *self._report(), self._again()]
        print("\n".join(told), file=sys.stderr, flush=True)
        self._last_words.close()
        if self._register and self._host == 0:
            # The register ends with this process, and the runtime then ends the other hosts, which
            # have something to say as well.
            time.sleep(2 * self._tell)
        os._exit(STUCK)

    def _report(self):
        """The current activity of every process, a line each."""
        if not self._register:
            return [f"in {self._doing}, for {self._clock - self._happened:.0f} s"]
        alive = [
            f"host {host} is in {sign.doing}"
            for host, sign in sorted(self._signs.items())
            if not self._is_silent(sign.heard)
        ]
        if self._is_silent(self._answered):
            alive = []  # they are heard of through host 0
        return [*self._silent_hosts(), f"host {self._host} is in {self._doing}", *alive]

    def _silent_hosts(self):
        """A line about each process that has gone silent."""
        ended = "it was killed or stopped, or the network has failed"
        if self._is_silent(self._answered):
            return [f"host 0, through which the others are heard of, does not answer: {ended}"]
        return [
            f"host {host} has not been heard of since it was in {sign.doing}: {ended}"
            for host, sign in sorted(self._signs.items())
            if self._is_silent(sign.heard)
        ]

    def _is_silent(self, heard):
        return self._clock - heard > 4 * self._tell

    def _again(self):
        where = " on all hosts" if self._register else ""
        return f"The same command{where} {self.again}"

    def _farewell(self):
        """The message if this process is killed; after a tab, the one if process 0 is gone, too."""
        if not self._register:
            return f"killed during {self._doing} ({_KILLERS}). {self._again()}"
        # The runtime of JAX ends a process that misses another one.
        silent = self._silent_hosts()
        ended = f"ended during {self._doing}"
        if silent:
            texts = [f"host {self._host} {ended}: {'; '.join(silent)}. {self._again()}"]
        else:
            texts = [
                f"host {self._host} was killed during {self._doing} ({_KILLERS}). {self._again()}"
            ]
        if self._host:
            texts.append(f"host {self._host} {ended}, because host 0 has died. {self._again()}")
        return "\t".join(texts)


class _LastWords:
    """A child process that prints a message if this process is killed."""

    def __init__(self):
        self._words = ""
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAST_WORDS, processes.coordinator()],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what is sent to the group of this process is not for it
        )
        os.close(reader)
        self._pipe = os.fdopen(writer, "w")

    def change(self, words):
        """Replace the message, one line."""
        if words != self._words:
            self._words = words
            with contextlib.suppress(OSError, ValueError):  # it was killed; or is closed
                self._pipe.write(f"{words}\n")
                self._pipe.flush()

    def close(self):
        """Discard the message and end the child process."""
        self.change("")
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
