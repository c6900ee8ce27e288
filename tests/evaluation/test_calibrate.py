"""Checkpoints are calibrated by their training, or later, and reports show what that changes."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from tiny_training import stored

from trn_jax import cli, load_model
from trn_jax.checkpoints import calibration_file, checkpoint
from trn_jax.distributed.run_lock import RunLock
from trn_jax.errors import PassingError, UserError
from trn_jax.evaluation import calibrate, calibration, score_files
from trn_jax.reporting import report
from trn_jax.settings import from_dict
from trn_jax.training import events, loop

NAMES = ("a", "b", "c", "d")


def calibration_at(workdir, step):
    return checkpoint.open_checkpoint(f"{workdir}@{step}").calibration()


def test_a_training_calibrates_its_checkpoints(trained):
    config, workdir = trained
    first, last = (calibration_at(workdir, step) for step in (3, 6))
    # The view of the validation equals that of the protocol.
    assert first.protocol == last.protocol == "efficient"
    assert first.num_videos == 4 and tuple(first.thresholds) == NAMES and first != last
    scores = score_files.read(str(workdir / "results" / "efficient.npz"))
    assert scores.about["temperature"] == last.temperature
    origin = dict(split="val", list_sha256=scores.about["list_sha256"])
    assert calibration.fit(scores, **origin) == last
    accurate = json.loads((workdir / "results" / "accurate.json").read_text())
    assert accurate["temperature"] == last.temperature
    assert load_model(workdir).info.calibration == last
    assert calibrate.validation_protocol(config) == "efficient"
    config = from_dict(config.to_dict())
    config.data.val.crop = "three"
    assert calibrate.validation_protocol(config) == "data.val"


@pytest.mark.slow
def test_the_parameters_are_those_of_a_training_without(trained, tmp_path, monkeypatch):
    config, workdir = trained
    monkeypatch.setattr(events, "calibration_of", lambda *_, **__: None)
    fixed = calibration_at(workdir, 6)
    monkeypatch.setattr(loop, "calibration_of", lambda *_: fixed)
    assert loop.train(config, str(tmp_path)) == 0
    assert calibration_at(tmp_path, 3) is None
    for step in (3, 6):
        ours, theirs = (stored(root / "checkpoints" / str(step)) for root in (tmp_path, workdir))
        for item, values in theirs.items():
            for name, value in values.items():
                np.testing.assert_array_equal(ours[item][name], value)
    entries = [
        [entry for entry in map(json.loads, text.splitlines()) if entry["group"] == "val"]
        for text in ((root / "metrics.jsonl").read_text() for root in (tmp_path, workdir))
    ]
    assert entries[0] == entries[1]


def calibrated(copy, **options):
    return calibrate.calibrate(None, str(copy), str(copy), **options)


def test_a_checkpoint_is_calibrated_later(copy, capsys):
    newest = copy / "checkpoints" / "6"
    expected = calibration_at(copy, 6)
    (newest / calibration_file.NAME).unlink()
    assert load_model(newest).info.calibration is None
    assert calibrated(copy) == 0
    assert calibration_at(copy, 6) == expected
    assert f"temperature {expected.temperature:.3g}" in capsys.readouterr().out
    assert not (copy / "results" / "train").exists()
    assert calibrated(copy, protocol="accurate", split="train", as_json=True) == 0
    found = calibration_at(copy, 6)
    assert json.loads(capsys.readouterr().out) == found.to_dict()
    assert (found.protocol, found.split, found.num_videos) == ("accurate", "train", 24)
    assert calibration_at(copy, 3) != found


def test_what_prevents_a_calibration_is_said(copy, monkeypatch):
    newest = copy / "checkpoints" / "6"
    before = (newest / calibration_file.NAME).read_bytes()
    with pytest.raises(UserError, match="efficient,accurate"):
        calibrated(copy, protocol="efficient,accurate")
    with pytest.raises(UserError, match="'acurate'"):
        calibrated(copy, protocol="acurate")
    with RunLock(str(copy)), pytest.raises(PassingError, match=str(os.getpid())):
        calibrated(copy)
    with monkeypatch.context() as changed:
        changed.setattr(calibrate.os, "access", lambda *_: False)
        with pytest.raises(UserError, match=f"can't write to {newest}"):
            calibrated(copy)
    with pytest.raises(UserError, match="no checkpoint"):
        calibrate.calibrate(None, str(copy / "lists"), str(copy))
    assert (newest / calibration_file.NAME).read_bytes() == before


@pytest.mark.thorough
def test_thresholds_belong_to_the_classes_of_the_checkpoint(trained, copy, tmp_path):
    config, _ = trained
    expected = calibration_at(copy, 6)
    config = from_dict(config.to_dict())
    data = shutil.copytree(config.data_dir, tmp_path / "data")
    config.data_dir = str(data)
    (data / "label_map.txt").write_text("b\na\nd\nc\n")
    lines = [line.split() for line in (data / "val_list.txt").read_text().splitlines()]
    text = "".join(f"{name} {count} {int(label) ^ 1}\n" for name, count, label in lines)
    (data / "val_list.txt").write_text(text)
    assert calibrate.calibrate(config, str(copy), str(copy)) == 0
    found = calibration_at(copy, 6)
    assert found.temperature == pytest.approx(expected.temperature)
    assert found.thresholds == pytest.approx(expected.thresholds)
    assert found.list_sha256 != expected.list_sha256


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_corrupt_calibration_is_ignored_and_named(copy, capsys, text):
    path = copy / "checkpoints" / "6" / calibration_file.NAME
    path.write_text(text)
    model = load_model(copy)
    assert model.info.calibration is None
    assert str(path) in capsys.readouterr().err


def test_a_calibration_of_other_decisions_is_ignored(copy, capsys):
    newest = copy / "checkpoints" / "6"
    values = calibration_at(copy, 6).to_dict() | {"multi_label": True}
    calibration_file.write(newest, calibration_file.Calibration(**values))
    assert load_model(copy).info.calibration is None
    assert "multi_label=True" in capsys.readouterr().err


def test_a_report_shows_the_reliability(trained, tmp_path):
    _, workdir = trained
    found = calibration_at(workdir, 6)
    text, files = report.write_report(str(workdir / "results" / "efficient.json"), str(tmp_path))
    for values in (found.before, found.after):
        (line,) = (line for line in text.splitlines() if line.endswith(f"{values['nll']:.4f}"))
        assert f"{100 * values['ece']:.2f}" in line
    assert [file.rpartition("_")[2] for file in files[1:]] == ["reliability.png", "confusion.png"]
    image = cv2.imread(files[1])[..., ::-1]
    for color in ((0, 114, 178), (213, 94, 0)):
        assert (image == color).all(axis=-1).sum() > 20
    numbers = report.read_results(str(workdir))["efficient"]
    assert numbers["temperature"] == found.temperature
    assert numbers["reliability"] == {"before": found.before, "after": found.after}


def test_a_report_on_several_labels_shows_the_reliability(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.random((50, 3)).astype(np.float32)
    labels = (rng.random((50, 3)) < scores).astype(np.float32)
    labels[:, 0] = 1
    found = score_files.Scores(scores, labels, [], [], about={"temperature": 2.0})
    score_files.write(str(tmp_path / "s.npz"), found)
    text, files = report.write_report(str(tmp_path / "s.npz"))
    assert "temperature 2" in text and files[1].endswith("s_reliability.png")
    for strange in (0.0, "warm", float("nan")):
        found.about["temperature"] = strange
        score_files.write(str(tmp_path / "s.npz"), found)
        assert "temperature" not in report.write_report(str(tmp_path / "s.npz"))[0]


def test_the_command_passes_its_flags_on(monkeypatch):
    from trn_jax import main

    seen = []
    monkeypatch.setattr(main, "run", lambda arguments: seen.append(arguments))
    cli.main(["calibrate", "runs/a@best", "--split=test", "--config.train.batch=3", "--json"])
    cli.main(["calibrate", "runs/a", "--protocol=accurate"])
    calibrates = ["trn-jax", "--mode=calibrate"]
    assert seen == [
        [*calibrates, "--checkpoint=runs/a@best", "--split=test", "--json"]
        + ["--config.train.batch=3"],
        [*calibrates, "--checkpoint=runs/a", "--protocol=accurate"],
    ]
