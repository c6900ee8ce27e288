"""Several processes with one folder; a result is written as soon as its video is complete."""

import csv
import fcntl
import os
import threading

import numpy as np
import pytest
from small_models import NAMES, write_films

from trn_jax import cli
from trn_jax.prediction import output
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.saved import PredictionFolder

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    root = tmp_path_factory.mktemp("films")
    write_films(root, (20, 14, 26, 17))
    return root


@pytest.fixture
def answered(monkeypatch):
    """Videos have answers without a pass of the network."""

    def by_video(predictor, inputs):
        scores = np.array([0.9, 0.05, 0.03, 0.02], np.float32)
        for each in inputs:
            yield each, iter([Answer(each.name, 0.0, 0.8, scores, tuple(NAMES))])

    monkeypatch.setattr(Predictor, "by_video", by_video)


def videos_in(table):
    with open(table, newline="") as file:
        return sorted(os.path.basename(row["video"]) for row in csv.DictReader(file))


def test_of_two_that_end_at_once_the_last_has_all_events(
    films, trn, tmp_path, monkeypatch, answered
):
    """While one process waits for the lock, the other one does everything, and ends."""
    command = ["predict", str(films), f"--checkpoint={trn}", f"--to={tmp_path}"]
    command += ["--num-processes=2", "--process-id"]
    locked = output.locked_folder
    waiting = [0]

    def late(*arguments, **options):
        if waiting:
            waiting.pop()
            assert cli.main([*command, "1"]) == 0
            assert videos_in(tmp_path / "events.csv") == [f"film{n}.mp4" for n in range(4)]
        return locked(*arguments, **options)

    monkeypatch.setattr(output, "locked_folder", late)
    assert cli.main([*command, "0"]) == 0 and not waiting
    assert videos_in(tmp_path / "events.csv") == [f"film{n}.mp4" for n in range(4)]


def test_the_table_is_written_with_a_lock(films, trn, tmp_path, monkeypatch, answered):
    original = PredictionFolder.write_events

    def watched(folder, events, paths):
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        original(folder, events, paths)

    monkeypatch.setattr(PredictionFolder, "write_events", watched)
    assert cli.main(["predict", str(films), f"--checkpoint={trn}", f"--to={tmp_path}"]) == 0
    assert len(videos_in(tmp_path / "events.csv")) == 4


def test_a_process_waits_for_the_table_of_another(films, trn, tmp_path, answered):
    (tmp_path / "scores").mkdir()
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    threading.Timer(0.5, os.close, [handle]).start()
    film = str(films / "film0.mp4")
    assert cli.main(["predict", film, f"--checkpoint={trn}", f"--to={tmp_path}"]) == 0
    assert videos_in(tmp_path / "events.csv") == ["film0.mp4"]


@pytest.mark.by_default(1)
@pytest.mark.parametrize("mode", ["--timeline", "--whole"])
def test_a_video_is_written_before_the_next_is_begun(films, trn, tmp_path, monkeypatch, mode):
    there = []
    original = Predictor.by_video

    def watched(predictor, inputs):
        for pair in original(predictor, inputs):
            there.append(len(os.listdir(tmp_path / "scores")) if there else 0)
            yield pair

    monkeypatch.setattr(Predictor, "by_video", watched)
    assert cli.main(["predict", str(films), f"--checkpoint={trn}", f"--to={tmp_path}", mode]) == 0
    assert there == [0, 1, 2, 3]


def test_an_interrupted_command_has_the_events_of_what_is_done(
    films, trn, tmp_path, monkeypatch, answered
):
    original = Predictor.by_video

    def stopping(predictor, inputs):
        for number, pair in enumerate(original(predictor, inputs)):
            if number == 2:
                raise KeyboardInterrupt
            yield pair

    command = ["predict", str(films), f"--checkpoint={trn}", f"--to={tmp_path}"]
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "by_video", stopping)
        assert cli.main(command) == 130
    assert videos_in(tmp_path / "events.csv") == ["film0.mp4", "film1.mp4"]
    assert cli.main(command) == 0
    assert videos_in(tmp_path / "events.csv") == [f"film{n}.mp4" for n in range(4)]


def test_streams_are_shared_like_videos(trn, monkeypatch, capsys):
    asked = []

    def stream(self, text, **_):
        asked.append(text)
        yield from ()

    monkeypatch.setattr(Predictor, "stream", stream)
    command = ["predict", "rtsp://a/1", "rtsp://a/2", "rtsp://a/1", "rtsp://a/3"]
    command += [f"--checkpoint={trn}", "--num-processes=2"]
    assert cli.main([*command, "--process-id=0"]) == cli.main([*command, "--process-id=1"]) == 0
    assert asked == ["rtsp://a/1", "rtsp://a/3", "rtsp://a/2"]
