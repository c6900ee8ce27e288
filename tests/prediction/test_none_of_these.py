"""Calibrated checkpoints: probabilities, thresholds, and videos of none of the classes."""

import json
import pathlib
import shutil

import numpy as np
import painted
import pytest
from small_models import NAMES, config_of, store, write_films

from trn_jax import cli, predict
from trn_jax.checkpoints import calibration_file
from trn_jax.checkpoints.calibration_file import Calibration
from trn_jax.evaluation.calibration import calibrated
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.detection import DetectionSettings, events_of, settings_for

TEMPERATURE = 0.5


def calibration_of(*thresholds, names=tuple(NAMES), multi_label=False):
    return Calibration(
        temperature=TEMPERATURE,
        threshold=0.5,
        thresholds=dict(zip(names, thresholds, strict=True)),
        multi_label=multi_label,
        protocol="efficient",
        split="val",
        num_videos=8,
        list_sha256="",
        before={"ece": 0.2, "nll": 1.0},
        after={"ece": 0.1, "nll": 0.9},
    )


NEVER, ALWAYS = calibration_of(1, 1, 1, 1), calibration_of(0, 0, 0, 0)


@pytest.fixture(scope="module")
def place(tmp_path_factory, trn):
    """A checkpoint without a calibration, short films and a long one."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(trn, root / "model")
    write_films(root / "short", (20, 14))
    painted.write(root / "long.mp4", painted.frames(87), g=12)
    return root


@pytest.fixture
def model(place):
    """The checkpoint, without a calibration when the test is over."""
    yield place / "model"
    (place / "model" / calibration_file.NAME).unlink(missing_ok=True)


def run(capsys, *arguments):
    """Exit status, lines of the output, and what was printed to standard error."""
    status = cli.main(["predict", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


@pytest.mark.thorough
def test_scores_stay_those_of_an_evaluation(place, model):
    film = place / "short" / "film0.mp4"
    (plain,) = predict(film, model)
    assert plain.calibrated is None and not plain.is_none and plain.calibration is None
    calibration_file.write(model, NEVER)
    (found,) = predict(film, model)
    np.testing.assert_array_equal(found.scores, plain.scores)
    np.testing.assert_array_equal(found.calibrated, calibrated(plain.scores, TEMPERATURE))
    assert found.is_none and found.label == plain.label
    (without,) = predict(film, model, calibrate=False)
    assert without.calibrated is None and not without.is_none
    calibration_file.write(model, ALWAYS)
    windows = list(predict(place / "long.mp4", model))
    assert len(windows) > 3 and not any(window.is_none for window in windows)
    assert all(window.calibrated.sum() == pytest.approx(1) for window in windows)


def test_a_video_of_no_class_is_named_so(place, model, capsys, tmp_path):
    film = place / "short" / "film0.mp4"
    command = [film, f"--checkpoint={model}"]
    _, plain, _ = run(capsys, *command)
    calibration_file.write(model, NEVER)
    to = tmp_path / "to"
    status, lines, messages = run(capsys, *command, f"--to={to}")
    assert status == 0 and "8 videos" in messages and f"temperature {TEMPERATURE}" in messages
    best = plain[0].split()[-1]
    assert lines[0].endswith(f"none of these (best: {best})")
    assert [line.split()[-1] for line in lines[1:]] == [line.split()[-1] for line in plain[1:]]
    # Temperatures below 1 make scores surer.
    assert float(lines[0].split()[1]) > float(plain[0].split()[1])
    assert len((to / "events.csv").read_text().splitlines()) == 1
    assert run(capsys, f"--from-scores={to}")[1] == lines
    for flag in ("--threshold=0.1", "--no-calibration"):
        _, lines, _ = run(capsys, f"--from-scores={to}", flag)
        assert lines[0].split()[-1] == best
    assert lines == plain
    _, lines, _ = run(capsys, f"--from-scores={to}", "--no-calibration", "--threshold=1")
    assert "none of these" in lines[0]
    calibration_file.write(model, ALWAYS)
    _, lines, _ = run(capsys, *command)
    assert lines[0].split()[-1] == best


@pytest.mark.thorough
def test_json_has_both_scores(place, model, capsys):
    calibration_file.write(model, NEVER)
    film = place / "short" / "film1.mp4"
    _, lines, _ = run(capsys, film, f"--checkpoint={model}", "--json")
    (entry,) = map(json.loads, lines)
    assert entry["none_of_these"] is True
    (answer,) = predict(film, model)
    best = answer.top_labels(1)[0]
    assert entry["top"][0] == {
        "label": NAMES[best],
        "score": float(answer.scores[best]),
        "calibrated": float(answer.calibrated[best]),
    }
    _, lines, _ = run(capsys, film, f"--checkpoint={model}", "--json", "--no-calibration")
    (entry,) = map(json.loads, lines)
    assert "none_of_these" not in entry and "calibrated" not in entry["top"][0]


@pytest.mark.slow
def test_events_are_found_with_calibrated_scores_again(place, model, capsys, tmp_path):
    windows = list(predict(place / "long.mp4", model))
    best = np.max([calibrated(window.scores, TEMPERATURE) for window in windows])
    raw = np.max([window.scores for window in windows])
    between = float((best + raw) / 2)  # reached by calibrated scores only
    assert raw < between < best
    calibration_file.write(model, calibration_of(*[between] * 4))
    to = tmp_path / "to"
    command = [place / "long.mp4", f"--checkpoint={model}", f"--to={to}"]
    _, lines, _ = run(capsys, *command)
    assert lines and all(" - " in line for line in lines)
    (path,) = (to / "scores").iterdir()
    with np.load(path) as found:
        np.testing.assert_array_equal(found["scores"], [window.scores for window in windows])
    assert run(capsys, f"--from-scores={to}")[1] == lines
    assert run(capsys, *command)[1] == lines  # resumed
    flags = ["--no-calibration", f"--threshold={between}"]
    assert "no event" in run(capsys, f"--from-scores={to}", *flags)[1][0]
    # Another calibration is no reason to score again.
    calibration_file.write(model, NEVER)
    _, lines, messages = run(capsys, *command)
    assert "1 of 1" in messages and "no event" in lines[0]
    assert "no event" in run(capsys, f"--from-scores={to}")[1][0]
    assert "no event" not in run(capsys, *command, f"--threshold={between}")[1][0]


def test_a_malformed_calibration_of_saved_scores_is_refused(place, model, capsys, tmp_path):
    calibration_file.write(model, ALWAYS)
    to = tmp_path / "to"
    run(capsys, place / "short" / "film0.mp4", f"--checkpoint={model}", f"--to={to}")
    (path,) = (to / "scores").iterdir()
    with np.load(path) as found:
        arrays = dict(found)
    about = json.loads(str(arrays["about"]))
    about["calibration"]["temperature"] = -1
    np.savez(path, **arrays | {"about": np.array(json.dumps(about))})
    status, lines, messages = run(capsys, f"--from-scores={to}")
    assert (status, lines) == (2, []) and path.name in messages and "temperature=-1" in messages


@pytest.mark.thorough
def test_a_corrupt_calibration_costs_only_itself(place, model, capsys):
    film, flag = place / "short" / "film0.mp4", f"--checkpoint={model}"
    _, plain, _ = run(capsys, film, flag)
    (pathlib.Path(model) / calibration_file.NAME).write_text("{}")
    status, lines, messages = run(capsys, film, flag)
    assert (status, lines) == (0, plain) and calibration_file.NAME in messages


@pytest.mark.slow
def test_several_labels(place, capsys, tmp_path):
    config = config_of("tsn_resnet10", num_classes=2)
    config.data.multi_label = True
    model = pathlib.Path(store(tmp_path / "two", config))
    film = place / "short" / "film0.mp4"
    (plain,) = predict(film, model)
    names = tuple(NAMES[:2])
    for thresholds, count in (((1, 1), 0), ((0, 1), 1), ((0, 0), 2)):
        of_both = calibration_of(*thresholds, names=names, multi_label=True)
        calibration_file.write(model, of_both)
        (answer,) = predict(film, model)
        expected = calibrated(plain.scores, TEMPERATURE, multi_label=True)
        np.testing.assert_array_equal(answer.calibrated, expected)
        assert len(answer.accepted(thresholds, multi_label=True)) == count
        assert answer.is_none == (count == 0)
        lines = run(capsys, film, f"--checkpoint={model}")[1]
        assert ("none of these" in lines[0]) == (count == 0)


def answer_of(*scores, calibration=None):
    return Answer("v", 0.0, 2.0, np.array(scores, np.float32), NAMES, calibration=calibration)


def test_the_threshold_of_the_best_class_decides():
    answer = answer_of(0.5, 0.1, 0.3, 0.1, calibration=calibration_of(0.9, 0, 0, 0))
    assert answer.is_none and answer.accepted((0.9, 0, 0, 0)) == []
    assert answer.accepted((0.6, 1, 1, 1)) == [0]  # calibrated, it has 0.69
    assert answer_of(0.5, 0.1, 0.3, 0.1).accepted(0.5) == [0]


def test_settings_follow_the_calibration_unless_they_are_given():
    assert settings_for(None, NAMES) == DetectionSettings()
    thresholds = 0.1, 0.2, 0.3, 0.4
    found = settings_for(calibration_of(*thresholds), NAMES, threshold=None, smoothing=3)
    assert found == DetectionSettings(threshold=thresholds, smoothing=3, rejects=True)
    found = settings_for(calibration_of(*thresholds), NAMES, threshold=0.7)
    assert (found.threshold, found.rejects) == (0.7, True)
    whole = [answer_of(0.4, 0.1, 0.4, 0.1)]
    assert events_of(whole, NAMES, DetectionSettings())
    assert not events_of(whole, NAMES, DetectionSettings(rejects=True))
    assert events_of(whole, NAMES, DetectionSettings(threshold=0.4, rejects=True))


@pytest.mark.thorough
def test_a_checkpoint_without_class_names_is_calibrated(tmp_path, place):
    model = pathlib.Path(store(tmp_path / "model", config_of("trn_resnet10"), class_names=[]))
    names = tuple(f"class {n}" for n in range(4))
    calibration_file.write(model, calibration_of(1, 1, 1, 1, names=names))
    assert Predictor(model).calibration.thresholds_of(names) == (1, 1, 1, 1)
    (answer,) = predict(place / "short" / "film0.mp4", model)
    assert answer.is_none and answer.label.startswith("class ")
