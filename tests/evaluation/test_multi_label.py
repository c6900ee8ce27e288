"""Several labels per video: loss, scores, and a training from the list to the result."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from small_training import write_frames

from trn_jax import config
from trn_jax.checkpoints import manager
from trn_jax.errors import UserError
from trn_jax.evaluation import evaluate, score_files
from trn_jax.recipe_data import Data
from trn_jax.settings import from_dict, to_json
from trn_jax.training import loop, train_step


def test_the_loss_is_the_binary_cross_entropy_of_every_class():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5)), rng.integers(0, 2, (4, 5)).astype(float)
    p = 1 / (1 + np.exp(-logits))
    expected = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    assert train_step.classification_loss(jnp.array(logits), labels) == pytest.approx(
        expected, rel=1e-5
    )
    # And of one label per clip still the cross-entropy of the softmax.
    one = np.array([0, 4, 2, 2])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(shares[np.arange(4), one]))
    assert train_step.classification_loss(jnp.array(logits), one) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.fixture
def settings(tmp_path):
    """A recipe for 16 + 10 clips of random frames with one to three labels each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 10)):
        lines = []
        for index in range(count):
            write_frames(tmp_path / "rawframes" / f"{split}{index}", 4, rng)
            labels = rng.permutation(4)[: 1 + index % 3]
            lines.append(f"{split}{index} 4 {' '.join(map(str, labels))}\n")
        (tmp_path / f"{split}_list.txt").write_text("".join(lines))
    (tmp_path / "label_map.txt").write_text("a\nb\nc\nd\n")
    settings = config.base(dataset="frames", model="tsn_resnet10", num_classes=4)
    settings.data_dir = str(tmp_path)
    settings.model.update(width=4, num_segments=2)
    settings.data.multi_label = True
    frames = dict(num_segments=2, short_side=32, crop_size=32)
    for view in (settings.data.train, settings.data.val, settings.protocols.efficient):
        view.update(frames)
    settings.data.train.update(crop="multi_scale", sampling="random")
    settings.train.update(batch=8, steps=3, eval_every=0.5, keep=1, loss_weight=10.0)
    settings.eval.max_views_per_step = 8
    return settings


@pytest.mark.slow
def test_a_training_with_several_labels(settings, tmp_path):
    workdir = tmp_path / "run"
    assert loop.train(settings, str(workdir)) == 0
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    # The mean of four binary cross-entropies of a fresh network, ten times.
    assert 4 < entries[0]["loss"] < 15
    maps = {e["step"]: e["map"] for e in entries if e["group"] == "val"}
    assert list(maps) == [1, 2, 3]
    # One is the newest checkpoint, the other one, if that is another, the best by mAP.
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {3, max(maps, key=lambda step: (maps[step], step))}

    result = json.loads((workdir / "results" / "efficient.json").read_text())
    assert result["metrics"].keys() == {"map", "map_by_video", "top1"}
    assert result["metrics"]["map"] == pytest.approx(maps[3])
    found = score_files.read(str(workdir / "results" / "efficient.npz"))
    assert found.labels.sum() == 19 and found.labels.shape == (10, 4)
    assert found.metrics() == result["metrics"]
    assert not np.allclose(found.scores.sum(axis=1), 1)

    # The checkpoint says by itself that there are several labels.
    evaluate.evaluate(None, str(workdir), str(tmp_path / "again"), dump=f"{tmp_path}/s.pkl")
    again = score_files.read(f"{tmp_path}/s.pkl")
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-4)
    assert again.videos == found.videos

    # Results of the test list go to a folder of their own.
    before = (workdir / "results" / "efficient.json").read_bytes()
    lines = (tmp_path / "val_list.txt").read_text().splitlines(keepends=True)
    (tmp_path / "test_list.txt").write_text("".join(lines[:3]))
    evaluate.evaluate(None, str(workdir), str(workdir), split="test")
    result = json.loads((workdir / "results" / "test" / "efficient.json").read_text())
    assert (result["split"], result["num_videos"]) == ("test", 3)
    assert result["list"].endswith("test_list.txt")
    assert (workdir / "results" / "efficient.json").read_bytes() == before
    tested = score_files.read(str(workdir / "results" / "test" / "efficient.npz"))
    np.testing.assert_allclose(tested.scores, found.scores[:3], rtol=1e-4)


def test_one_list_of_the_other_kind_is_refused(settings, tmp_path):
    settings.data.multi_label = False
    with pytest.raises(UserError, match=r"train_list\.txt, 10 .*\n  line 2: 'train1"):
        _ = Data(settings, str(tmp_path)).train_records
    settings.data.multi_label = True
    (tmp_path / "val_list.txt").write_text("val0 4 1\nval1 4 2\n")
    with pytest.raises(UserError, match=r"val_list\.txt has one label per video in all"):
        _ = Data(settings, str(tmp_path)).val_records


def test_the_best_checkpoint_is_the_one_of_the_named_metric(tmp_path):
    states = ({"weight": jnp.zeros(2)},)
    about = {"config": {}, "class_names": []}
    kept = manager.Checkpoints(tmp_path, keep=1, about=about, best="map")
    for step, value in enumerate((0.2, 0.9, 0.3), start=1):
        kept.save(step, states, states)
        kept.add_metrics(step, {"map": value, "top1": 1 - value})
    kept.close()
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}
    again = manager.Checkpoints(tmp_path, keep=1, about=about, best="map")
    again.save(4, states, states)
    again.save(5, states, states)
    again.add_metrics(5, {"map": 0.4, "top1": 1.0})
    assert {path.name for path in tmp_path.iterdir()} == {"2", "5"}
    for step in (6, 7):
        again.save(step, states, states)
        again.add_metrics(step, {"map": 0.9, "top1": 0.0})
    again.close()
    assert {path.name for path in tmp_path.iterdir()} == {"7"}  # as good as the best, and newer


def test_a_checkpoint_of_before_a_key_existed_has_its_default(settings):
    stored = json.loads(to_json(settings))
    del stored["data"]["multi_label"], stored["train"]["loss_weight"]
    del stored["protocols"]["efficient"]["crop"]
    found = from_dict(stored)
    assert found.data.multi_label is False
    assert found.train.loss_weight == 1
    assert found.protocols.efficient.crop == "center"
    assert found.protocols.efficient.crop_size == 32
    assert found.train.batch == 8
