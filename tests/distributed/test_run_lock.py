"""That a working directory belongs to one run at a time."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from small_training import REPOSITORY

from trn_jax.distributed import run_lock
from trn_jax.distributed.run_lock import NAME, RunLock
from trn_jax.errors import STUCK, PassingError

HOLDER = """
import sys, time
from trn_jax.distributed.run_lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1000)
"""


def hold(folder, script):
    """Start a process that has the lock of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of the folder."""
    process = hold(tmp_path, HOLDER)
    yield process
    process.kill()
    process.communicate()


def owner(folder):
    return json.loads((folder / NAME).read_text())


def claim_elsewhere(folder, **changes):
    """Write the file as a run on another machine does."""
    content = {"host": "node7", "machine": "other", "pid": 5, "started": "then", "token": "t"}
    (folder / NAME).write_text(json.dumps(content | changes))


@pytest.mark.smoke
def test_a_second_run_is_told_whose_it_is(tmp_path, holder):
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(PassingError, match=f"process {holder.pid} on .*--workdir") as raised:
        RunLock(str(tmp_path)).__enter__()
    assert raised.value.status == STUCK
    assert (tmp_path / NAME).read_bytes()[:20] == before[:20]
    assert os.listdir(tmp_path) == [NAME]


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert owner(tmp_path)["pid"] == holder.pid
    with RunLock(str(tmp_path)):
        assert owner(tmp_path)["pid"] == os.getpid()
    assert (tmp_path / NAME).read_bytes() == b""
    with RunLock(str(tmp_path)):  # and again
        pass


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(run_lock, "PULSE", 0.05)
    monkeypatch.setattr(run_lock, "SILENCE", 1.0)


@pytest.mark.parametrize("content", [None, "", "garbage", "[]", "\xff" * 9000])
def test_a_file_that_names_nobody_is_no_lock(tmp_path, fast, content):
    if content is not None:
        (tmp_path / NAME).write_text(content)
    with RunLock(str(tmp_path)):
        assert owner(tmp_path)["pid"] == os.getpid()


def test_a_run_on_another_machine_is_dead_when_it_is_silent(tmp_path, fast, capsys):
    claim_elsewhere(tmp_path)
    with RunLock(str(tmp_path)):
        assert owner(tmp_path)["pid"] == os.getpid()
    assert "names a run on 'node7'; waiting up to" in capsys.readouterr().err


@pytest.mark.parametrize("flock", [True, False])
def test_a_run_on_another_machine_that_is_alive(tmp_path, monkeypatch, flock):
    monkeypatch.setattr(run_lock, "PULSE", 0.05)
    if not flock:  # a file system without locks, where this machine's runs are told apart as well
        monkeypatch.setattr(run_lock, "fcntl", None)
    claim_elsewhere(tmp_path, machine="other" if flock else run_lock.machine_name())
    read, beats = RunLock.read_owner, iter(range(1, 100))

    def beating(self):
        claim_elsewhere(tmp_path, pulse=next(beats))
        return read(self)

    monkeypatch.setattr(RunLock, "read_owner", beating)
    with pytest.raises(PassingError, match=r"process 5 on 'node7', since 'then'"):
        RunLock(str(tmp_path)).__enter__()


def test_a_run_that_ends_while_another_one_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PULSE", 0.05)
    claim_elsewhere(tmp_path)
    threading.Timer(0.3, (tmp_path / NAME).write_text, [""]).start()
    with RunLock(str(tmp_path)):  # long before a minute of silence
        assert owner(tmp_path)["pid"] == os.getpid()


def test_signs_of_life_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "PULSE", 0.01)
    read, pulses = RunLock.read_owner, []
    enough = threading.Event()

    def reading(self):
        found = read(self)
        pulses.append(found.get("pulse"))
        if {1, 2} <= set(pulses):
            enough.set()
        return found

    monkeypatch.setattr(RunLock, "read_owner", reading)
    with RunLock(str(tmp_path)):
        assert enough.wait(60)


def test_of_two_runs_that_begin_at_once_one_ends(tmp_path):
    script = HOLDER.replace(
        "import sys, time", "import sys, time; from trn_jax.distributed import run_lock"
    )
    script = script.replace('print("held"', 'run_lock.PULSE = 0.05; print("held"')
    process = hold(tmp_path, script)
    claim_elsewhere(tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == STUCK
    assert "is in use by another run (process 5 on 'node7'" in err
    assert owner(tmp_path)["host"] == "node7"
