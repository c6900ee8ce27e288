#!/usr/bin/env python3
"""Run a command on this machine, and again after each failure.

    scripts/launch/again.py python -m trn_jax.main --config=... --workdir=...

Start it on every machine of a multi-process run. When one process dies, the others exit by
themselves (train.step_timeout); all start again, wait for each other (--initialization_timeout) and
resume from the last checkpoint. It stops after status 0, after status 2 (an error that would
recur), and once it has received SIGTERM, SIGINT, SIGHUP, SIGUSR1 or SIGUSR2, which it forwards.
RESTARTS (10) limits the number of restarts, PAUSE (5) is the delay before each in seconds.

The exit status is that of the last run (128 + the signal if one killed it), or 75 (interrupted, can
resume) if a signal other than SIGINT arrived before the run could handle it or between two runs.
"""

import math
import os
import signal
import sys

USER_ERROR = 2
INTERRUPTED = 75
_STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def main(command):
    """Entry point; returns the exit status."""
    if not command:
        _log("expected a command, such as: again.py python -m trn_jax.main --config=...")
        return USER_ERROR
    restarts, pause = _variable("RESTARTS", int, 10), _variable("PAUSE", float, 5.0)
    if restarts is None or pause is None:
        return USER_ERROR
    # Blocked signals stay pending until `sigwaitinfo` takes them, so none is lost between calls.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_STOP})
    start = 1
    while True:
        status, received = _run(command)
        if received not in (None, signal.SIGINT) and status == 128 + received:
            return INTERRUPTED
        if received or status in (0, USER_ERROR) or start > restarts:
            return status
        start += 1
        _log(f"exit status {status}; start {start} of at most {restarts + 1}")
        found = signal.sigtimedwait(_STOP, pause)
        if found:
            return status if found.si_signo == signal.SIGINT else INTERRUPTED


def _run(command):
    """The exit status of a command, and the last signal forwarded to it, or `None`."""
    try:
        child = os.posix_spawnp(
            command[0], command, os.environ, setsigmask=(), setsigdef=(signal.SIGINT,)
        )
    except OSError as error:
        _log(f"{command[0]}: {error.strerror}")
        return USER_ERROR, None
    received = None
    while True:
        number = signal.sigwaitinfo({signal.SIGCHLD, *_STOP}).si_signo
        if number != signal.SIGCHLD:
            received = number
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else 128 - code), received


def _variable(name, kind, default):
    """A number from the environment; logs an error and returns `None` if it isn't one."""
    text = os.environ.get(name, default)
    try:
        number = kind(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        _log(f"{name}={text}: expected a number, 0 or more")
        return None
    return number


def _log(text):
    print(f"again.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
