"""Watches over a training or an evaluation: no step takes for ever, and all hosts end together.

When a host dies, or hangs, the others wait for it inside of a collective operation, from which
nothing calls them back. When one gets a notice that it is to end, it must not end alone. So every
host runs threads beside its training, which tell the others through the register of the JAX runtime
what it is doing.
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

from trn_jax.distributed import hosts
from trn_jax.errors import INTERRUPTED, STUCK, UserError, first_line
from trn_jax.training.signals import STOP_SIGNALS

_TICK = 0.25  # seconds between two looks
_TELL = 2.0  # seconds between two signs of life of a host; less if the limit is short
_SILENCE = 60.0  # seconds without one after which a host is taken for dead
_SHORTEST = 10  # seconds that a limit has at least
_FIRST = 5  # times the limit for what is compiled, such as the first step
_KILLERS = "kill -9, the system when memory runs out, or a crash"
_NUMBERS = itertools.count()  # of the watchdogs of this process, the same on all hosts
# Reads texts, a line each, and prints the last one: its first part, or, if the coordinator does not
# answer, its second.
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
    """A sign of life of another host.

    Attributes:
        number: of the sign; the next one has another.
        count: of what has happened there.
        doing: what it was doing.
        heard: when it was heard, by the clock of the host that heard it.
    """

    number: str
    count: str
    doing: str
    heard: float


class Watchdog:
    """Ends this process when nothing happens any more, and agrees with the other hosts on the end.

    Something happens where `note` or `alive` is called, on whichever host. If nothing did for so
    long, or if another host does not even show signs of life, every host says what it and the
    others are doing and where its threads are, and ends with the status `STUCK`. Time in which this
    process was stopped itself, or the machine slept, does not count. If this process is killed
    before it can say anything, as the runtime of JAX does when host 0 is gone, the last words are
    said by another one.

    A host that fails with a `UserError` tells the others, and they end with its status: started
    again they would wait for it.

    To be used in a `with` statement around a training or an evaluation, on all hosts.

    Args:
        timeout: seconds after which that is so (`train.step_timeout`), five times as many where
            programs are compiled, as before anything was finished; 0: never.
        again: what the same command does when it is run again.

    Attributes:
        again: the same; to be changed when that changes.

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
        self._register = hosts.Register(folder) if self._num_hosts > 1 else None
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
                with contextlib.suppress(hosts.RegisterGone):
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
        """Something happened.

        Args:
            doing: what is done from now on, such as "step 12, waiting for clips".
            compiles: programs for that, before anything of it is finished.
        """
        self._doing = doing
        self._compiles = self._compiles or compiles
        self._count += 1
        self._happened = self._clock

    def alive(self):
        """Something was finished, such as a step; from any thread."""
        self._compiles = False
        self._count += 1
        self._happened = self._clock

    # The end of all hosts

    def stop(self, notice):
        """Ask all hosts to end at the same point, because of `notice`, the name of a signal."""
        self._notice = self._notice or notice

    def exit_at_once(self, notice):
        """Exit because of `notice`, the name of a signal, on all hosts; from any thread.

        For where there is nothing to save.
        """
        text = f"stopped by {notice} during {self._doing}"
        if self._register:
            with contextlib.suppress(hosts.RegisterGone):
                self._register.write(f"failed/{self._host}", f"{INTERRUPTED} {text}")
        self._last_words.close()
        print(f"{text}. {self._again()}", file=sys.stderr, flush=True)
        if self._register and self._host == 0:
            time.sleep(2 * self._tell)  # the register ends with this process
        os._exit(INTERRUPTED)

    def asked(self):
        """Whether a notice has come to any host, as far as this one knows.

        What a host does by itself, it may give up then. What all do together goes on until
        `ends_here` says that it ends.
        """
        return bool(self._notice or self._holds)

    def ends_here(self, *, asked=False):
        """The notice because of which all hosts are to end here, or "".

        To be called on all hosts before whatever they do together, such as a step, and so as often
        on each of them. Costs nothing, but for the moment after a notice in which the hosts tell
        each other what they are bound to take part in.

        Args:
            asked: whether all hosts know that a notice has come to one of them: then they end here.
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
        """After a notice, begin nothing more, tell what was begun, and end after the last of it.

        A thread does this: the loop may be waiting for the results of a step that another host has
        not begun yet, and which that one will begin only when it knows that this host has.
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
        """Tell the others, and listen to them; the register may not answer, but `_watch` sees."""
        told = heard = -2 * _TELL
        while not self._closed.wait(_TICK):
            with contextlib.suppress(hosts.RegisterGone):
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
            with contextlib.suppress(hosts.RegisterGone):
                register.write(f"life/{self._host}", "")  # nobody is to wait for more

    def _listen(self, register):
        for name, text in register.read("failed").items():
            if int(name) != self._host and not self._closed.is_set():
                status, reason = text.split(" ", 1)
                self._last_words.close()
                hosts.fail(f"error: host {name} has failed: {reason}", int(status))
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
        """Whether another host, or the register, has not been heard of for so long."""
        heard = [sign.heard for sign in self._signs.values()]
        if self._register:
            heard.append(self._answered)
        return any(self._clock - when > seconds for when in heard)

    def _end(self, why):
        """Say what is known, and end this process."""
        told = [f"error: {why}", *self._report(), self._again()]
        print("\n".join(told), file=sys.stderr, flush=True)
        self._last_words.close()
        if self._register and self._host == 0:
            # The register ends with this process, and the runtime then ends the other hosts, which
            # have something to say as well.
            time.sleep(2 * self._tell)
        os._exit(STUCK)

    def _report(self):
        """What this host and the others are doing, a line each."""
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
        """A text about each of the other hosts that are not heard of any more."""
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
        """The message if this process is killed; behind a tab, the one if host 0 is gone, too."""
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
    """A process that says something when this one has been killed, and ends with it."""

    def __init__(self):
        self._words = ""
        reader, writer = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAST_WORDS, hosts.coordinator()],
            stdin=reader,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what is sent to the group of this process is not for it
        )
        os.close(reader)
        self._pipe = os.fdopen(writer, "w")

    def change(self, words):
        """Say these words, a line, in place of those before."""
        if words != self._words:
            self._words = words
            with contextlib.suppress(OSError, ValueError):  # it was killed; or is closed
                self._pipe.write(f"{words}\n")
                self._pipe.flush()

    def close(self):
        """Say nothing."""
        self.change("")
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.wait()
