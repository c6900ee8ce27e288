"""That a training in which nothing happens ends, with a message, and all hosts after one step."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from small_training import REPOSITORY

from trn_jax.distributed import processes, watchdog
from trn_jax.errors import UserError

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


EVAL_EVERY = 8  # steps


class Steps:
    """Steps whose results exist when all hosts have begun them."""

    def __init__(self, num_hosts, num_steps):
        self._begun = [threading.Barrier(num_hosts) for _ in range(num_steps + 2)]

    def begin(self, step):
        """Take part in a step, without waiting for the others; returns what waits for them."""
        taken = threading.Thread(target=self._begun[step].wait, args=(20,), daemon=True)
        taken.start()
        return taken


class Evaluations:
    """What hosts do by themselves, and then tell each other whether they gave it up."""

    def __init__(self, num_hosts):
        self._gave_up = [False]
        self._told = threading.Barrier(num_hosts, timeout=20)

    def run(self, dog, rng):
        """Returns whether any host gave up, the same on all of them."""
        gave_up = False
        for _ in range(rng.integers(1, 20)):
            gave_up = gave_up or dog.stop_requested()
            if not gave_up:
                time.sleep(rng.exponential(0.002))
        if gave_up:
            self._gave_up[0] = True
        self._told.wait()
        found = self._gave_up[0]
        self._told.wait()
        return found


def run_host(dog, steps, evaluations, rng, log_every, num_steps, took):
    """Take steps ahead of the results, and wait for these at every log line, as training does."""
    running = []
    for step in range(1, num_steps + 1):
        time.sleep(rng.exponential(0.001))
        running.append(steps.begin(step))
        stopped_by = dog.stops_here()
        if stopped_by or step % log_every == 0 or step % EVAL_EVERY == 0:
            for taken in running:
                taken.join()
            running.clear()
        if step % EVAL_EVERY == 0 and not stopped_by:
            gave_up = evaluations.run(dog, rng)
            stopped_by = dog.stops_here(requested=gave_up)
            assert stopped_by or not gave_up
        if stopped_by:
            break
    took.append((step, stopped_by))


@pytest.mark.parametrize("seed", range(6))
def test_all_hosts_end_after_the_same_step(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    num_hosts, num_steps = 3, 400
    TEXTS.clear()
    monkeypatch.setattr(processes, "KeyValueStore", Texts)
    monkeypatch.setattr(watchdog, "TICK", 0.002)
    monkeypatch.setattr(jax, "process_count", lambda: num_hosts)
    dogs = []
    for host in range(num_hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        dogs.append(watchdog.Watchdog(0))
    took: list[tuple[int, str]] = []
    steps, evaluations = Steps(num_hosts, num_steps), Evaluations(num_hosts)
    rngs = [np.random.default_rng([seed, n]) for n in range(num_hosts)]
    threads = [
        threading.Thread(
            target=run_host,
            args=(dog, steps, evaluations, rngs[n], 1 + 9 * n, num_steps, took),
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
    with watchdog.Watchdog(0) as dog:
        assert dog.stops_here() == "" and not dog.stop_requested()
        dog.stop("SIGTERM")
        dog.stop("SIGINT")
        assert dog.stop_requested()
        assert dog.stops_here() == "SIGTERM"


# A process that hangs, or is killed


def run_script(script, **options):
    """A process that runs a script with a watchdog of seconds, or less."""
    # Time in which a process is stopped counts as four ticks at most, which are to be short, too.
    start = (
        "import os, re, signal, time\nfrom trn_jax.distributed import watchdog\n"
        "watchdog.SHORTEST, watchdog.TICK = 0, 0.05\n"
    )
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
    assert "no progress for 0.5 s (train.step_timeout" in err
    assert "in step 7, waiting for its clips" in err
    assert "wait_for_ever" in err  # of the dump of its threads
    assert "The same command starts from the beginning" in err
    assert "killed" not in err and out == ""


@pytest.mark.thorough
def test_a_process_in_which_something_happens_goes_on():
    script = """
with watchdog.Watchdog(3) as dog:
    for compiles in (False, True):
        dog.note("what may take five times as long", compiles=compiles)
        time.sleep(4)
        dog.alive()
    for step in range(8):
        dog.alive()
        time.sleep(0.5)
"""
    process = run_script(script)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_time_in_which_the_process_was_stopped_does_not_count():
    script = """
with watchdog.Watchdog(1.5) as dog:
    dog.alive()
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)
"""
    process = run_script(script)
    os.waitpid(process.pid, os.WUNTRACED)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_a_process_that_is_killed_leaves_a_message():
    script = """
with watchdog.Watchdog(0) as dog:
    dog.note("step 7")
    dog.again = "resumes"
    while not {"step 7", "resumes"} <= set(re.findall("step 7|resumes", dog.kill_message.message)):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_script(script)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert err.startswith("killed during step 7 (kill -9,")
    assert err.endswith("The same command resumes\n")


def test_the_same_command_may_do_something_else():
    script = """
with watchdog.Watchdog(0, again="evaluates again") as dog:
    while "startup" not in dog.kill_message.message:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    _, err = run_script(script).communicate(timeout=60)
    assert err.endswith("The same command evaluates again\n")


def test_an_error_has_its_own_words():
    process = run_script("with watchdog.Watchdog(0):\n    raise SystemExit('an error')\n")
    assert process.communicate(timeout=60) == ("", "an error\n")


def test_a_limit_that_is_too_short():
    with pytest.raises(UserError, match=r"train.step_timeout=5: .* 10 seconds"):
        watchdog.Watchdog(5)
