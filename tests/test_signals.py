"""Signals that ask a training to stop, whenever they come and whatever it is doing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_training import REPOSITORY

from trn_jax.errors import INTERRUPTED
from trn_jax.signals import STOP_SIGNALS, StopSignals

# A start that takes long, outside of Python.
STARTING = """
import ctypes, sys
from trn_jax.signals import StopSignals
with StopSignals():
    print("starting", flush=True)
    ctypes.CDLL(None).sleep(1000)  # which signals end, but not for Python
    ctypes.CDLL(None).sleep(1000)
"""


def begin(script, *words, before=None):
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        preexec_fn=before,
    )
    assert process.stdout.readline() == "starting\n"
    return process


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_in_the_start_ends_the_process(number):
    process = begin(STARTING)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert err == f"stopped by {number.name} during startup\n"


def test_signals_that_were_ignored_stay_ignored():
    """As `nohup` does with SIGHUP."""
    process = begin(STARTING, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert err == "stopped by SIGTERM during startup\n"


@pytest.mark.smoke
def test_later_signals_are_for_whoever_is_in_charge():
    came = []
    with StopSignals() as signals:
        signals.action = lambda name: came.append(("loop", name))
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: ("loop", "SIGUSR1") in came)
        signals.action = lambda name: came.append(("end", name))
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: ("end", "SIGHUP") in came)
        for number in STOP_SIGNALS:
            assert signal.getsignal(number) == signals._handle
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_another_ctrl_c_does_not_wait(monkeypatch):
    monkeypatch.setattr("trn_jax.signals._PASSED_ON", 0.0)
    came = []
    with StopSignals() as signals:
        signals.action = came.append
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: came)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_same_ctrl_c_that_comes_twice_waits():
    came = []
    with StopSignals() as signals:
        signals.action = came.append
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: came)
    assert set(came) == {"SIGINT"}


def test_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def run():
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
