#!/usr/bin/env python3
"""Run a command on this host, and again after a failure, until it is done.

    scripts/launch/again.py python -m trn_jax.main --config=... --workdir=...

To be started on every host. When one of them dies, the others end by themselves
(train.step_timeout), and all start again, wait for each other (--hosts_timeout) and go on from the
last checkpoint. Not again after status 0, after 2, an error that would come again, and not once
this script has been asked to end by a signal (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2), which it
passes on. At most RESTARTS times (10), after PAUSE seconds (5).

The exit status is that of the last run, 128 + the number of the signal if one killed it; 75, the
one of a training that was interrupted and can resume, also if a signal other than SIGINT came
before it had begun, or between two runs.
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
        _say("give the command to run, such as: again.py python -m trn_jax.main --config=...")
        return USER_ERROR
    restarts, pause = _variable("RESTARTS", int, 10), _variable("PAUSE", float, 5.0)
    if restarts is None or pause is None:
        return USER_ERROR
    # They wait until they are looked for, so that none gets lost between two looks.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_STOP})
    start = 1
    while True:
        status, asked = _run(command)
        if asked not in (None, signal.SIGINT) and status == 128 + asked:
            return INTERRUPTED
        if asked or status in (0, USER_ERROR) or start > restarts:
            return status
        start += 1
        _say(f"exit status {status}; start {start} of at most {restarts + 1}")
        found = signal.sigtimedwait(_STOP, pause)
        if found:
            return status if found.si_signo == signal.SIGINT else INTERRUPTED


def _run(command):
    """The exit status of a command, and the last signal that it was passed, or `None`."""
    try:
        child = os.posix_spawnp(
            command[0], command, os.environ, setsigmask=(), setsigdef=(signal.SIGINT,)
        )
    except OSError as error:
        _say(f"{command[0]}: {error.strerror}")
        return USER_ERROR, None
    asked = None
    while True:
        number = signal.sigwaitinfo({signal.SIGCHLD, *_STOP}).si_signo
        if number != signal.SIGCHLD:
            asked = number
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return (code if code >= 0 else 128 - code), asked


def _variable(name, kind, default):
    """A number of the environment; `None` if it is none, after saying so."""
    text = os.environ.get(name, default)
    try:
        number = kind(text)
    except ValueError:
        number = -1
    if not 0 <= number < math.inf:
        _say(f"{name}={text}: expected a number, 0 or more")
        return None
    return number


def _say(text):
    print(f"again.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
