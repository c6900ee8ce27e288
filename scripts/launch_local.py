r"""Run a command in several processes on this machine, each with virtual CPU devices.

    python scripts/launch_local.py --processes=2 --devices-per-process=4 -- \
        python -m trn_jax.main --config=configs/trn_synthetic.py --workdir=runs/two_processes

Each process gets its coordinator, number of processes and index from the environment
(TRN_JAX_COORDINATOR, TRN_JAX_NUM_PROCESSES, TRN_JAX_PROCESS_ID) and runs in its own process group.
Its index precedes each of its output lines. SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 are
forwarded to all processes. If one fails, the others have --grace seconds to exit, then get SIGTERM,
and as many later SIGKILL. No process is left behind, even if this script is killed.

--restarts=N starts all of them again, up to N times, after a failure or an interruption (status
75), but not after status 2, an error that would recur, and not once this script got a signal.

The exit status is 0 if all processes succeed, 2 if any exits with 2, else that of the first failure
(128 + the signal if one killed it).
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
_POLL_INTERVAL = 0.05  # seconds
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
    signals = _Signals()
    for attempt in range(chosen.restarts + 1):
        status = _run(chosen, guard, signals)
        if status in (0, USER_ERROR) or signals.received:
            break
        if attempt < chosen.restarts:
            _log(f"exit status {status}; start {attempt + 2} of at most {chosen.restarts + 1}")
    return status


def _parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # The second names are those of earlier versions.
    parser.add_argument(
        "--processes", "--hosts", type=_positive, default=2, help="number of processes; default 2"
    )
    parser.add_argument(
        "--devices-per-process",
        "--devices-per-host",
        type=_positive,
        default=1,
        help="virtual CPU devices of each; default 1",
    )
    parser.add_argument("--restarts", type=int, default=0, help="after a failure; default 0")
    parser.add_argument(
        "--grace", type=float, default=10.0, help="seconds to exit after one fails; default 10"
    )
    parser.add_argument("command", nargs="+", help="after --, such as -- python -m trn_jax.main")
    return parser.parse_args(arguments)


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _log(text):
    print(f"launch_local: {text}", file=sys.stderr, flush=True)


def _run(chosen, guard, signals):
    """Run all processes once; returns the exit status of the run."""
    processes = []
    coordinator = f"127.0.0.1:{_free_port()}"
    try:
        for index in range(chosen.processes):
            environment = _environment(chosen, coordinator, index)
            processes.append(_Process(index, chosen.command, environment, guard))
            signals.forward_to(processes[-1].popen)
        failed = _wait(processes, chosen.grace)
    except OSError as error:
        _log(f"error: cannot start {chosen.command[0]}: {error.strerror}; correct what follows --")
        return USER_ERROR
    finally:
        for process in processes:
            process.end()
    return USER_ERROR if USER_ERROR in failed else next(iter(failed), 0)


def _wait(processes, grace):
    """Wait for all processes, after a failure no longer than `grace`; returns failure statuses."""
    failed: list[int] = []
    deadline = math.inf
    terminated = False
    running = list(processes)
    while running:
        for process in [process for process in running if process.popen.poll() is not None]:
            running.remove(process)
            status = process.status()
            if status:
                failed.append(status)
                if deadline == math.inf:
                    deadline = time.monotonic() + grace
                _log(f"process {process.index} exited with status {status}")
        if running and time.monotonic() > deadline:
            if terminated:
                break  # `_Process.end` kills the rest
            for process in running:
                _log(f"process {process.index} is still running; sending SIGTERM")
                process.popen.terminate()
            terminated, deadline = True, time.monotonic() + grace
        time.sleep(_POLL_INTERVAL)
    return failed


def _free_port():
    """A free port for the coordinator, which opens it some seconds later.

    Below the range from which the system assigns ports itself, so that none takes it meanwhile.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("", port))
            return port
    raise SystemExit("launch_local: error: no free port between 20000 and 32000")


def _environment(chosen, coordinator, index):
    """Environment of a process; keeps other flags of XLA."""
    count = "--xla_force_host_platform_device_count"
    flags = re.sub(rf"{count}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "TRN_JAX_COORDINATOR": coordinator,
        "TRN_JAX_PROCESS_ID": str(index),
        "TRN_JAX_NUM_PROCESSES": str(chosen.processes),
        "XLA_FLAGS": f"{flags} {count}={chosen.devices_per_process}".strip(),
    }


class _Process:
    """A process that leads its own process group, and the threads that copy its output.

    Args:
        index: of the process, from 0.
        command: a list of words.
        environment: of the process.
        guard: the `_Guard` to register it with.
    """

    _one_line = threading.Lock()

    def __init__(self, index, command, environment, guard):
        self.index = index
        self._guard = guard
        self.popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        guard.send(f"+{self.popen.pid}")
        pairs = ((self.popen.stdout, sys.stdout), (self.popen.stderr, sys.stderr))
        self._copies = [
            threading.Thread(target=self._copy, args=pair, daemon=True) for pair in pairs
        ]
        for copy in self._copies:
            copy.start()

    def _copy(self, lines, target):
        for line in lines:
            with self._one_line, contextlib.suppress(BrokenPipeError):
                target.write(f"[{self.index}] {line.decode(errors='replace').rstrip()}\n")
                target.flush()

    def status(self):
        """The exit status as a shell reports it."""
        code = self.popen.returncode
        return code if code >= 0 else 128 - code

    def end(self):
        """Kill the rest of the process group, and flush its output."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._guard.send(f"-{self.popen.pid}")
        for copy in self._copies:
            copy.join()


class _Signals:
    """Forwards the signals that stop a run, except those that were ignored from the start.

    Attributes:
        received: number of the last signal, or 0.
    """

    def __init__(self):
        self.received = 0
        self._processes: list[subprocess.Popen] = []
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._forward)

    def forward_to(self, process):
        """Forward signals to this process, too, including one received before it started."""
        if self.received:
            process.send_signal(self.received)
        self._processes.append(process)

    def _forward(self, number, _):
        self.received = number
        for process in self._processes:
            process.send_signal(number)  # a no-op once it has ended


class _Guard:
    """A process that kills the registered process groups when this process is gone.

    It reads from a pipe, which closes with this process, even if that is killed.
    """

    def __init__(self):
        reader, self._writer = os.pipe()
        if os.fork() == 0:
            try:
                os.setsid()  # not to get the signals of the terminal
                os.close(self._writer)
                self._guard(reader)
            finally:
                os._exit(0)
        os.close(reader)

    def send(self, text):
        """Register a process group, `"+<id>"`, or remove it, `"-<id>"`."""
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
