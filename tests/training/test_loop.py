"""The loop around the steps."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from small_training import RECIPE, REPOSITORY, make_tree
from tensorboardX.proto.event_pb2 import Event, SessionLog

from trn_jax.config import base
from trn_jax.data.datasets import Dataset
from trn_jax.distributed import processes
from trn_jax.training import events, logs, start


@pytest.mark.parametrize(
    ("source", "wait", "said"), [("videos", 0.4, 1), ("videos", 0.2, 0), ("frames", 0.4, 0)]
)
def test_waiting_for_videos_is_told_once_with_what_helps(capsys, source, wait, said):
    files = Dataset(source=source, frames="/d/videos", train_list="/d/train_list.txt")
    scalars = dict(loss=1.0, top1=0.5, lr=0.1, grad_norm=1.0)
    summary = scalars | dict(clips_per_second=9.0, data_wait=wait)
    run = types.SimpleNamespace(
        config=base(dataset="frames", model="tsn_resnet10"),
        parts=types.SimpleNamespace(steps_per_epoch=10.0, num_steps=500),
        meter=types.SimpleNamespace(summary=lambda: (summary, [scalars])),
        reporter=types.SimpleNamespace(write=lambda *_: None),
        log=processes.log,
        advice=start.advice(files),
        num_replaced=0,
    )
    for step in (20, 40):
        run.examples = {step: np.arange(2)}
        events.log_progress(run, step)
    advice = "trn-jax extract /d/videos --to=/d/rawframes"
    assert capsys.readouterr().err.count(advice) == said


def test_the_time_of_a_run_is_divided(monkeypatch):
    """Two intervals: a step that is compiled, and two others."""
    now = 0.0
    monkeypatch.setattr(logs.time, "perf_counter", lambda: now)
    meter = logs.StepMeter(8)
    scalars = dict(loss=1.0, lr=0.1)
    for asked, arrived, finished, ends in [(0, 2, 12, True), (12, 12, 13, False), (13, 14, 15, 1)]:
        now = float(finished)
        meter.add(asked, arrived, scalars)
        meter._interval.steps[-1][2].result()
        if ends:
            meter.summary()
    meter.close()
    spent = meter.times(20.0)
    assert spent == {
        "steps": 3,
        "seconds_per_step": 1.5,
        "devices_busy": (10 + 1 + 1) / 20,
        "data_wait": (2 + 1) / 20,
    }


def used_by(process):
    """Resident memory in kB, and the number of open files."""
    folder = pathlib.Path(f"/proc/{process.pid}")
    lines = (folder / "status").read_text().splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(resident), len(os.listdir(folder / "fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nothing tells what is in use")
@pytest.mark.parametrize(
    ("recipe", "steps", "settled", "tolerance"),
    [
        pytest.param("small", 600, 200, 0.05, marks=pytest.mark.slow),
        pytest.param("synthetic", 2000, 200, 0.02, marks=pytest.mark.slow),
    ],
)
def test_a_long_training_stays_as_large_as_it_is(tmp_path, recipe, steps, settled, tolerance):
    """With evaluations and checkpoints; the memory of a small process is less even."""
    options = "--xla_force_host_platform_device_count=1"
    log_every = 10
    if recipe == "small":
        make_tree(tmp_path, RECIPE)
        flags = [f"--config={tmp_path}/recipe.py", f"--config.data_dir={tmp_path}/data"]
        checkpoint_every = 20
        flags += ["--config.train.eval_every=10"]
        flags += ["--config.model.dtype=float32", "--config.train.batch=4"]
        options += " --xla_backend_optimization_level=0"  # as in conftest.py
    else:
        checkpoint_every = 100
        flags = ["--config=configs/trn_synthetic.py", "--config.train.eval_every=1"]
    flags += [f"--config.train.checkpoint_every={checkpoint_every}"]
    flags += [f"--workdir={tmp_path}/run", f"--config.train.steps={steps}"]
    found = []
    with subprocess.Popen(
        [sys.executable, "-m", "trn_jax.main", *flags, f"--config.train.log_every={log_every}"],
        cwd=REPOSITORY,
        env=os.environ | {"XLA_FLAGS": options},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            step = re.match(r"step (\d+)/", line)
            if step and settled < int(step[1]) < steps:
                found.append(used_by(process))
    assert process.returncode == 0
    resident, files = zip(*found, strict=True)
    part = len(found) // 3
    before, after = (statistics.median(values) for values in (resident[:part], resident[-part:]))
    assert after < (1 + tolerance) * before, resident
    # Files of clips, of a checkpoint that is being written, and of the event loops that write it
    # come and go. What every checkpoint left behind would be added up.
    checkpoints_between = 2 * part * log_every // checkpoint_every
    assert min(files[-part:]) < min(files[:part]) + checkpoints_between, files


@pytest.mark.parametrize(("process", "logged"), [(0, "skipped: a\n"), (1, "1: skipped: a\n")])
def test_every_process_logs_the_videos_that_it_cannot_read(monkeypatch, capsys, process, logged):
    monkeypatch.setattr(jax, "process_index", lambda: process)
    messages = logs.VideoMessages(processes.log)
    for _ in range(2):
        messages.add("skipped", ["a"])
    assert capsys.readouterr().err.removeprefix("process ") == logged
    messages.add("unreadable", ["c", "b"])
    capsys.readouterr()
    messages.log_all()
    lines = capsys.readouterr().err.splitlines()
    assert [line.strip() for line in lines if line.startswith("  ")] == ["a", "b", "c"]


# A log that cannot be written


FULL = """
import resource, signal, sys
from trn_jax.training.logs import Reporter

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
reporter = Reporter(sys.argv[1], first_step=0, last_step=400, active=True)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), most))
for step in range(1, 301):
    reporter.write(step, "train", {"loss": 1 / step, "top1": 0.5, "lr": 0.1})
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
reporter.write(400, "train", {"loss": 0.25})
reporter.close()
"""


@pytest.mark.parametrize("size", [100, 1000, 2001])
def test_a_log_without_room_is_told_once_and_does_not_stop_the_training(tmp_path, size):
    """With files of at most so many bytes, and in the end of any size."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(size)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot write to") == 1
    assert "metrics.jsonl or the events beside it: " in done.stderr
    assert "Traceback" not in done.stderr
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in log]
    assert steps == [*range(1, len(steps)), 400] and len(steps) < 300
    again = logs.Reporter(str(tmp_path), first_step=400, last_step=500, active=True)
    again.write(450, "train", {"loss": 0.5})
    again.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(steps) + 1


DAMAGE = {
    "no text": b"\xff\xfe\x00",
    "no entry": b"5\n",
    "zeros": bytes(4096),
    "zeros in place of a line": bytes(40) + b"\n",
    "another object": b'{"step": "3", "group": "train"}\n',
    "nested without end": b"[" * 100_000 + b"\n",
    "cut off": b'{"step": 2, "gro',
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("place", range(4))
def test_a_damaged_log_loses_the_damaged_lines(tmp_path, capsys, case, place):
    lines = [
        json.dumps({"step": step, "group": "train", "loss": 1.0}).encode() + b"\n"
        for step in (1, 2, 3)
    ]
    damaged = [*lines[:place], DAMAGE[case], *lines[place:]]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(damaged))
    reporter = logs.Reporter(str(tmp_path), first_step=3, last_step=9, active=True, again=["x"])
    reporter.write(4, "train", {"loss": 0.5})
    reporter.close()
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    whole = DAMAGE[case].endswith(b"\n")
    lost = [] if whole or place == 3 else [place + 1]
    assert [entry["step"] for entry in log] == [s for s in (1, 2, 3, 4) if s not in lost]
    assert f"1 corrupt lines of {tmp_path}/metrics.jsonl" in capsys.readouterr().err


def test_events_are_those_that_tensorboard_reads(tmp_path):
    reporter = logs.Reporter(str(tmp_path), first_step=4, last_step=9, active=True)
    reporter.write(5, "val", {"top1": 0.5, "top5": 0.75, "loss": float("nan")})
    reporter.close()
    (path,) = (tmp_path / "events").iterdir()
    events = [Event.FromString(bytes(content)) for content in records(path.read_bytes())]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (5, SessionLog.START)
    (found,) = events[2:]
    values = {value.tag: value.simple_value for value in found.summary.value}
    assert (found.step, values) == (5, {"val/top1": 0.5, "val/top5": 0.75})


def records(content):
    """Of a TFRecord file: length, checksum, content, checksum, and so on."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]
