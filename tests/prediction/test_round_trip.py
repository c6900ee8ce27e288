"""From a table of parts to a model, to events, to a corrected table, and to a model again."""

import csv
import re
import shlex
import subprocess
import sys

import motion_films
import pytest

from trn_jax import cli
from trn_jax.evaluation.event_metrics import event_f1
from trn_jax.evaluation.events import Event, read_events

TINY = ("--config.model.width=4", "--config.train.eval_every=0", "--config.data.num_threads=2")


@pytest.fixture
def command(capfd):
    """Run `trn-jax` in this process; returns what it printed."""

    def run(*arguments):
        status = cli.main([str(word) for word in arguments])
        out, err = capfd.readouterr()
        assert status == 0, err
        return out + err

    return run


def train(prepared, workdir, *flags):
    """Train by the command that `prepare` printed, with further flags, in a new process."""
    (line,) = re.findall(r"trn-jax (train small .*)", prepared)
    words = [word for word in shlex.split(line) if not word.startswith("--workdir")]
    words = [sys.executable, "-m", "trn_jax.cli", *words, f"--workdir={workdir}", *flags]
    done = subprocess.run(words, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr


def events_in(path):
    """The events of a table, with the names of their files."""
    return [
        Event(event.video.rpartition("/")[2], event.start, event.end, event.label, event.score)
        for event in read_events(path)
    ]


@pytest.mark.slow
def test_predictions_are_a_table_to_train_on(tmp_path, command):
    table = motion_films.write_films(tmp_path / "films", 5, num_events=3)
    prepared = command("prepare", table, f"--to={tmp_path}/data", "--background=0.5")
    train(prepared, tmp_path / "run", *TINY, "--config.train.steps=5")
    out = tmp_path / "out"
    checkpoint = f"--checkpoint={tmp_path}/run"
    films = sorted((tmp_path / "films").glob("*.mp4"))
    command("predict", *films, checkpoint, f"--to={out}", "--threshold=0.2")
    # Corrected by hand: each film has one event more, and the names of two classes.
    rows = list(csv.reader(open(out / "events.csv", newline="")))  # noqa: SIM115
    for film in films:
        rows += [[f"../films/{film.name}", 0.5, 2.5, "Waving", 1.0]]
        rows += [[f"../films/{film.name}", 3.0, 5.0, "Nodding", 1.0]]
    with open(out / "corrected.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    prepared = command("prepare", out / "corrected.csv", f"--to={tmp_path}/again")
    names = (tmp_path / "again" / "label_map.txt").read_text().split("\n")
    assert {"Waving", "Nodding"} <= set(names)
    train(prepared, tmp_path / "run2", *TINY, "--config.train.steps=5")
    report = command("report", out / "events.csv", f"--truth={table}")
    assert "event F1" in report


@pytest.mark.slow
def test_events_of_a_film_are_found(tmp_path, command):
    table = motion_films.write_films(tmp_path / "films", 70, seed=1)
    prepared = command("prepare", table, f"--to={tmp_path}/data", "--background=1.0")
    options = "--config.model.name=trn_resnet10", "--config.train.epochs=12"
    train(prepared, tmp_path / "run", *options, "--config.train.eval_every=4")
    unseen = motion_films.write_films(tmp_path / "unseen", 8, seed=2)
    out = tmp_path / "out"
    films = sorted((tmp_path / "unseen").glob("*.mp4"))
    command("predict", *films, f"--checkpoint={tmp_path}/run", f"--to={out}")
    truth, found = events_in(unseen), events_in(out / "events.csv")
    assert event_f1(truth, found)["f1"] >= 0.95
    # Every film ends with an event.
    last = {event.video: event.end for event in truth}
    for video, end in last.items():
        assert max(e.end for e in found if e.video == video) > end - 0.5
