"""Temperatures and thresholds that are known, or found by brute force."""

import itertools

import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation import calibration, metrics
from trn_jax.evaluation.calibration import (
    PRIOR_EXAMPLES,
    best_threshold,
    calibrated,
    fit,
    fit_temperature,
    fit_thresholds,
)
from trn_jax.evaluation.scores import Scores

ORIGIN = dict(split="val", list_sha256="")


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def drawn(num_videos, temperature, *, num_classes=6, multi_label=False, seed=0):
    """Scores whose logits are too large by a factor, and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (num_videos, num_classes))
    if multi_label:
        labels = (rng.random(logits.shape) < sigmoid(logits)).astype(np.float32)
        return sigmoid(temperature * logits).astype(np.float32), labels
    right = softmax(logits)
    labels = np.array([rng.choice(num_classes, p=row) for row in right])
    return softmax(temperature * logits).astype(np.float32), labels


def scores_of(scores, labels, **more):
    names = [f"c{n}" for n in range(scores.shape[1])]
    return Scores(scores, labels, [], names, protocol="efficient", **more)


@pytest.mark.parametrize("multi_label", [False, True])
def test_calibrated_scores_are_those_of_divided_logits(multi_label):
    logits = np.random.default_rng(0).normal(0, 2, (50, 4))
    probabilities = sigmoid if multi_label else softmax
    scores = probabilities(logits).astype(np.float32)
    for temperature in (0.3, 2.5):
        found = calibrated(scores, temperature, multi_label=multi_label)
        np.testing.assert_allclose(found, probabilities(logits / temperature), atol=1e-6)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.argsort(-1), scores.argsort(-1))


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_temperature_of_one_changes_no_bit(multi_label):
    scores = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    scores[0, :2] = 0, 1
    np.testing.assert_array_equal(calibrated(scores, 1.0, multi_label=multi_label), scores)


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_of_zero_and_one_stay_finite(multi_label):
    scores = np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32)
    for temperature in (0.05, 20):
        found = calibrated(scores, temperature, multi_label=multi_label)
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.smoke
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature, multi_label):
    scores, labels = drawn(6000, temperature, multi_label=multi_label)
    found = fit_temperature(scores, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    after = calibrated(scores, found, multi_label=multi_label)
    assert metrics.calibration_error(after, labels) < 0.02


@pytest.mark.parametrize("multi_label", [False, True])
def test_it_minimises_the_likelihood(multi_label, monkeypatch):
    monkeypatch.setattr(calibration, "PRIOR_VIDEOS", 0)
    scores, labels = drawn(60, 2.2, multi_label=multi_label)

    def loss(temperature):
        after = calibrated(scores.astype(np.float64), temperature, multi_label=multi_label)
        return metrics.negative_log_likelihood(after, labels)

    found = fit_temperature(scores, labels)
    grid = np.geomspace(0.05, 20, 400)
    assert loss(found) <= min(map(loss, grid)) + 1e-9
    assert loss(found) < min(loss(0.99 * found), loss(1.01 * found))


def test_chunks_give_the_same_temperature(monkeypatch):
    scores, labels = drawn(100, 2.0)
    whole = fit_temperature(scores, labels)
    monkeypatch.setattr(calibration, "_CHUNK", 50)
    assert fit_temperature(scores, labels) == pytest.approx(whole, rel=1e-6)


def test_temperatures_are_bounded_where_the_likelihood_is_not(monkeypatch):
    right = np.array([[0.9, 0.1], [0.2, 0.8]] * 5, np.float32)
    labels = np.array([0, 1] * 5)
    wrong = 1 - labels
    gentle = fit_temperature(right[:2], labels[:2])
    assert 0.3 < gentle < 1  # two videos tell little
    assert gentle > fit_temperature(np.tile(right, (100, 1)), np.tile(labels, 100)) > 0.05
    assert 1 < fit_temperature(right[:2], wrong[:2]) < 20
    monkeypatch.setattr(calibration, "PRIOR_VIDEOS", 0)
    barely = 0.5 + (right - 0.5) / 10
    assert fit_temperature(barely, labels) == pytest.approx(0.05, rel=1e-6)
    assert fit_temperature(barely, wrong) == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
def test_equal_scores_have_no_temperature(multi_label):
    scores = np.full((8, 4), 0.5 if multi_label else 0.25, np.float32)
    labels = np.arange(8) % 4
    labels = np.eye(4, dtype=np.float32)[labels] if multi_label else labels
    assert fit_temperature(scores, labels) == 1


# Thresholds


def f1(scores, positive, threshold):
    taken = scores >= threshold
    return 2 * (taken & positive).sum() / (taken.sum() + positive.sum())


@pytest.mark.parametrize("seed", range(30))
def test_the_best_threshold_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    # Few different values, so that there are ties.
    scores = rng.integers(0, 12, count) / 11 if seed % 2 else rng.random(count)
    positive = rng.random(count) < 0.2 + 0.6 * scores
    positive[rng.integers(count)] = True
    found = best_threshold(scores, positive)
    candidates = np.concatenate([scores, np.linspace(0, 1, 301)])
    best = max(f1(scores, positive, each) for each in candidates)
    assert f1(scores, positive, found) == best
    # In the middle of the widest gap.
    values = np.unique(np.append(scores, 0.0))
    gaps = [
        (high - low, (low + high) / 2)
        for low, high in itertools.pairwise(values)
        if f1(scores, positive, high) == best
    ]
    if gaps:
        widest = max(gaps)[0]
        expected = min(middle for gap, middle in gaps if gap == widest)
        assert found == pytest.approx(expected)


def test_a_threshold_divides_what_can_be_divided():
    assert best_threshold(np.array([0.1, 0.9, 0.3, 0.7]), np.array([0, 1, 0, 1]) > 0) == 0.5
    assert best_threshold(np.array([0.6, 0.8]), np.array([True, True])) == pytest.approx(0.3)
    assert best_threshold(np.zeros(3), np.array([True, False, False])) == 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_classes_with_few_examples_have_the_threshold_of_all(multi_label):
    rng = np.random.default_rng(0)
    labels = np.array([0] * 30 + [1] * 3)
    scores = rng.dirichlet(np.ones(3), 33)
    wanted = np.eye(3, dtype=np.float32)[labels]
    of_all, each = fit_thresholds(scores, wanted if multi_label else labels)
    assert of_all == best_threshold(scores.ravel(), wanted.ravel() > 0)
    own = [best_threshold(scores[:, n], labels == n) for n in range(2)]
    for count, mine, found in zip((30, 3), own, each, strict=False):
        mean = (count * mine + PRIOR_EXAMPLES * of_all) / (count + PRIOR_EXAMPLES)
        assert found == pytest.approx(mean)
    assert each[2] == of_all  # a class without examples


# Both


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_fit(multi_label):
    scores, labels = drawn(400, 2.0, multi_label=multi_label)
    missing = np.zeros(400, bool)
    missing[::4] = True
    blank = np.where(missing[:, None], 0, scores)
    found = fit(scores_of(blank, labels, missing=missing), **ORIGIN)
    alone = fit(scores_of(scores[~missing], labels[~missing]), **ORIGIN)
    assert found == alone  # unreadable videos don't count
    assert found.num_videos == 300 and found.multi_label == multi_label
    assert found.protocol == "efficient"
    assert list(found.thresholds) == [f"c{n}" for n in range(6)]
    assert found.before["ece"] == metrics.calibration_error(scores[~missing], labels[~missing])
    assert found.after["nll"] < found.before["nll"]
    assert found.after["ece"] < found.before["ece"]
    assert fit(scores_of(blank, labels, missing=missing), **ORIGIN) == found
    named = fit(scores_of(scores, labels), class_names=list("abcdef"), protocol="p", **ORIGIN)
    assert list(named.thresholds) == list("abcdef") and named.protocol == "p"


def test_one_video_is_enough_and_none_is_not():
    scores = np.array([[0.2, 0.8]], np.float32)
    found = fit(scores_of(scores, np.array([1])), **ORIGIN)
    assert 0.5 < found.temperature < 1 and 0 < found.threshold < 1
    with pytest.raises(UserError, match="videos"):
        fit(scores_of(scores, np.array([1]), missing=np.array([True])), **ORIGIN)
    with pytest.raises(UserError, match="probabilities"):
        fit(scores_of(10 * scores, np.array([1])), **ORIGIN)
