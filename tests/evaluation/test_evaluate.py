"""Evaluation: merged views, and several protocols in one pass over the videos."""

import dataclasses
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_training import write_frames

from trn_jax import checks, create_model, progress
from trn_jax import config as configuration
from trn_jax.data import datasets, decode
from trn_jax.data.reader import Clip, VideoClips
from trn_jax.errors import UserError
from trn_jax.evaluation import evaluate, evaluator, merging, scoring
from trn_jax.recipe_data import Data

# Merging


def softmax(x):
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.smoke
def test_views_are_merged_as_logits_or_as_probabilities():
    logits = 3 * np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    of_logits = merging.merge_views(logits, merge="logits")
    np.testing.assert_allclose(of_logits, softmax(logits.mean(0)), rtol=1e-6)
    of_probabilities = merging.merge_views(logits, merge="probabilities")
    np.testing.assert_allclose(of_probabilities, softmax(logits).mean(0), rtol=1e-6)
    assert np.abs(of_logits - of_probabilities).max() > 0.05


def test_infinite_logits_give_nan_without_a_warning(recwarn):
    assert np.isnan(merging.merge_views(np.array([[np.inf, 0.0]]), merge="probabilities")).all()
    assert not recwarn.list


def test_several_labels_give_sigmoids():
    logits = 3 * np.random.default_rng(0).normal(size=(4, 3))
    for merge, expected in (
        ("logits", jax.nn.sigmoid(logits.mean(0))),
        ("probabilities", jax.nn.sigmoid(logits).mean(0)),
    ):
        found = merging.merge_views(logits, merge=merge, multi_label=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_probabilities_of_huge_logits_are_numbers():
    huge = np.array([[1e4, -1e4, 0.0]])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(merging.merge_views(huge, merge="logits"), [1, 0, 0])
        found = merging.merge_views(huge, merge="logits", multi_label=True)
    np.testing.assert_array_equal(found, [1, 0, 0.5])


class FirstPixels(nnx.Module):
    """A model whose logits are the first pixel of a clip."""

    merge_views = "logits"

    def __call__(self, clips, *, rngs, clip_index):
        return jnp.asarray(clips[:, 0, 0, 0], jnp.float32) / 50


NUM_PLACES = 5  # of a view; a video with fewer clips shows some of them several times


class Videos:
    """What `Evaluator` takes of `Data`, for clips of one pixel."""

    def __init__(self, clips):
        self._clips = clips  # per video, `[clips, 1, 1, 1, 3]`
        self.class_names = ["a", "b", "c"]
        self.reversed_class = {}
        self.val_records = self.val_names = [f"v{i}" for i in range(len(clips))]
        self.val_labels = np.arange(len(clips)) % 3

    def eval_videos(self, views):
        for index, pixels in enumerate(self._clips):
            clips = [
                Clip(
                    index, (number,), 1, (0, 0, 1, 1), 1, places=self._places(views, number, index)
                )
                for number in range(len(pixels))
            ]
            yield VideoClips(index, clips, [pixels])

    def _places(self, views, number, index):
        positions = range(number, NUM_PLACES, len(self._clips[index]))
        return tuple((name, position, False) for name in views for position in positions)


@pytest.mark.smoke
@pytest.mark.parametrize("max_views", [1, 16, 100])
def test_a_view_merges_as_it_says_or_as_the_model_prescribes(max_views):
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (1 + i % 5, 1, 1, 1, 3), np.uint8) for i in range(23)]
    graph, state = nnx.split(FirstPixels())
    section = dict(
        num_segments=1, short_side=1, crop_size=1, sampling="clips", num_clips=NUM_PLACES
    )
    views = {
        merge: configuration.view(**section, merge_views=merge)
        for merge in ("model", "logits", "probabilities")
    }
    found = evaluator.Evaluator(graph, max_views=max_views).run(Videos(clips), views, (state,))
    for index, pixels in enumerate(clips):
        logits = pixels[np.arange(NUM_PLACES) % len(pixels), 0, 0, 0] / 50
        expected = {
            "model": softmax(logits.mean(0)),
            "logits": softmax(logits.mean(0)),
            "probabilities": softmax(logits).mean(0),
        }
        for name, probabilities in expected.items():
            scores = found[name]["scores"].scores[index]
            np.testing.assert_allclose(scores, probabilities, rtol=1e-5)


# One pass


@pytest.fixture
def settings(tmp_path):
    """A recipe in the layout of Kinetics-400, for 7 videos of 2 to 40 frames of random size."""
    rng = np.random.default_rng(0)
    lines = []
    for index, num_frames in enumerate((2, 40, 13, 25, 7, 31, 18)):
        size = tuple(rng.integers(36, 60, 2).tolist())
        write_frames(tmp_path / "rawframes" / f"v{index}", num_frames, rng, size=size)
        lines.append(f"v{index} {num_frames} {index % 4}\n")
    for split in ("train", "val"):
        (tmp_path / f"{split}_list.txt").write_text("".join(lines))
    (tmp_path / "label_map.txt").write_text("a\nb\nc\nd\n")

    def recipe_of(model, **options):
        settings = configuration.base(dataset="frames", model=model, num_classes=4)
        settings.data_dir = str(tmp_path)
        settings.model.update(width=4, num_segments=3, **options)
        small = dict(num_segments=3, short_side=32, crop_size=28)
        settings.data.train.update(small)
        settings.protocols.efficient.update(small)
        settings.protocols["1x10"] = configuration.view(**small, crop="ten")
        clips = small | dict(sampling="clips", num_clips=10, frame_interval=2)
        clips |= dict(crop="three", crop_size=32)
        settings.protocols["10x3"] = configuration.view(**clips)
        return settings

    return recipe_of


def evaluator_of(settings, **options):
    model = create_model(**settings.model, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    return evaluator.Evaluator(graph, **options), (nnx.as_pure(state),)


def add_25x10(settings):
    settings.protocols["25x10"] = configuration.view(
        num_segments=25, short_side=32, crop_size=28, crop="ten"
    )


@pytest.mark.by_default("tsm_resnet10", slow=("tsn_resnet10",))
@pytest.mark.parametrize("model", ["tsn_resnet10", "tsm_resnet10"])
def test_protocols_in_one_pass_give_the_numbers_of_separate_runs(
    settings, tmp_path, monkeypatch, model
):
    settings = settings(model)
    if model.startswith("tsn"):
        add_25x10(settings)
    data = Data(settings, str(tmp_path / "run"))
    graphs = []

    class Scorer(scoring.ClipScorer):
        def __init__(self, graph, **options):
            super().__init__(graph, **options)
            graphs.append(str(graph))

    monkeypatch.setattr(evaluator, "ClipScorer", Scorer)
    evaluated, states = evaluator_of(settings)
    decoded = []
    decode_image = decode.decode_image

    def counted(data, name, *others):
        decoded.append(name)
        return decode_image(data, name, *others)

    monkeypatch.setattr(decode, "decode_image", counted)
    together = evaluated.run(data, settings.protocols, states)
    assert len(decoded) == len(set(decoded)) > 0
    assert list(together) == list(settings.protocols)
    views = {name: result["num_views"] for name, result in together.items()}
    assert views == {
        name: {"efficient": 1, "1x10": 10, "10x3": 30, "25x10": 10}[name]
        for name in settings.protocols
    }
    for name, view in settings.protocols.items():
        alone = evaluated.run(data, {name: view}, states)[name]
        for key in ("metrics", "per_class", "num_views", "num_videos"):
            assert together[name][key] == alone[key]
        scores = together[name]["scores"].scores
        np.testing.assert_array_equal(scores, alone["scores"].scores)
        np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
        assert len(np.unique(scores, axis=0)) == len(scores)
    # Two structures for all runs: of the model, for checks, and with folded batch norms.
    assert ["BatchNorm" in graph for graph in graphs] == [True, False]


def test_scores_do_not_depend_on_how_many_clips_are_scored_at_a_time(settings, tmp_path):
    settings = settings("trn_resnet10", eval_relations="sample")  # draws, by the video
    data = Data(settings, str(tmp_path / "run"))
    views = {name: settings.protocols[name] for name in ("efficient", "1x10")}
    found = []
    for max_views in (8, 40):
        evaluator, states = evaluator_of(settings, max_views=max_views)
        found.append(evaluator.run(data, views, states))
    for name in views:
        first, second = (results[name]["scores"].scores for results in found)
        np.testing.assert_allclose(first, second, rtol=1e-4)


@pytest.mark.slow
def test_relations_are_drawn_several_times(settings, tmp_path):
    settings = settings("trn_resnet10")
    small = settings.protocols.efficient.to_dict()
    small |= dict(num_segments=5)
    for section in (settings.model, settings.data.train, settings.data.val):
        section.num_segments = 5
    settings.model.init_std = 1.0  # so that relations differ
    views = {
        "expected": configuration.view(**small),
        "drawn": configuration.view(**small | dict(relations="sample", num_draws=64)),
        "first": configuration.view(**small | dict(relations="first")),
    }
    checks.check(settings)
    data = Data(settings, str(tmp_path / "run"))
    evaluator, states = evaluator_of(settings)
    together = evaluator.run(data, views, states)
    assert "spread" not in together["expected"]
    drawn = together["drawn"]
    assert drawn["num_draws"] == 64 and drawn["spread"].keys() == drawn["metrics"].keys()
    for mode in ("first", "expected"):
        settings.model.eval_relations = mode
        alone_evaluator, alone_states = evaluator_of(settings)
        alone = alone_evaluator.run(data, {"x": views["expected"]}, alone_states)["x"]
        np.testing.assert_allclose(
            alone["scores"].scores, together[mode]["scores"].scores, rtol=1e-4
        )
    # The scores that are kept are those of the first draw, which is that of one draw.
    one = configuration.view(**small | dict(relations="sample"))
    alone = evaluator.run(data, {"x": one}, states)["x"]
    np.testing.assert_allclose(alone["scores"].scores, drawn["scores"].scores, rtol=1e-4)
    other = together["expected"]["scores"].scores
    assert np.abs(other - drawn["scores"].scores).max() > 1e-3
    settings.protocols.efficient.update(num_draws=2)
    with pytest.raises(UserError, match=r"protocols\.efficient: num_draws=2 .*relations='sample'"):
        checks.check(settings)


def test_relations_need_a_network_that_has_some(settings, tmp_path):
    settings = settings("tsn_resnet10")
    view = configuration.view(**settings.protocols.efficient.to_dict() | dict(relations="sample"))
    evaluator, states = evaluator_of(settings)
    with pytest.raises(UserError, match=r"evaluate x: .*relations='sample'"):
        evaluator.check({"x": view}, states)


def test_progress_is_shown(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    settings = settings("tsn_resnet10")
    data = Data(settings, str(tmp_path / "run"))
    evaluator, states = evaluator_of(settings)
    found = evaluator.run(data, {"efficient": settings.protocols.efficient}, states)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7
    top1 = 100 * found["efficient"]["metrics"]["top1"]
    assert re.fullmatch(
        rf"Evaluating: 7 of 7 videos \(100%\), top-1 {top1:.2f} % so far, [\d.]+ videos/s, "
        r"0:00:00 left",
        lines[-1],
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tsm_resnet10", r"25x10: .*25 frames.*num_segments=3"),
        ("trn_resnet10", r"25x10.*3.*25"),
    ],
)
def test_a_protocol_that_the_model_cannot_take_is_named_before_anything_is_read(
    settings, tmp_path, monkeypatch, model, message
):
    settings = settings(model)
    add_25x10(settings)
    data = Data(settings, str(tmp_path / "run"))
    monkeypatch.setattr(data, "eval_videos", lambda views: pytest.fail("read the videos"))
    evaluator, states = evaluator_of(settings)
    with pytest.raises(UserError, match=message):
        evaluator.run(data, settings.protocols, states)


def test_the_test_list_is_evaluated_on_request(settings, tmp_path):
    settings = settings("tsn_resnet10")
    with pytest.raises(UserError, match=r"--split=test: .*test_list\.txt.*data\.test_list"):
        _ = Data(settings, str(tmp_path / "run"), "test").val_records
    (tmp_path / "test_list.txt").write_text("v3 25 3\nv1 40 1\n")
    evaluator, states = evaluator_of(settings)
    found = {}
    for split in ("val", "test", "train"):
        data = Data(settings, str(tmp_path / "run"), split)
        views = {"efficient": settings.protocols.efficient}
        (found[split],) = evaluator.run(data, views, states).values()
    assert found["test"]["scores"].videos == ["v3", "v1"]
    assert found["test"]["scores"].labels.tolist() == [3, 1]
    np.testing.assert_array_equal(
        found["test"]["scores"].scores, found["val"]["scores"].scores[[3, 1]]
    )
    assert found["train"]["num_videos"] == 7


def test_results_name_their_list_also_where_it_is_not_a_file(settings, tmp_path):
    data = Data(settings("tsn_resnet10"), str(tmp_path / "run"))
    text = (tmp_path / "val_list.txt").read_bytes()
    assert evaluate.list_hash(data) == hashlib.sha256(text).hexdigest()
    records = list(data.val_records)
    files = datasets.Dataset(val_list=str(tmp_path))  # a folder, as of records
    stored = types.SimpleNamespace(
        files=files, split="val", val_names=data.val_names, val_records=records
    )
    first = evaluate.list_hash(stored)
    records[0] = dataclasses.replace(records[0], label=3)
    assert evaluate.list_hash(stored) != first


# Several hosts


HOST = """
import json, sys
import jax, numpy as np
from flax import nnx

config, out, host, hosts, address = json.loads(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, hosts, host)
from trn_jax import create_model, build
from trn_jax.recipe_data import Data
from trn_jax.settings import from_dict
from trn_jax.training import initial_state
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.distributed.sharding import make_mesh

settings = from_dict(config)
mesh = make_mesh()
assert (mesh.size, jax.local_device_count()) == (4, 2)
parts = build.parts(settings, steps_per_epoch=10)
graph, _, state = initial_state.init_state(
    lambda: create_model(**settings.model, rngs=nnx.Rngs(0)),
    parts.make_optimizer,
    mesh,
)
data = Data(settings, out)
results = Evaluator(graph).run(data, settings.protocols, state.model)
np.savez(f"{out}/{host}.npz", **{name: found["scores"].scores for name, found in results.items()})
assert all(found["distinct_views"] == int(sys.argv[2]) for found in results.values())
"""


@pytest.mark.slow
def test_two_processes_evaluate_as_one(settings, tmp_path):
    """Seven videos, unevenly shared by two processes; parameters are on all devices."""
    settings = settings("tsm_resnet10")
    data = Data(settings, str(tmp_path / "run"))
    evaluator, states = evaluator_of(settings)
    alone = evaluator.run(data, settings.protocols, states)
    num_clips = next(iter(alone.values()))["distinct_views"]
    # A port that the system does not give to somebody else meanwhile
    address = f"127.0.0.1:{random.randrange(20_000, 32_000)}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, json.dumps(arguments), str(num_clips)],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in [
            (settings.to_dict(), str(tmp_path), host, 2, address) for host in range(2)
        ]
    ]
    try:
        errors = [host.communicate(timeout=300)[1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], errors
    for host in range(2):
        with np.load(tmp_path / f"{host}.npz") as found:
            for name, result in alone.items():
                np.testing.assert_allclose(found[name], result["scores"].scores, rtol=1e-5)


@pytest.mark.parametrize("num_hosts", [1, 2, 3, 9])
def test_the_rows_of_all_hosts_make_up_the_list(num_hosts):
    whole = 1 + np.arange(14.0).reshape(7, 2)
    parts = []
    for host in range(num_hosts):
        mine = np.zeros_like(whole)
        mine[host::num_hosts] = whole[host::num_hosts]
        parts.append(evaluator.process_rows(mine, host, num_hosts))
    np.testing.assert_array_equal(evaluator.interleave(np.stack(parts), 7), whole)


# Videos that cannot be read


def test_videos_that_cannot_be_read_count_as_wrong(settings, tmp_path):
    settings = settings("tsn_resnet10")
    for name in ("v1", "v4"):
        (tmp_path / "rawframes" / name / "00001.jpg").write_bytes(b"no image")
        for path in (tmp_path / "rawframes" / name).iterdir():
            path.write_bytes(b"no image")
    evaluator, states = evaluator_of(settings)
    data = Data(settings, str(tmp_path / "run"))
    found = evaluator.run(data, {"efficient": settings.protocols.efficient}, states)["efficient"]
    assert (found["num_videos"], found["num_unreadable"]) == (7, 2)
    assert found["unreadable"] == ["v1", "v4"]
    assert len(evaluator.unreadable) == 2 and "v1" in evaluator.unreadable[0]
    scores = found["scores"]
    np.testing.assert_array_equal(np.flatnonzero(scores.missing), [1, 4])
    assert not scores.scores[[1, 4]].any() and scores.scores[[0, 2, 3, 5, 6]].any(axis=1).all()
    right = scores.scores.argmax(1) == data.val_labels
    right[[1, 4]] = False
    assert found["metrics"]["top1"] == right.mean()
    # The others have the scores that they have without these.
    lines = (tmp_path / "val_list.txt").read_text().splitlines(keepends=True)
    (tmp_path / "val_list.txt").write_text("".join(lines[i] for i in (0, 2, 3, 5, 6)))
    data = Data(settings, str(tmp_path / "run"))
    alone = evaluator.run(data, {"efficient": settings.protocols.efficient}, states)["efficient"]
    np.testing.assert_array_equal(alone["scores"].scores, scores.scores[[0, 2, 3, 5, 6]])
    assert alone["num_unreadable"] == 0 and evaluator.unreadable == []
    settings.data.on_error = "raise"
    (tmp_path / "val_list.txt").write_text("".join(lines))
    data = Data(settings, str(tmp_path / "run"))
    with pytest.raises(decode.FrameError, match="v1"):
        evaluator.run(data, {"efficient": settings.protocols.efficient}, states)


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_list_of_which_nothing_can_be_read_is_an_error(settings, tmp_path, split):
    settings = settings("tsn_resnet10")
    for path in (tmp_path / "rawframes").rglob("*.jpg"):
        path.write_bytes(b"no image")
    evaluator, states = evaluator_of(settings)
    data = Data(settings, str(tmp_path / "run"), split)
    message = rf"none of the 7 videos of .*{split}_list\.txt"
    with pytest.raises(UserError, match=message):
        evaluator.run(data, {"efficient": settings.protocols.efficient}, states)
