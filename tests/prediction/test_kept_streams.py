"""Streams with --to: written as they come, whatever ends them; one name per command."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import painted
import pytest
from small_models import NAMES

from trn_jax import cli
from trn_jax.data import streams
from trn_jax.errors import INTERRUPTED
from trn_jax.evaluation.events import read_events
from trn_jax.prediction import output
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.live import Gap
from trn_jax.prediction.saved import PredictionFolder
from trn_jax.signals import Interrupted

pytestmark = pytest.mark.usefixtures("loaded_once")

URL = "rtsp://me:secret@camera/1"
NAME = "rtsp://me:***@camera/1"


def answer_of(number, label=0):
    """A window of 0.8 seconds, every 0.4 seconds, that is sure of a class."""
    scores = np.full(4, 0.01, np.float32)
    scores[label] = 0.97
    return Answer(NAME, 0.4 * number, 0.4 * number + 0.8, scores, tuple(NAMES), is_window=True)


def windows(count):
    """Windows whose class changes after every five."""
    return [answer_of(number, (0, 2, 3)[number // 5 % 3]) for number in range(count)]


@pytest.fixture
def streamed(monkeypatch, trn):
    """Function that predicts a stream which gives some answers, then perhaps raises."""

    def command(to, answers, raised=None, *more):
        def stream(self, text, *, duration=None, name=None):
            assert text == URL
            for each in answers:
                yield each if isinstance(each, Gap) else dataclasses.replace(each, video=name)
            if raised is not None:
                raise raised

        monkeypatch.setattr(Predictor, "stream", stream)
        return cli.main(["predict", URL, f"--checkpoint={trn}", f"--to={to}", *more])

    return command


def rows(to):
    with open(to / "events.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("raised", "status"), [(None, 0), (KeyboardInterrupt(), 130), (Interrupted(), INTERRUPTED)]
)
def test_whatever_ends_a_stream_its_results_are_there(streamed, tmp_path, raised, status):
    assert streamed(tmp_path, windows(12), raised) == status
    (event, *others) = rows(tmp_path)
    assert event["video"] == NAME and event["label"] == NAMES[0] and len(others) == 2
    ((answers, about),) = PredictionFolder(tmp_path).all()
    assert len(answers) == 12 and about["video"] == NAME
    assert "secret" not in (tmp_path / "events.csv").read_text()


def test_results_are_written_in_pieces_as_they_come(streamed, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SECONDS_BETWEEN_PIECES", 0.0)
    there = []

    def watched():
        for number, answer in enumerate(windows(12)):
            if number == 11:
                ((answers, _),) = PredictionFolder(tmp_path).all()
                there.append([len(answers), len(rows(tmp_path))])
            yield answer

    assert streamed(tmp_path, watched()) == 0
    # All but the newest, and the events that had ended.
    assert there == [[11, 1]]
    assert len(list((tmp_path / "scores").iterdir())) == 12
    ((answers, _),) = PredictionFolder(tmp_path).all()
    assert [answer.start for answer in answers] == pytest.approx(0.4 * np.arange(12))
    assert len(rows(tmp_path)) == 3
    assert cli.main(["predict", f"--from-scores={tmp_path}"]) == 0
    assert len(rows(tmp_path)) == 3


def test_a_stream_that_breaks_for_good_keeps_what_it_gave(streamed, tmp_path):
    broken = Answer(NAME, 0.0, None, problem="it broke")
    assert streamed(tmp_path, [*windows(5), Gap(NAME, 2, 3, "lost"), broken]) == 1
    assert len(rows(tmp_path)) == 1
    ((answers, _),) = PredictionFolder(tmp_path).all()
    assert len(answers) == 5


def test_the_next_command_begins_anew_and_keeps_the_last(streamed, tmp_path):
    streamed(tmp_path, windows(4))
    streamed(tmp_path, windows(7), Interrupted())
    streamed(tmp_path, windows(4))
    names = [row["video"] for row in rows(tmp_path)]
    assert sorted(set(names)) == [NAME, f"{NAME} (2)", f"{NAME} (3)"] and len(names) == 4
    assert len(list(PredictionFolder(tmp_path).all())) == 3


def test_events_of_a_stream_can_be_read(streamed, tmp_path):
    streamed(tmp_path, windows(4))
    assert [event.video for event in read_events(tmp_path / "events.csv")] == [NAME]


@pytest.mark.thorough
def test_a_signal_ends_a_pipe_cleanly(trn, tmp_path):
    """The end of the film is never given."""
    film = painted.write(tmp_path / "film.ts", painted.frames(240, width=64, height=48), g=5)
    film = film.read_bytes()
    to = tmp_path / "to"
    command = [sys.executable, "-m", "trn_jax.cli", "predict", "-", f"--checkpoint={trn}"]
    command += [f"--to={to}", "--json", "--every=0.1"]
    reader, writer = os.pipe()
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE) as process:
        threading.Thread(target=os.write, args=(writer, film[: -len(film) // 9])).start()
        first = json.loads(process.stdout.readline())
        assert first["kind"] == "window"
        process.send_signal(signal.SIGTERM)  # while it waits for the rest
        process.stdout.read()
        assert process.wait(timeout=60) == INTERRUPTED
    os.close(reader)
    os.close(writer)
    assert (to / "events.csv").exists() and list((to / "scores").glob("*.npz"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (URL, NAME),
        ("rtsp://me:se/cret@camera/1", NAME),
        ("http://token@host:8080/a@b.mp4", "http://***@host:8080/a@b.mp4"),
        ("http://host/a@b.mp4", "http://host/a@b.mp4"),
        ("rtsp://me:s@cret@camera", "rtsp://me:***@camera"),
        ("http://host/v.cgi?user=me&pwd=secret&w=64", "http://host/v.cgi?user=***&pwd=***&w=64"),
        ("https://host/a.mp4?X-Amz-Signature=0f&t=1", "https://host/a.mp4?X-Amz-Signature=***&t=1"),
        ("clips/me:you@home.mp4", "clips/me:you@home.mp4"),
        ("two http://a:b@c/ and ftp://d:e@f", "two http://a:***@c/ and ftp://d:***@f"),
    ],
)
def test_user_names_and_passwords_are_masked(text, expected):
    assert streams.masked(text) == expected


def test_passwords_are_not_printed(trn, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(streams, "_SECONDS_TO_OPEN", 0.5)
    url = "http://me:secret@127.0.0.1:9/film.mp4"
    assert cli.main(["predict", url, f"--checkpoint={trn}", "--json"]) == 1
    assert cli.main(["features", url, f"--checkpoint={trn}", f"--to={tmp_path / 'x.npz'}"]) == 2
    (tmp_path / "list.txt").write_text(f"{url}\n")
    assert cli.main(["predict", str(tmp_path / "list.txt"), f"--checkpoint={trn}"]) == 1
    printed = capsys.readouterr()
    assert "127.0.0.1" in printed.out and printed.err.count("me:***@127.0.0.1") == 3
    assert "secret" not in printed.out + printed.err
