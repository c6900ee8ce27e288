"""Values of frames: each model's game against its definition."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx
from logits import logits_of

from trn_jax import create_model
from trn_jax.errors import UserError
from trn_jax.explanation import shapley
from trn_jax.explanation.frames import FrameExplainer, game_of
from trn_jax.explanation.rearranged import LoadedClip, Rearranged, held
from trn_jax.models.trn import TRNHead

MODELS = ("trn_resnet10", "tsn_resnet10", "tsm_resnet10", "tin_resnet10", "tpn_tsm_resnet10")
OPTIONS = {"tin_resnet10": dict(width=16), "tpn_tsm_resnet10": dict(width=8)}  # groups of channels


def clip_of(rng, num_frames=4):
    return rng.integers(0, 256, (num_frames, 28, 28, 3), np.uint8)


@functools.cache
def rearranged_of(model):
    """The `Rearranged` of a model, whose programs are compiled once for all tests."""
    return Rearranged(model, max_clips=4)


def explained(model, pixels, classes=(0, 2), **options):
    rearranged = rearranged_of(model)
    explainer = FrameExplainer(model, rearranged, num_frames=len(pixels), **options)
    return *explainer(rearranged.load(pixels), classes), rearranged


@pytest.mark.by_default(3, slow=("tin",))
@pytest.mark.parametrize("name", MODELS)
def test_values_sum_to_what_all_frames_add(models, rng, name):
    model, pixels = models(name, **OPTIONS.get(name, {})), clip_of(rng)
    found, _, _ = explained(model, pixels)
    np.testing.assert_allclose(found.values.sum(axis=1), found.all - found.none, atol=1e-5)
    expected = logits_of(model, pixels[None])[0, [0, 2]]
    np.testing.assert_allclose(found.all, expected, atol=1e-4)
    assert abs(found.values).max() > 1e-4 and (found.errors == 0).all()


def test_games():
    def game(name, **options):
        options = dict(num_classes=3, width=16, num_segments=4) | options
        if "tpn" in name:
            options["conv_groups"] = 4
        # Without weights, which decide nothing.
        return game_of(nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0), **options)))

    assert [game(name) for name in MODELS] == ["relations", "mean", "held", "held", "held"]
    assert game("trn_resnet10", head="trn") == "held"  # a single scale


def random_head(num_frames, rng):
    """A TRN that is a head with random weights, and a clip of random features."""
    options = dict(num_segments=num_frames, multi_scale=True, embedding_channels=6)
    head = TRNHead(5, 3, rngs=nnx.Rngs(0), **options)
    state = nnx.state(head)
    for _, leaf in nnx.to_flat_state(state):
        leaf[...] = rng.normal(0, 0.3, leaf.shape).astype(np.float32)
    nnx.update(head, state)
    features = rng.normal(size=(num_frames, 5)).astype(np.float32)
    return SimpleNamespace(head=head, sees_frames=True), LoadedClip(num_frames, None, features)


def score_of_frames(model, features, frames):
    """A TRN on some frames of a clip, by its definition, with NumPy."""
    weights = {
        "/".join(map(str, path)): np.asarray(leaf[...], np.float64)
        for path, leaf in nnx.to_flat_state(nnx.state(model.head))
    }
    x = np.maximum(features.astype(np.float64) @ weights["fc/kernel"] + weights["fc/bias"], 0)
    total = 0.0
    for number, relation in enumerate(model.head.relations):
        part = {
            name: weights[f"relations/{number}/{name}"]
            for name in ("hidden/kernel", "hidden/bias", "output/kernel", "output/bias")
        }
        scores = []
        for chosen in itertools.combinations(frames, relation.scale):
            rows = x[list(chosen)].ravel()
            hidden = np.maximum(rows @ part["hidden/kernel"] + part["hidden/bias"], 0)
            scores.append(hidden @ part["output/kernel"] + part["output/bias"])
        mean = np.mean(scores, axis=0) if scores else part["output/bias"]
        total = total + relation.num_used * mean
    return total


@pytest.mark.by_default(1)
@pytest.mark.parametrize("num_frames", [4, 8])
def test_values_of_a_trn_are_those_of_all_its_subsets(rng, num_frames):
    model, clip = random_head(num_frames, rng)
    subsets = shapley.subsets(num_frames)
    values = [score_of_frames(model, clip.features, np.flatnonzero(each)) for each in subsets]
    explainer = FrameExplainer(model, None, num_frames=num_frames)
    found, scales = explainer(clip, (0, 1, 2))
    np.testing.assert_allclose(found.values, shapley.exact(values).T, atol=1e-4)
    np.testing.assert_allclose(found.none, values[0], atol=1e-5)
    assert [each.scale for each in scales] == list(range(2, num_frames + 1))
    # Equation 3: the logit is the sum over the scales.
    np.testing.assert_allclose(sum(each.scores for each in scales), values[-1], atol=1e-4)


def test_representative_frames_are_those_of_the_best_relation(rng):
    model, clip = random_head(4, rng)
    _, scales = FrameExplainer(model, None, num_frames=4)(clip, (1,))
    pairs = scales[0]
    bias = {each.scale: np.asarray(each.output.bias[...]) for each in model.head.relations}
    others = sum(model.head.relations[i].num_used * bias[s][1] for i, s in ((0, 4), (1, 3)))
    by_pair = {
        pair: score_of_frames(model, clip.features, pair)[1] - others
        for pair in itertools.combinations(range(4), 2)
    }
    best = max(by_pair, key=by_pair.get)
    assert tuple(pairs.best[0]) == best
    np.testing.assert_allclose(pairs.best_scores[0], by_pair[best], atol=1e-4)


def test_equal_frames_have_equal_values(models, rng):
    frame = clip_of(rng, 1)
    for name in ("trn_resnet10", "tsn_resnet10"):
        values = explained(models(name), np.repeat(frame, 4, axis=0))[0].values
        np.testing.assert_allclose(values, values[:, :1].repeat(4, axis=1), atol=1e-5)
    pixels = clip_of(rng)
    pixels[2] = pixels[0]
    values = explained(models("tsn_resnet10"), pixels)[0].values
    np.testing.assert_allclose(values[:, 0], values[:, 2], atol=1e-5)
    assert abs(values[:, 0] - values[:, 1]).min() > 1e-4


@pytest.mark.by_default(1)
@pytest.mark.parametrize("num_frames", [4, 8])
def test_closed_form_of_a_tsn_is_that_of_all_subsets(models, rng, num_frames):
    model, pixels = models("tsn_resnet10"), clip_of(rng, num_frames)
    found, _, _ = explained(model, pixels)
    features = rearranged_of(model).load(pixels).features
    subsets = shapley.subsets(num_frames)
    means = subsets @ features / np.maximum(subsets.sum(axis=1), 1)[:, None]
    values = np.asarray(model.head_logits(means[:, None].astype(np.float32)))[:, [0, 2]]
    assert found.method == "closed form"
    np.testing.assert_allclose(found.values, shapley.exact(values).T, atol=1e-5)
    np.testing.assert_allclose(found.none, values[0], atol=1e-6)


def test_sampled_values_have_errors(models, rng):
    model, pixels = models("tsm_resnet10"), clip_of(rng)
    exact, _, _ = explained(model, pixels)
    found, _, _ = explained(model, pixels, num_orders=4)
    assert (exact.method, found.method) == ("exact", "sampled")
    np.testing.assert_allclose(found.values.sum(axis=1), found.all - found.none, atol=1e-5)
    np.testing.assert_allclose(found.none, exact.none, atol=1e-5)
    assert found.errors.max() > 0
    again, _, _ = explained(model, pixels, num_orders=4)
    np.testing.assert_array_equal(found.values, again.values)


def test_absent_frames_freeze():
    subsets = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    expected = [[1, 1, 1, 3, 3], [0, 0, 0, 0, 0], [4, 4, 4, 4, 4], [5, 5, 5, 5, 5]]
    np.testing.assert_array_equal(held(subsets), expected)


@pytest.mark.by_default(1)
@pytest.mark.parametrize("name", MODELS)
def test_rearranged_clips_are_those_of_rearranged_frames(models, rng, name):
    model, pixels = models(name, **OPTIONS.get(name, {})), clip_of(rng)
    rearranged = rearranged_of(model)
    choices = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 3, 3], [1, 1, 1, 1], [4, 0, 4, 4]])
    rows = np.concatenate([pixels, np.broadcast_to(model.mean, (1, 28, 28, 3))])
    expected = logits_of(model, rows[choices].astype(np.float32))
    clip = rearranged.load(pixels)
    np.testing.assert_allclose(rearranged.logits(clip, choices), expected, atol=1e-4)
    if model.neck is None:
        heads = np.asarray(model.head_logits(clip.features[None]))
        np.testing.assert_allclose(heads, expected[:1], atol=1e-4)


def test_one_program_scores_all_rearrangements(models, rng, monkeypatch):
    shapes, steps, model = set(), [], models("tsm_resnet10")
    traced = type(model).outputs

    def outputs(self, clips, **options):
        shapes.add(clips.shape)
        return traced(self, clips, **options)

    monkeypatch.setattr(type(model), "outputs", outputs)
    rearranged = Rearranged(model, max_clips=3)
    clip = rearranged.load(clip_of(rng))
    for count in (1, 3, 7):
        assert len(rearranged.logits(clip, np.zeros((count, 4), np.int64))) == count
    # Several clips take as many steps as the rearrangements of one.
    score = rearranged._score
    monkeypatch.setattr(rearranged, "_score", lambda *args: steps.append(1) or score(*args))
    clips = [clip_of(rng) for _ in range(5)]
    found = rearranged.score(clips)
    assert len(steps) == 2 and shapes == {(3, 4, 28, 28, 3)}
    expected = [rearranged.logits(rearranged.load(each), np.arange(4)[None])[0] for each in clips]
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found, axis=0)) == 5


def test_deleting_frames_by_rank_beats_deleting_at_random(rng):
    ranked, at_random = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        model, clip = random_head(6, rng)
        values, _ = FrameExplainer(model, None, num_frames=6)(clip, (0,))
        order = np.argsort(-values.values[0])
        whole = values.all[0]
        for dropped in (1, 2, 3):
            kept = np.sort(order[dropped:])
            ranked.append(whole - score_of_frames(model, clip.features, kept)[0])
            kept = np.sort(rng.permutation(6)[dropped:])
            at_random.append(whole - score_of_frames(model, clip.features, kept)[0])
    assert np.mean(ranked) > np.mean(at_random) + 2 * np.std(at_random) / len(at_random) ** 0.5


@pytest.mark.parametrize("num_orders", [2, 7])
def test_orders_come_in_pairs(models, num_orders):
    with pytest.raises(UserError, match=f"num_orders={num_orders}"):
        FrameExplainer(models("tsm_resnet10"), None, num_frames=4, num_orders=num_orders)


def test_too_many_frames(models):
    with pytest.raises(UserError, match=r"64 frames take .* at most num_orders=64"):
        FrameExplainer(models("tsm_resnet10"), None, num_frames=64, num_orders=100)
    with pytest.raises(UserError, match="2000 frames"):
        FrameExplainer(models("tsm_resnet10"), None, num_frames=2000)
