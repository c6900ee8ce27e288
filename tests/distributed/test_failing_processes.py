"""Two hosts, one of which is killed, hangs, or is asked to end; and a disk that hangs."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

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

from trn_jax.checkpoints import finding
from trn_jax.distributed import watchdog
from trn_jax.training import loop

NUM_STEPS = 32
LAST_TO_KILL = 16  # so that there is much to do afterwards, however late it comes
# Hosts that show no sign of life for 10 s, instead of a minute, are taken for dead.
START = (
    "from trn_jax import main; from trn_jax.distributed import watchdog; "
    "watchdog.SILENCE, watchdog.HEARTBEAT = 10, 1; main.run()"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watchdog")
    make_tree(folder)
    return folder


def launch(tree, workdir, *flags, **options):
    """Begin to train on two hosts, for `NUM_STEPS` steps if nothing comes in between."""
    settings = dict(batch=8, steps=NUM_STEPS, checkpoint_every=4, step_timeout=120, keep=NUM_STEPS)
    own = [f"--config.train.{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        command(tree, workdir, *own, *flags, devices=1, start=("-c", START), **options),
        env=environment(),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def listen(launcher, step=0, act=None):
    """Call `act` after a step, once; returns all that the hosts say."""
    said = []
    limit = threading.Timer(900, launcher.kill)  # if they wait for each other
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
    mark = f"TRN_JAX_PROCESS_ID={host}".encode()
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=pytest.mark.slow if n > 1 else pytest.mark.thorough) for n in range(10)],
)
def test_a_host_that_is_killed(tree, undisturbed, seed):
    """The other one ends by itself; started again, they end with the same bits."""
    rng = np.random.default_rng(seed)
    victim, step, pause = seed % 2, int(rng.integers(2, LAST_TO_KILL)), rng.uniform(0, 0.5)
    workdir = f"killed_{seed}"

    def kill():
        while not (tree / workdir / "checkpoints/4").is_dir():
            time.sleep(0.01)  # there is to be something to go on from
        time.sleep(pause)
        os.kill(process_of_host(launcher, victim), signal.SIGKILL)

    launcher = launch(tree, workdir, launch=("--restarts=1", "--grace=60"))
    said = listen(launcher, step, kill)
    assert launcher.returncode == 0, said
    other = 1 - victim
    assert "exit status 137; start 2 of at most 2" in said
    assert "sending SIGTERM" not in said, said
    if victim:
        assert f"process {other} exited with status {watchdog.STUCK}" in said, said
        assert re.search(rf"\[{other}\] process {victim} has sent no heartbeat .*step \d+", said)
        assert "killed (kill -9" not in said
    else:  # with the register, the runtime of the other one ends
        assert re.search(
            rf"\[{other}\] process {other} ended during .*step \d+.*: process 0 has died", said
        )
    assert "Thread 0x" not in said
    assert said.count("resuming after step") == 1
    assert_identical(parameters(tree / workdir), undisturbed)


@pytest.mark.slow
def test_a_host_that_hangs(tree):
    launcher = launch(tree, "hung", "--config.train.steps=1000", launch=("--grace=1",))
    said = listen(launcher, 5, lambda: os.kill(process_of_host(launcher, 1), signal.SIGSTOP))
    assert launcher.returncode == watchdog.STUCK, said
    assert re.search(r"\[0\] process 1 has sent no heartbeat since .*step", said)
    assert "[0] The same command on all processes resumes from the newest checkpoint" in said


@pytest.mark.slow
def test_after_sigterm_to_one_host_all_save_the_same_step(tree, undisturbed):
    # After step 3, 6 and so on; the signal may come then. The best one and the newest are kept.
    evaluates = ("--config.train.eval_every=1", "--config.train.keep=1")
    launcher = launch(tree, "interrupted", *evaluates)
    said = listen(launcher, 5, lambda: os.kill(process_of_host(launcher, 1), signal.SIGTERM))
    assert launcher.returncode == loop.INTERRUPTED, said
    for host in range(2):
        assert f"process {host} exited with status {loop.INTERRUPTED}" in said
    saved = finding.find(tree / "interrupted")
    assert 5 <= int(saved.name) < NUM_STEPS
    assert f"[0] stopped by SIGTERM after step {saved.name};" in said
    again = launch(tree, "interrupted", *evaluates)
    assert f"resuming after step {saved.name}" in listen(again)
    assert_identical(parameters(tree / "interrupted"), undisturbed)
    log = map(json.loads, (tree / "interrupted/metrics.jsonl").read_text().splitlines())
    evaluated = [entry["step"] for entry in log if entry["group"] == "val"]
    assert evaluated == [*range(3, NUM_STEPS, 3), NUM_STEPS]
    kept = {path.name for path in (tree / "interrupted/checkpoints").iterdir()}
    assert str(NUM_STEPS) in kept and len(kept) <= 2


@pytest.mark.slow
def test_a_host_that_fails_alone_ends_the_other_with_its_status(tree):
    """Only one of them reads the video; started again, they would fail again."""
    shutil.copytree(tree / "data", tree / "broken")
    for frame in (tree / "broken/rawframes/val1").iterdir():
        frame.write_bytes(b"no picture")
    flags = ("--config.train.steps=1", f"--config.data_dir={tree}/broken")
    flags = (*flags, "--config.data.on_error=raise")
    launcher = launch(tree, "failed_alone", *flags, launch=("--restarts=3", "--grace=60"))
    said = listen(launcher)
    assert launcher.returncode == 2, said
    assert "start 2 of" not in said
    for host in range(2):
        assert f"process {host} exited with status 2" in said, said
    assert re.search(r"\[0\] error: process 1 has failed: .*val1", said), said
    assert "[0] Thread 0x" not in said
    assert "sending SIGTERM" not in said, said
    assert finding.find(tree / "failed_alone").name == "1"


@pytest.mark.slow
def test_an_evaluation_that_hangs(tree, undisturbed, tmp_path):
    shutil.copytree(tree / "data", tmp_path / "data")
    frame = min((tmp_path / "data/rawframes/val3").iterdir())
    frame.unlink()
    os.mkfifo(frame)  # nobody is ever going to write to it
    # A limit that people cannot set, or this takes a minute.
    shorter = "watchdog.SHORTEST, watchdog.FIRST = 0, 2"
    script = (
        f"from trn_jax import main; from trn_jax.distributed import watchdog; {shorter}; main.run()"
    )
    flags = ["--mode=eval", f"--checkpoint={tree}/undisturbed", f"--config={tree}/recipe.py"]
    flags += [f"--config.data_dir={tmp_path}/data", "--config.train.step_timeout=6"]
    done = subprocess.run(
        [sys.executable, "-c", script, *flags, f"--workdir={tmp_path}"],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == watchdog.STUCK, done.stderr
    assert "no progress for 6 s" in done.stderr
    assert re.search(r"in the evaluation, .*\nThe same command evaluates again\n", done.stderr)
