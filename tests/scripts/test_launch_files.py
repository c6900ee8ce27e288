"""Launch files for clusters, as far as they can be tested without one."""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
import yaml

from trn_jax.distributed import processes

LAUNCH = pathlib.Path(__file__).parents[2] / "scripts/launch"
AGAIN = LAUNCH / "again.py"
# Counts how often it was run, and ends with the next of the statuses that it is given.
COUNT = """
import pathlib, sys
file, *statuses = sys.argv[1:]
count = len(pathlib.Path(file).read_text()) if pathlib.Path(file).exists() else 0
pathlib.Path(file).write_text("x" * (count + 1))
sys.exit(int(statuses[count]))
"""


def run_again(tmp_path, *statuses, **variables):
    """The exit status of a command run by `again.py`, what that says, and how often it was run."""
    file = tmp_path / "count"
    done = subprocess.run(
        [AGAIN, sys.executable, "-S", "-c", COUNT, file, *map(str, statuses)],
        env=os.environ | {"PAUSE": "0"} | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr, len(file.read_text())


@pytest.mark.parametrize(
    ("statuses", "status", "runs"),
    [((0,), 0, 1), ((2,), 2, 1), ((76, 1, 0), 0, 3), ((75, 2), 2, 2), ((1, 1, 1, 5, 0), 5, 4)],
)
def test_a_command_is_run_again_until_it_is_done(tmp_path, statuses, status, runs):
    found, said, count = run_again(tmp_path, *statuses, RESTARTS="3")
    assert (found, count) == (status, runs)
    assert len(re.findall(r"^again\.py: .* of at most 4$", said, re.MULTILINE)) == runs - 1


def test_a_command_that_is_asked_to_end_is_not_run_again(tmp_path):
    """It gets the signal, has the time that it needs, and its status is passed on."""
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(75)))\n"
        "print('here', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [AGAIN, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "here\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == ""  # not a second time
    assert process.returncode == 75


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 7)])
def test_a_signal_between_two_runs_ends_both(tmp_path, number, status):
    process = subprocess.Popen(
        [AGAIN, "bash", "-c", f"echo run >>{tmp_path}/runs; exit 7"],
        env=os.environ | {"PAUSE": "60"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert " 7; start 2 of " in process.stderr.readline()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_signal_at_any_moment_ends_both():
    """Also while a run begins or ends, of which there are many."""
    for seed in range(10):
        process = subprocess.Popen(
            [AGAIN, "bash", "-c", "exit 7"],
            env=os.environ | {"PAUSE": "0", "RESTARTS": "1000000"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert " 7; start 2 of " in process.stderr.readline()
        time.sleep(random.Random(seed).uniform(0, 0.05))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        # 7 if it came while a run was failing.
        assert process.returncode in (75, 7)


def test_a_signal_before_the_command_can_take_it_is_an_interruption():
    process = subprocess.Popen(
        [
            AGAIN,
            sys.executable,
            "-c",
            "import time; print('here', flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75


def test_again_without_a_command_says_what_is_missing():
    done = subprocess.run([AGAIN], capture_output=True, text=True)
    assert done.returncode == 2
    assert "python -m trn_jax.main" in done.stderr


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        ("true", {"RESTARTS": "often"}, "RESTARTS=often"),
        ("true", {"RESTARTS": "-1"}, "RESTARTS=-1"),
        ("true", {"PAUSE": "inf"}, "PAUSE=inf"),
        ("no_such_command", {}, "no_such_command"),
    ],
)
def test_what_would_come_again_is_explained(command, variables, message):
    done = subprocess.run(
        [AGAIN, command], env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"again.py: {message}: ") and "Traceback" not in done.stderr


def flags_in(text):
    return set(
        re.findall(r"--(config|workdir|mode|coordinator_address|num_processes|process_id)\b", text)
    )


def test_the_job_set_connects_its_processes(monkeypatch):
    job_set = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert set(given) == set(processes.VARIABLES)
    assert job["completions"] == job["parallelism"] == int(given["TRN_JAX_NUM_PROCESSES"])
    # The name of a pod of a JobSet: <set>-<job>-<replica>-<number>.<set>
    name = job_set["metadata"]["name"]
    coordinator = f"{name}-{replicated['name']}-0-0.{name}:8476"
    assert given["TRN_JAX_COORDINATOR"] == coordinator
    connected = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: connected.append(options))
    for name, value in (given | {"TRN_JAX_PROCESS_ID": "1"}).items():
        monkeypatch.setenv(name, value)
    processes.initialize()
    (options,) = connected
    names = ("coordinator_address", "num_processes", "process_id")
    assert [options[name] for name in names] == [coordinator, 2, 1]
    failures = job["podFailurePolicy"]["rules"]
    assert failures[0]["onExitCodes"]["containerName"] == container["name"]
    assert container["command"][:3] == ["python", "-m", "trn_jax.main"]
    assert flags_in(" ".join(container["command"])) == {"config", "workdir"}
    assert (LAUNCH.parent.parent / "configs/tsm_k400.py").exists()


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_shell_files_can_be_read_and_run(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)


def test_slurm_puts_an_interrupted_job_back(tmp_path):
    """With stand-ins for the programs of Slurm."""
    for name, script in {
        "srun": 'echo "srun $*" >>"$LOG"; exit "$STATUS"',
        "scontrol": 'echo "scontrol $*" >>"$LOG"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    for status in (0, 2, 75, 76):
        log.write_text("")
        variables = {"LOG": str(log), "STATUS": str(status), "SLURM_JOB_ID": "7"}
        variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        command = ["bash", LAUNCH / "slurm.sh", "--config=c.py", "--workdir=w w"]
        done = subprocess.run(command, env=os.environ | variables)
        assert done.returncode == status
        run, *rest = log.read_text().splitlines()
        assert run.endswith("again.py python -m trn_jax.main --config=c.py --workdir=w w")
        assert rest == (["scontrol requeue 7"] if status == 75 else [])


def test_the_tpu_command_reaches_all_machines(tmp_path):
    (tmp_path / "gcloud").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", LAUNCH / "tpu.sh", "pod", "europe-west4-a", "--config=c.py", "--workdir=a b"]
    printed = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    lines = printed.stdout.split("\n", 7)
    assert lines[:7] == [
        *("compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=europe-west4-a", "--worker=all")
    ]
    assert lines[7].startswith("--command=")
    assert r"python3 -m trn_jax.main --config=c.py --workdir=a\ b >>" in lines[7]

    # What is run there, with a stand-in for the training
    home = tmp_path / "home"
    again = home / "trn_jax/scripts/launch/again.py"
    again.parent.mkdir(parents=True)
    again.write_text('#!/bin/bash\nfor word in "$@"; do echo "<$word>"; done\nexit 5\n')
    again.chmod(0o755)
    said = "".join(
        f"<{word}>\n"
        for word in ("python3", "-m", "trn_jax.main", "--config=c.py", "--workdir=a b")
    )
    # Also what a training says before it is followed, but nothing of the one before.
    (tmp_path / "tail").write_text(f'#!/bin/bash\nsleep 1\nexec {shutil.which("tail")} "$@"\n')
    (tmp_path / "tail").chmod(0o755)
    for runs in (1, 2):
        there = subprocess.run(
            ["bash", "-c", lines[7].removeprefix("--command=")],
            cwd=home,
            env=os.environ | variables | {"HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert there.returncode == 5
        assert there.stdout == said
        assert (home / "trn_jax.log").read_text() == runs * said
    wrong = subprocess.run([*command[:2], "pod"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "<name of the TPU> <zone>" in wrong.stderr
