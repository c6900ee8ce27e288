"""The hub folder of a training does what its checkpoint does, and so does its copy on the hub."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hub_models import connect, logits
from stand_in_hub import TOKEN, StandInHub

import trn_jax
from trn_jax import cli
from trn_jax.checkpoints import checkpoint
from trn_jax.evaluation import calibrate, evaluate
from trn_jax.export import hub

yaml = pytest.importorskip("yaml")
pytestmark = pytest.mark.thorough
REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    """The hub folder of a training, and the training's checkpoint."""
    _, workdir = trained
    opened = checkpoint.open_checkpoint(workdir)
    folder = tmp_path_factory.mktemp("shared") / "trn_tiny"
    assert hub.write(opened, folder, license="CC-BY-4.0") == "CC-BY-4.0"
    return folder, opened


def test_a_trained_model_is_the_same(shared):
    folder, opened = shared
    found, model = trn_jax.load_model(folder), trn_jax.load_model(opened.directory)
    np.testing.assert_array_equal(logits(found), logits(model))
    for key in ("step", "class_names", "views", "sampling", "metrics", "calibration"):
        assert getattr(found.info, key) == getattr(model.info, key), key
    assert found.info.calibration is not None and found.info.step == 6
    weights = checkpoint.open_checkpoint(folder).weights()
    for name, value in opened.weights().items():
        np.testing.assert_array_equal(weights[name], value)


def test_it_is_evaluated_and_calibrated_like_the_checkpoint(shared, trained, tmp_path, capsys):
    folder, opened = shared
    config, _ = trained
    names = json.loads((folder / "config.json").read_text())["config"]
    assert names["data_dir"] is None  # where the data were is nobody's business
    results = []
    for place, workdir in ((folder, tmp_path / "a"), (opened.directory, tmp_path / "b")):
        evaluate.evaluate(config, str(place), str(workdir), protocols="efficient")
        results.append(json.loads((workdir / "results" / "efficient.json").read_text()))
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["checkpoint"].endswith("trn_tiny")
    before = trn_jax.load_model(folder).info.calibration
    assert calibrate.calibrate(config, str(folder), str(tmp_path / "a"), protocol="accurate") == 0
    after = trn_jax.load_model(folder).info.calibration
    assert (before.protocol, after.protocol) == ("efficient", "accurate")
    (folder / "calibration.json").unlink()


def run(*command, **environment):
    """A command in a process of its own, as `train` and `eval` take over the terminal."""
    return subprocess.run(
        [sys.executable, "-m", "trn_jax.cli", *map(str, command)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_it_starts_a_training_a_probe_and_gives_features(shared, trained, tmp_path):
    folder, _ = shared
    config, workdir = trained
    data = f"--config.data_dir={config.data_dir}"
    flags = [data, f"--config.init_from={folder}", "--config.train.steps=1"]
    done = run("train", workdir.parent / "recipe.py", f"--workdir={tmp_path}/run", *flags)
    assert done.returncode == 0, done.stderr
    assert f"weights from {folder}" in done.stderr
    video, to = config.data_dir + "/rawframes/val0", f"--to={tmp_path}/features.npz"
    assert cli.main(["features", video, f"--checkpoint={folder}", to]) == 0
    command = ["probe", config.data_dir, f"--checkpoint={folder}", f"--workdir={tmp_path}/probe"]
    assert cli.main([*command, "--config.train.epochs=2.0", "--config.train.batch=8"]) == 0


def test_predictions_are_the_same(shared, trained, capsys):
    folder, opened = shared
    video = trained[0].data_dir + "/rawframes/val0"
    answers = []
    for place in (folder, opened.directory):
        assert cli.main(["predict", video, f"--checkpoint={place}", "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]


def test_the_card_has_what_the_hub_reads(shared):
    folder, _ = shared
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["library_name"], head["pipeline_tag"]) == ("trn_jax", "video-classification")
    assert head["license"] == "cc-by-4.0" and {"trn", "jax"} <= set(head["tags"])
    assert head["metrics"] == ["accuracy"]
    content = json.loads((folder / "config.json").read_text())
    (found,) = head["model-index"]
    values = [m["value"] for each in found["results"] for m in each["metrics"]]
    measured = [each["metrics"] for each in content["results"]]
    assert [each["protocol"] for each in content["results"]] == ["accurate", "efficient"]
    assert values == [each[name] for each in measured for name in ("top1", "top5")]
    for part in ("trn-jax predict", "trn_jax.load_model", "6 steps of 8 clips", "24 videos"):
        assert part in text, part
    assert f"| efficient | val | 4 | 1 | {100 * measured[1]['top1']:.2f} |" in text


@pytest.mark.slow
def test_a_command_about_an_address_leaves_the_cache_alone(shared, tmp_path, trained, monkeypatch):
    """Of one commit, with the results in a folder of its own."""
    data = f"--config.data_dir={trained[0].data_dir}"
    monkeypatch.chdir(tmp_path)
    with StandInHub() as server:
        connect(monkeypatch, server.url, tmp_path / "cache" / "hub", token=TOKEN)
        assert cli.main(["push", str(shared[0]), "hf:user/tiny"]) == 0
        environment = dict(
            HF_ENDPOINT=server.url, HF_HOME=str(tmp_path / "cache"), HF_HUB_DISABLE_XET="1"
        )
        command = ["eval", "hf:user/tiny", "--protocol=efficient", data]
        done = run(*command, **environment)
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / "runs/user_tiny/results/efficient.json").read_text())
        assert (
            result["checkpoint"] == f"hf:user/tiny@{server.repositories['user/tiny'].sha('main')}"
        )
        before = sorted((tmp_path / "cache" / "hub").rglob("*"))
        done = run("calibrate", "hf:user/tiny", data, **environment)
        assert done.returncode == 2 and "hf:user/tiny" in done.stderr
    done = run(*command, **environment)
    assert done.returncode == 0, done.stderr
    assert "from its cache" in done.stderr
    assert sorted((tmp_path / "cache" / "hub").rglob("*")) == before
