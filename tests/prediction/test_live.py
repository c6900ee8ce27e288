"""Streams: the newest window, gaps, standard input, and cameras that aren't there."""

import http.server
import io
import json
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import painted
import pytest
from flax import nnx

from trn_jax import cli, load_model, predict
from trn_jax.data import streams
from trn_jax.prediction import live
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.timeline import plan_windows


@pytest.fixture(scope="module")
def transport_stream(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.ts"
    return painted.write(path, painted.frames(60), g=5).read_bytes()


@pytest.fixture
def server(transport_stream):
    """Serves the film as a live stream of 60 frames in 1.2 seconds; then the connection breaks."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path in ("/film.ts", "/cut.ts"):
                self.send_response(200)
                self.send_header("Content-Length", str(len(transport_stream)))
                self.end_headers()
                is_cut = self.path == "/cut.ts"
                self.wfile.write(
                    transport_stream[: len(transport_stream) * 4 // 5 if is_cut else None]
                )
                return
            if self.path != "/live":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            size = len(transport_stream) // 48
            for start in range(0, len(transport_stream), size):
                try:
                    self.wfile.write(transport_stream[start : start + size])
                except OSError:
                    return
                time.sleep(1.2 / 48)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_a_live_stream_is_answered_and_reopened(server, trn, monkeypatch, stream):
    monkeypatch.setattr(live, "FIRST_WAIT", 0.1)
    predictor = Predictor(trn, seconds=0.4, stream=stream)
    answers, gaps = [], []
    for found in predictor.stream(f"{server}/live", duration=60):
        (gaps if isinstance(found, live.Gap) else answers).append(found)
        if gaps and answers and answers[-1].start >= gaps[-1].end:
            break
    assert not any(answer.problem for answer in answers)
    ends = [answer.end for answer in answers]
    assert ends == sorted(ends) and all(answer.age > 0 for answer in answers)
    (gap,) = gaps
    assert gap.end > gap.start > 0
    # No window reaches over the gap.
    assert all(a.end <= gap.start + 0.2 or a.start >= gap.end - 0.2 for a in answers)
    assert answers[-1].dropped > 0


@pytest.mark.thorough
def test_a_file_of_a_server_ends(server, transport_stream, trn, tmp_path):
    (tmp_path / "film.ts").write_bytes(transport_stream)
    answers = list(predict(f"{server}/film.ts", trn))
    expected = list(predict(tmp_path / "film.ts", trn, timeline=True))
    assert len(answers) == len(expected) and answers[-1].age is None


def test_a_file_whose_connection_is_lost_keeps_its_windows(server, trn, capsys):
    arguments = ["predict", f"{server}/cut.ts", f"--checkpoint={trn}", "--json"]
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    windows = [line for line in lines if line["kind"] == "window"]
    (problem,) = (line for line in lines if line["kind"] == "problem")
    assert 1.5 < windows[-1]["end"] < 2.1  # of 2.4
    assert "/cut.ts" in problem["problem"] and problem["problem"] in printed.err


def test_a_stream_that_cannot_be_opened_costs_itself(server, trn, capsys):
    arguments = ["predict", f"{server}/gone", f"--checkpoint={trn}", "--json"]
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    (entry,) = map(json.loads, printed.out.splitlines())
    assert entry["kind"] == "problem" and "/gone" in printed.err and "1 of 1" in printed.err


def test_a_camera_that_is_not_there(trn, capsys):
    assert cli.main(["predict", "987", f"--checkpoint={trn}"]) == 1
    assert "camera 987" in capsys.readouterr().err


def test_standard_input_is_a_long_video(transport_stream, trn, tmp_path, monkeypatch):
    (tmp_path / "film.ts").write_bytes(transport_stream)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(transport_stream)))
    piped = list(predict("-", trn))
    expected = list(predict(tmp_path / "film.ts", trn, timeline=True))
    assert len(piped) == len(expected) and piped[-1].end == pytest.approx(2.4, abs=0.05)
    for mine, theirs in zip(piped[:-1], expected[:-1], strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=1e-5)


def test_a_server_that_does_not_answer(trn, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(streams, "_SECONDS_TO_OPEN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/film.mp4"
        status = cli.main(["predict", url, f"--checkpoint={trn}", f"--to={tmp_path / 'to'}"])
    assert status == 1 and "no answer in time" in capsys.readouterr().err
    assert (tmp_path / "to" / "events.csv").read_text().count("\n") == 1


def test_standard_input_may_be_closed(trn, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    (answer,) = predict("-", trn)
    assert "standard input is closed" in answer.problem


@pytest.mark.parametrize("text", ["", "no video\n"])
def test_standard_input_without_a_video(trn, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (answer,) = predict("-", trn)
    assert "standard input" in answer.problem


@pytest.mark.thorough
def test_a_pipe_of_another_process(transport_stream, trn):
    command = [sys.executable, "-m", "trn_jax.cli", "predict", "-", f"--checkpoint={trn}", "--json"]
    done = subprocess.run(command, input=transport_stream, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kinds = {json.loads(line)["kind"] for line in done.stdout.splitlines()}
    assert "window" in kinds


def test_urls_may_not_name_local_files(tmp_path, trn):
    with pytest.raises(streams.FrameError), streams.open_stream(f"file://{tmp_path}/film.mp4"):
        pass
    for name in ("concat://a|b", "subfile://x", "exec://ls"):
        with pytest.raises(streams.FrameError), streams.open_stream(name):
            pass


class Frames:
    """A stream of grey frames at times of a clock that a test sets."""

    path = "camera"

    def __init__(self, clock, times):
        self._clock, self._times = clock, times

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def arriving(self):
        for number, moment in enumerate(self._times):
            self._clock.now = moment
            yield number

    def upright(self, number):
        return np.full((40, 50, 3), number, np.uint8)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def capture_of(predictor, times, *, step, kept):
    clock = Clock()
    stream = Frames(clock, times)
    capture = live.Capture(
        "camera", lambda: stream, predictor.contract.view, step=step, kept=kept, clock=clock
    )
    capture.close()  # one pass only
    for number, moment in enumerate(times):
        capture.take(stream, number, moment)
    return capture


def shown(found):
    return {number: int(sample.pixels.flat[0]) for number, sample in found.items()}


def test_the_newest_frames_are_kept_and_the_others_dropped(trn):
    times = np.arange(100) / 30  # 30 frames per second, one in three is needed
    times[1:] += 1e-6
    capture = capture_of(Predictor(trn), times, step=0.1, kept=8)
    last, found = capture.window(0, [0, 1, 2, 3], 0)
    # The first frame at or after each tenth of a second.
    assert last == 33 and shown(found) == {30: 90, 31: 93, 32: 96, 33: 99}
    assert capture.num_frames == 100 and capture.num_kept == 34
    assert capture.window(34, [0, 1, 2, 3], 0) is None


def test_frames_of_a_slow_camera_are_shown_until_the_next(trn):
    capture = capture_of(Predictor(trn), [0.0, 0.5, 1.0], step=0.1, kept=8)
    _, found = capture.window(0, [0, 2, 4], 0)
    assert shown(found) == {6: 2, 8: 2, 10: 2}


def test_scores_of_a_live_window_are_those_of_its_clip(trn):
    logits_of = nnx.jit(lambda model, clips: model(clips))
    model = load_model(trn)
    predictor = Predictor(model)
    scorer = predictor.timeline_scorer()
    numbers = np.array([[0, 1, 2, 3]])
    window = live.LiveWindow(scorer, live.Crops(predictor.contract.view), numbers)
    window.warm_up()
    rng = np.random.default_rng(0)
    frames = {n: rng.integers(0, 256, (1, 28, 28, 3), np.uint8) for n in range(8)}
    for newest in (3, 5, 7):
        pixels = {n: frames[n] for n in range(newest - 3, newest + 1)}
        clip = np.stack([frames[n][0] for n in range(newest - 3, newest + 1)])
        expected = np.exp(logits_of(model, clip[None])[0])
        np.testing.assert_allclose(
            window.scores(newest, pixels), expected / expected.sum(), atol=1e-5
        )


def test_the_next_window_is_a_stride_after_the_newest_one(trn, monkeypatch):
    predictor = Predictor(trn, seconds=0.4)
    options = dict(every=0.2, frame_rate=25.0, seed=0)
    plan = plan_windows(predictor.contract, **options)
    crop = np.zeros((1, 28, 28, 3), np.uint8)
    wanted, newest = [], [5, 17, 31]  # the network takes longer than a stride, two samples

    class Camera(live.Capture):
        def start(self):
            self.num_frames, self.num_kept = 40, 32

        def window(self, due, offsets, timeout):
            wanted.append(due)
            last = newest.pop(0)
            return last, {last - 3 + o: live.Sample(crop, time.monotonic()) for o in offsets}

    monkeypatch.setattr(live, "Capture", Camera)
    scorer = predictor.timeline_scorer()
    answers = live.live_windows(scorer, plan, predictor.contract.view, None, "camera")
    ends = [round(next(answers).end, 3) for _ in range(3)]
    answers.close()
    assert wanted == [3, 7, 19] and ends == [0.5, 1.7, 3.1]
