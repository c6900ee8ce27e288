"""Predictions after every frame: against clips, windows and evaluations, and by the command."""

import json

import numpy as np
import painted
import pytest
from small_models import config_of, store

from trn_jax import cli, load_model, predict
from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError
from trn_jax.prediction import frame_by_frame, live
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.detection import DetectionSettings, EventDetector


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A checkpoint of a model that sees frames before, not after."""
    config = config_of("tsm_resnet10", causal=True, shift_div=4)
    return store(tmp_path_factory.mktemp("causal") / "model", config)


@pytest.fixture(scope="module")
def predictors(causal, trn):
    """Streams of both kinds of models, compiled once."""
    return {
        kind: Predictor(load_model(path), stream=True)
        for kind, path in (("causal", causal), ("trn", trn))
    }


def answers_of(predictor, *films):
    return list(predictor(predictor.find(films)))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A film as long as training examples, and one of 87 frames, 25 per second."""
    folder = tmp_path_factory.mktemp("films")
    return [
        str(painted.write(folder / f"film{count}.mp4", painted.frames(count), g=12))
        for count in (20, 87)
    ]


@pytest.mark.parametrize("kind", ["causal", "trn"])
def test_the_last_frame_of_an_example_has_the_scores_of_its_clip(predictors, films, kind):
    answers = answers_of(predictors[kind], films[0])
    # Four frames, in the middle of segments of 0.2 seconds.
    np.testing.assert_allclose([answer.end for answer in answers], [0.1, 0.3, 0.5, 0.7])
    assert all(answer.is_window and answer.start == 0 for answer in answers)
    (whole,) = predict(films[0], predictors[kind].model)
    np.testing.assert_allclose(answers[-1].scores, whole.scores, atol=1e-5)
    assert len({answer.scores.tobytes() for answer in answers}) == 4


@pytest.mark.thorough
@pytest.mark.parametrize("crop", ["center", "ten"])
def test_answers_of_a_trn_are_those_of_windows_a_segment_apart(films, trn, crop):
    model = load_model(trn)
    windows = list(predict(films[1], model, timeline=True, crop=crop))
    answers = list(predict(films[1], model, stream=True, crop=crop))
    assert len(answers) == 17  # of 3.48 seconds
    for answer, window in zip(answers[3:], windows[:-1], strict=True):
        np.testing.assert_allclose(answer.scores, window.scores, atol=1e-5)
        assert answer.end == pytest.approx(window.end - 0.1)
        assert answer.end - answer.start == pytest.approx(min(answer.end, 0.8))


def test_a_video_without_an_index_has_the_same_answers(films, predictors, tmp_path):
    path = str(painted.write(tmp_path / "film.h264", painted.frames(87), g=12))
    mine, expected = (answers_of(predictors["causal"], film) for film in (path, films[1]))
    assert [answer.end for answer in mine] == [answer.end for answer in expected]
    for answer, other in zip(mine, expected, strict=True):
        np.testing.assert_allclose(answer.scores, other.scores, atol=0.02)


@pytest.mark.parametrize("name", ["one.mp4", "one.h264"])
def test_a_video_of_one_frame_has_an_answer(predictors, tmp_path, name):
    path = str(painted.write(tmp_path / name, painted.frames(1)))
    (answer,) = answers_of(predictors["causal"], path)
    assert answer.scores is not None and answer.end > 0


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [("efficient", (0.8, 0.2)), ("twice_ten", (0.8, 0.2)), ("clips", (0.48, 0.12))],
)
def test_frames_are_as_far_apart_as_in_a_clip_of_the_protocol(predictors, protocol, expected):
    model = predictors["trn"].model
    scorer = Predictor(model, stream=True, protocol=protocol).frame_scorer
    assert scorer.plan(30.0) == pytest.approx(expected)


def test_another_video_begins_anew(films, predictors):
    found = answers_of(predictors["causal"], *films[::-1])
    expected = answers_of(predictors["causal"], films[0])
    assert len(found) == 21
    np.testing.assert_array_equal(found[-1].scores, expected[-1].scores)


# The command


def run(capsys, *arguments):
    status = cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, [json.loads(line) for line in printed.out.splitlines()], printed.err


def test_the_command_prints_an_answer_per_frame_and_events(films, causal, capsys, tmp_path):
    command = [films[1], f"--checkpoint={causal}", "--stream", f"--to={tmp_path / 'to'}", "--json"]
    command += ["--threshold=0.26", "--smoothing=3"]
    status, first, _ = run(capsys, *command)
    assert status == 0
    kinds = [entry["kind"] for entry in first]
    assert kinds.count("window") == 17 and kinds.count("event") >= 1
    # An event comes while the video is read, not at its end.
    table = (tmp_path / "to" / "events.csv").read_text()
    assert table.count("\n") == 1 + kinds.count("event")
    _, second, messages = run(capsys, *command)
    assert sorted(map(str, second)) == sorted(map(str, first)) and "1 of 1" in messages
    status = cli.main(["predict", *command[:2], "--whole", command[3]])
    assert status == 2 and "stream" in capsys.readouterr().err


@pytest.mark.by_default(1)
@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--every=0.5"], "--every"),
        (["--protocol=clips", "--num-segments=3"], "num_segments=4"),
    ],
)
def test_flags_that_mean_nothing_are_refused(films, trn, capsys, arguments, match):
    status = cli.main(["predict", films[0], f"--checkpoint={trn}", "--stream", *arguments])
    printed = capsys.readouterr()
    assert status == 2 and match in printed.err and not printed.out


def test_a_pooling_needs_a_stream(films, trn, capsys):
    assert cli.main(["predict", films[0], f"--checkpoint={trn}", "--pooling=mean"]) == 2
    assert "--pooling" in capsys.readouterr().err


def test_a_model_that_sees_the_next_frame_is_refused(films, tsm, capsys):
    assert cli.main(["predict", films[0], f"--checkpoint={tsm}", "--stream"]) == 2
    assert "model.causal=True" in capsys.readouterr().err


# Cameras


class Stopped(live.Capture):
    """A camera whose frames a test hands over: numbers of samples, and gaps."""

    script: tuple = ()

    def start(self):
        self.num_frames, self.num_kept = 40, 32
        self._steps = iter(self.script)

    def window(self, due, offsets, timeout):
        step = next(self._steps, None)
        if step is None:
            raise FrameError("unplugged")
        if step == "gap":
            self._gaps.append(live.Gap("camera", 0.7, 1.5, "it ended"))
            return None
        assert step >= due and offsets == [0]
        return step, {step: live.Sample(pixels_of(step), 0.0)}


def pixels_of(number):
    return np.random.default_rng(number).integers(0, 256, (1, 28, 28, 3), np.uint8)


def scores_of(predictor, numbers):
    """Scores after some frames in a row."""
    scorer = predictor.frame_scorer
    scoring = scorer.scoring(live.Crops(predictor.contract.view))
    scoring.warm_up()
    for number in numbers:
        logits = scoring.logits(pixels_of(number))
    return scorer.merged(logits)


def test_a_camera_is_scored_frame_by_frame_and_begins_anew_after_a_gap(predictors, monkeypatch):
    monkeypatch.setattr(frame_by_frame, "Capture", Stopped)
    monkeypatch.setattr(Stopped, "script", (0, 1, 3, "gap", 9, 10))
    predictor = predictors["causal"]
    found = []

    def watch():
        found.extend(predictor.frame_scorer.live(None, "camera", frame_rate=25.0))

    with pytest.raises(FrameError, match="unplugged"):
        watch()
    assert [type(each) for each in found] == [Answer] * 3 + [live.Gap] + [Answer] * 2
    answers = [each for each in found if isinstance(each, Answer)]
    np.testing.assert_allclose([answer.end for answer in answers], [0, 0.2, 0.6, 1.8, 2.0])
    # No window reaches over the gap.
    np.testing.assert_allclose([answer.start for answer in answers], [0, 0, 0, 1.5, 1.5])
    assert answers[-1].age > 0
    assert answers[-1].dropped == 8
    for answer, frames in zip(answers, [[0], [0, 1], [0, 1, 3], [9], [9, 10]], strict=True):
        np.testing.assert_allclose(answer.scores, scores_of(predictor, frames), atol=1e-6)


# Events of windows that begin with the video


def events_of(scores, begin=0.0, **options):
    """Events of a stream with these scores of the first of two classes, one every 0.2 seconds."""
    detector = EventDetector("film", ("a", "b"), DetectionSettings(**options))
    found = []
    for number, score in enumerate(scores):
        end = 0.1 + 0.2 * number
        scores = np.array([score, 0.3], np.float32)
        start = max(end - 0.8, begin if end > begin else 0.0)
        found += detector.add(Answer("film", start, end, scores, ("a", "b"), is_window=True))
    return [*found, *detector.finish()]


def test_an_event_is_as_long_as_a_window_also_where_the_first_ones_are_short():
    (event,) = events_of([*[0.2] * 10, 0.9, *[0.2] * 9], min_seconds=0.0)
    assert event.end - event.start == pytest.approx(0.8)


def test_of_windows_that_grow_the_last_one_counts():
    """The scores of the first frames know little."""
    assert events_of([0.9, 0.9, 0.9, *[0.2] * 17], min_seconds=0.0) == []
    (event,) = events_of([0.2, 0.2, 0.2, *[0.9] * 17])
    assert (event.start, event.end) == pytest.approx((0.0, 3.9))
    # A gap ends at 2 seconds; the windows from there on grow, too.
    assert events_of([*[0.2] * 10, 0.9, 0.9, *[0.2] * 8], begin=2.0, min_seconds=0.0) == []
    # A video that is shorter than a window has one.
    (event,) = events_of([0.2, 0.9])
    assert (event.start, event.end) == pytest.approx((0.0, 0.3))


@pytest.mark.parametrize("options", [dict(timeline=True), dict(timeline=False), dict(every=1.0)])
def test_a_stream_takes_no_windows(predictors, options):
    with pytest.raises(UserError, match="--every"):
        Predictor(predictors["trn"].model, stream=True, **options)
