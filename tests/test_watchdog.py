"""That a training which cannot go on ends, with a message, and that all hosts end together."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from small_training import (
    REPOSITORY,
    assert_identical,
    command,
    environment,
    make_tree,
    parameters,
)

from trn_jax import checkpoint, hosts, train, watchdog
from trn_jax.errors import UserError

NUM_STEPS = 16

# The agreement on the last step


class Texts:
    """A register in this process."""

    def __init__(self, folder):
        self._texts = TEXTS

    def write(self, name, text):
        self._texts[name] = text

    def read(self, folder):
        found = dict(self._texts)
        return {n.split("/")[1]: text for n, text in found.items() if n.startswith(f"{folder}/")}


TEXTS: dict[str, str] = {}


class Steps:
    """Steps whose results exist when all hosts have begun them."""

    def __init__(self, num_hosts, num_steps):
        self._begun = [threading.Barrier(num_hosts) for _ in range(num_steps + 2)]

    def begin(self, step):
        """Take part in a step, without waiting for the others; returns what waits for them."""
        taken = threading.Thread(target=self._begun[step].wait, args=(20,), daemon=True)
        taken.start()
        return taken


def run_host(dog, steps, rng, log_every, num_steps, took):
    """Take steps ahead of the results, and wait for these at every log line, as training does."""
    running = []
    for step in range(1, num_steps + 1):
        time.sleep(rng.exponential(0.001))
        running.append(steps.begin(step))
        stopped_by = dog.ends_before(step + 1)
        if stopped_by or step % log_every == 0:
            for taken in running:
                taken.join()
            running.clear()
        if stopped_by:
            break
    took.append((step, stopped_by))


@pytest.mark.parametrize("seed", range(6))
def test_all_hosts_end_after_the_same_step(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    num_hosts, num_steps = 3, 400
    TEXTS.clear()
    monkeypatch.setattr(hosts, "Register", Texts)
    monkeypatch.setattr(watchdog, "_TICK", 0.002)
    monkeypatch.setattr(jax, "process_count", lambda: num_hosts)
    dogs = []
    for host in range(num_hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        dogs.append(watchdog.Watchdog(0))
    took: list[tuple[int, str]] = []
    steps = Steps(num_hosts, num_steps)
    threads = [
        threading.Thread(
            target=run_host,
            args=(dog, steps, np.random.default_rng([seed, n]), 1 + 9 * n, num_steps, took),
        )
        for n, dog in enumerate(dogs)
    ]
    for thread in threads:
        thread.start()
    time.sleep(rng.uniform(0, 0.3))
    for host in rng.permutation(num_hosts)[: 1 + seed % 2]:  # one of them, or two at a time
        dogs[host].stop("SIGTERM")
    for thread in threads:
        thread.join()
    for dog in dogs:
        dog.__exit__(None, None, None)
    assert len(took) == num_hosts
    assert len(set(took)) == 1, took
    assert took[0] == (num_steps, "") or took[0][1] == "SIGTERM"


def test_one_host_alone_ends_after_the_step_that_it_takes():
    with watchdog.Watchdog(0, first_step=4) as dog:
        assert dog.ends_before(6) == ""
        dog.stop("SIGTERM")
        dog.stop("SIGINT")
        assert dog.ends_before(7) == "SIGTERM"


# A process that hangs, or is killed


def run_script(script, **options):
    """What a process says that runs a script with a watchdog of half a second."""
    start = "import os, signal, time\nfrom trn_jax import watchdog\nwatchdog._SHORTEST = 0\n"
    return subprocess.Popen(
        [sys.executable, "-c", start + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        **options,
    )


def test_a_process_in_which_nothing_happens_says_where_it_is():
    script = """
def wait_for_ever():
    time.sleep(1000)

with watchdog.Watchdog(0.5) as dog:
    dog.note("step 7, waiting for its clips")
    dog.alive()
    wait_for_ever()
"""
    process = run_script(script)
    out, err = process.communicate(timeout=60)
    assert process.returncode == watchdog.STUCK
    assert "nothing goes on; the limit is 0.5 s (train.step_timeout; 0: none)" in err
    assert "in step 7, waiting for its clips" in err
    assert "wait_for_ever" in err  # of the dump of its threads
    assert "The same command goes on from the last checkpoint" in err
    assert "killed" not in err and out == ""


def test_a_process_in_which_something_happens_goes_on():
    script = """
with watchdog.Watchdog(1) as dog:
    time.sleep(2)  # the first step may take five times as long
    for step in range(10):
        dog.alive()
        time.sleep(0.3)
"""
    process = run_script(script)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_time_in_which_the_process_was_stopped_does_not_count():
    script = """
with watchdog.Watchdog(1.5) as dog:
    dog.alive()
    print("here", flush=True)
    time.sleep(0.1)
    dog.alive()
    time.sleep(0.5)
"""
    process = run_script(script)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_the_last_words_of_a_process_that_is_killed():
    script = """
with watchdog.Watchdog(0) as dog:
    dog.note("step 7")
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_script(script)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert err == (
        "killed in step 7, perhaps for lack of memory. The same command goes on from the last "
        "checkpoint\n"
    )


def test_an_error_has_its_own_words():
    process = run_script("with watchdog.Watchdog(0):\n    raise SystemExit('an error')\n")
    assert process.communicate(timeout=60) == ("", "an error\n")


def test_a_limit_that_is_too_short():
    with pytest.raises(UserError, match=r"train.step_timeout=5: expected at least 10 seconds, or"):
        watchdog.Watchdog(5)


# Two hosts, one of which does not go on


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watchdog")
    make_tree(folder)
    return folder


def launch(tree, workdir, *flags, **options):
    """Begin to train on two hosts, for `NUM_STEPS` steps if nothing comes in between."""
    settings = dict(batch=8, steps=NUM_STEPS, checkpoint_every=4, step_timeout=10, keep=NUM_STEPS)
    own = [f"--config.train.{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        command(tree, workdir, *own, *flags, devices=1, **options),
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def listen(launcher, step=0, act=None):
    """Call `act` after a step, once; returns all that the hosts say."""
    said = []
    limit = threading.Timer(300, launcher.kill)  # if they wait for each other
    limit.start()
    try:
        for line in launcher.stderr:
            said.append(line)
            if act and f"step {step}/" in line:
                act()
                act = None
        launcher.wait()
    finally:
        limit.cancel()
        launcher.kill()
        launcher.stderr.close()
    return "".join(said)


def process_of_host(launcher, host):
    """The process that plays a host, among the children of the launcher."""
    mark = f"TRN_JAX_HOST={host}".encode()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher.pid and mark in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue  # it has ended, or is somebody else's
    raise LookupError(f"no process of host {host}")


@pytest.fixture(scope="module")
def undisturbed(tree):
    launcher = launch(tree, "undisturbed")
    said = listen(launcher)
    assert launcher.returncode == 0, said
    return parameters(tree / "undisturbed")


@pytest.mark.long
@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=pytest.mark.slow if n > 1 else ()) for n in range(10)]
)
def test_a_host_that_is_killed(tree, undisturbed, seed):
    """The other one ends by itself; started again, they end with the same bits."""
    rng = np.random.default_rng(seed)
    victim, step, pause = seed % 2, int(rng.integers(2, NUM_STEPS)), rng.uniform(0, 0.5)
    workdir = f"killed_{seed}"

    def kill():
        time.sleep(pause)
        os.kill(process_of_host(launcher, victim), signal.SIGKILL)

    launcher = launch(tree, workdir, launch=("--restarts=1", "--grace=60"))
    said = listen(launcher, step, kill)
    assert launcher.returncode == 0, said
    other = 1 - victim
    assert "exit status 137; start 2 of at most 2" in said
    assert "is still there" not in said, said
    if victim:
        assert f"host {other} ended with exit status {watchdog.STUCK}" in said, said
        assert re.search(rf"\[{other}\] host {victim} has not been heard of .* in .*step \d+", said)
        assert f"[{other}] Thread 0x" in said
    else:  # with the register, the runtime of the other one ends
        assert re.search(
            rf"\[{other}\] host {other} was killed in .*step \d+.* host 0 is gone", said
        )
    assert said.count("resuming after step") == 1
    assert_identical(parameters(tree / workdir), undisturbed)


@pytest.mark.long
def test_a_host_that_hangs(tree):
    launcher = launch(tree, "hung", launch=("--grace=1",))
    said = listen(launcher, 5, lambda: os.kill(process_of_host(launcher, 1), signal.SIGSTOP))
    assert launcher.returncode == watchdog.STUCK, said
    assert re.search(r"\[0\] host 1 has not been heard of for \d+ s, when it was in .*step", said)
    assert "[0] The same command on all hosts goes on from the last checkpoint" in said


@pytest.mark.long
def test_after_sigterm_to_one_host_all_save_the_same_step(tree, undisturbed):
    launcher = launch(tree, "interrupted")
    said = listen(launcher, 5, lambda: os.kill(process_of_host(launcher, 1), signal.SIGTERM))
    assert launcher.returncode == train.INTERRUPTED, said
    for host in range(2):
        assert f"host {host} ended with exit status {train.INTERRUPTED}" in said
    saved = checkpoint.find(tree / "interrupted")
    assert 5 <= int(saved.name) < NUM_STEPS
    assert f"[0] stopped by SIGTERM after step {saved.name};" in said
    again = launch(tree, "interrupted")
    assert f"resuming after step {saved.name}" in listen(again)
    assert_identical(parameters(tree / "interrupted"), undisturbed)
