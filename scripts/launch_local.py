r"""Run a command as several hosts on this machine: processes with virtual CPU devices.

    python scripts/launch_local.py --hosts=2 --devices-per-host=4 -- \
        python -m trn_jax.main --config=configs/trn_synthetic.py --workdir=runs/two_hosts

Every process is told its place by the environment (TRN_JAX_COORDINATOR, TRN_JAX_NUM_HOSTS and
TRN_JAX_HOST) and runs in a process group of its own. Its lines come with its number before them.
SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 are passed on to all processes. When one fails, the
others have --grace seconds to end by themselves, and as many after SIGTERM. None is left behind,
however this command ends.

With --restarts=N all are started again, up to N times, after a failure or an interruption of one of
them (status 75); not after status 2, an error that would come again, and not once this command has
been asked to stop.

The exit status is 0 if all end well; else 2 if that is among theirs, or that of the first to fail,
128 + the number of the signal if one killed it.
"""

import argparse
import contextlib
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

USER_ERROR = 2
_TICK = 0.05  # seconds between looks at the processes
_STOP_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def main(arguments=None):
    """Entry point; returns the exit status."""
    chosen = _parse(arguments)
    guard = _Guard()
    asked = _Signals()
    for attempt in range(chosen.restarts + 1):
        status = _run(chosen, guard, asked)
        if status in (0, USER_ERROR) or asked.received:
            break
        if attempt < chosen.restarts:
            _say(f"exit status {status}; start {attempt + 2} of at most {chosen.restarts + 1}")
    return status


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=_positive, default=2, help="processes; default 2")
    parser.add_argument(
        "--devices-per-host", type=_positive, default=1, help="virtual CPU devices; default 1"
    )
    parser.add_argument("--restarts", type=int, default=0, help="after a failure; default 0")
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds for the others after one has failed"
    )
    parser.add_argument("command", nargs="+", help="behind --, such as -- python -m trn_jax.main")
    return parser.parse_args(arguments)


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _say(text):
    print(f"launch_local: {text}", file=sys.stderr, flush=True)


def _run(chosen, guard, asked):
    """Run all processes once; returns the exit status of the whole."""
    hosts = []
    coordinator = f"127.0.0.1:{_free_port()}"
    try:
        for number in range(chosen.hosts):
            environment = _environment(chosen, coordinator, number)
            hosts.append(_Host(number, chosen.command, environment, guard))
            asked.send_to(hosts[-1].process)
        failed = _wait(hosts, chosen.grace)
    except OSError as error:
        _say(f"error: cannot start {chosen.command[0]}: {error.strerror}; correct what follows --")
        return USER_ERROR
    finally:
        for host in hosts:
            host.end()
    return USER_ERROR if USER_ERROR in failed else next(iter(failed), 0)


def _wait(hosts, grace):
    """Wait for all processes, not long once one has failed; returns the statuses of failures."""
    failed: list[int] = []
    deadline = math.inf
    asked = False
    running = list(hosts)
    while running:
        for host in [host for host in running if host.process.poll() is not None]:
            running.remove(host)
            status = host.status()
            if status:
                failed.append(status)
                if deadline == math.inf:
                    deadline = time.monotonic() + grace
                _say(f"host {host.number} ended with exit status {status}")
        if running and time.monotonic() > deadline:
            if asked:
                break  # what is left is killed by `_Host.end`
            for host in running:
                _say(f"host {host.number} is still there, and is asked to end")
                host.process.terminate()
            asked, deadline = True, time.monotonic() + grace
        time.sleep(_TICK)
    return failed


def _free_port():
    """A port for the coordinator, which is going to open it in some seconds.

    By then the system may give away those that it finds for connections by itself, which are above
    these.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("", port))
            return port
    raise SystemExit("launch_local: error: no port between 20000 and 32000 is free")


def _environment(chosen, coordinator, number):
    """What a process finds in its environment; other settings of XLA remain."""
    count = "--xla_force_host_platform_device_count"
    flags = re.sub(rf"{count}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "TRN_JAX_COORDINATOR": coordinator,
        "TRN_JAX_HOST": str(number),
        "TRN_JAX_NUM_HOSTS": str(chosen.hosts),
        "XLA_FLAGS": f"{flags} {count}={chosen.devices_per_host}".strip(),
    }


class _Host:
    """One process, the leader of a process group, and what it prints.

    Args:
        number: of the host.
        command: a list of words.
        environment: of the process.
        guard: the `_Guard` that is to know of it.
    """

    _one_line = threading.Lock()

    def __init__(self, number, command, environment, guard):
        self.number = number
        self._guard = guard
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        guard.tell(f"+{self.process.pid}")
        pairs = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self._copies = [
            threading.Thread(target=self._copy, args=pair, daemon=True) for pair in pairs
        ]
        for copy in self._copies:
            copy.start()

    def _copy(self, lines, target):
        for line in lines:
            with self._one_line, contextlib.suppress(BrokenPipeError):
                target.write(f"[{self.number}] {line.decode(errors='replace').rstrip()}\n")
                target.flush()

    def status(self):
        """The exit status as a shell has it."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def end(self):
        """Kill what is left of the process group, and print what is left to print."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._guard.tell(f"-{self.process.pid}")
        for copy in self._copies:
            copy.join()


class _Signals:
    """Passes on the signals that ask a run to stop, unless they were ignored from the start.

    Attributes:
        received: the number of the last one, or 0.
    """

    def __init__(self):
        self.received = 0
        self._processes: list[subprocess.Popen] = []
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)

    def send_to(self, process):
        """Let a process have them, too, also the one that came before it began."""
        if self.received:
            process.send_signal(self.received)
        self._processes.append(process)

    def _pass_on(self, number, _):
        self.received = number
        for process in self._processes:
            process.send_signal(number)  # none where it has ended


class _Guard:
    """A process that kills the process groups it was told of when this process is gone.

    It reads from a pipe, which ends with this process, even if that is killed.
    """

    def __init__(self):
        reader, self._writer = os.pipe()
        if os.fork() == 0:
            try:
                os.setsid()  # signals from the terminal are for the others
                os.close(self._writer)
                self._guard(reader)
            finally:
                os._exit(0)
        os.close(reader)

    def tell(self, text):
        """Tell of a process group that has begun, `"+<id>"`, or ended, `"-<id>"`."""
        os.write(self._writer, f"{text}\n".encode())

    @staticmethod
    def _guard(reader):
        groups: set[int] = set()
        with os.fdopen(reader) as lines:
            for line in lines:
                (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
