"""The paired bootstrap against cases that are known."""

import math

import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation import metrics
from trn_jax.evaluation.scores import Scores
from trn_jax.reporting.difference import compare, exchange_p_value, holm


def scores_of(right, labels, *, num_classes=3, names=None, **others):
    """Scores whose videos are recognised where `right`, else taken for the next class."""
    labels = np.asarray(labels)
    taken = np.where(right, labels, (labels + 1) % num_classes)
    scores = (0.1 + 0.7 * np.eye(num_classes)[taken]).astype(np.float32)
    videos = names or [f"v{i}" for i in range(len(labels))]
    classes = [f"class {c}" for c in "abc"[:num_classes]]
    return Scores(scores, labels, videos, classes, **others)


def test_equal_runs_do_not_differ():
    labels = np.arange(30) % 3
    run = scores_of(np.arange(30) % 2 == 0, labels, about={"list_sha256": "x"})
    found = compare(run, run)
    assert found.same_list and found.num_common == 30
    for each in [*found.metrics, *found.classes]:
        assert (each.difference, each.low, each.high, each.p) == (0, 0, 0, 1)
        assert each.p_holm in (1, None)


@pytest.mark.parametrize("count", [1, 3, 5, 8])
def test_few_videos_are_no_proof(count):
    # All of them got better: the sign test's 2 / 2^n, never less.
    labels = np.zeros(count, int)
    better = scores_of(np.ones(count, bool), labels)
    worse = scores_of(np.zeros(count, bool), labels)
    found = compare(better, worse)
    change = found.classes[0]
    assert change.difference == 1 and (change.low, change.high) == (1, 1)
    assert change.p == pytest.approx(2 / 2**count)
    assert compare(worse, better).classes[0].difference == -1
    assert found.classes[1].p is None and found.classes[1].first is None
    assert found.metrics[1].first == 1  # a class without videos doesn't count


def test_the_interval_is_that_of_a_paired_mean():
    rng = np.random.default_rng(1)
    labels = np.zeros(400, int)
    first = rng.random(400) < 0.8
    second = np.where(rng.random(400) < 0.7, first, rng.random(400) < 0.6)
    change = compare(scores_of(first, labels), scores_of(second, labels)).classes[0]
    differences = first.astype(float) - second
    error = 1.96 * differences.std() / math.sqrt(400)
    assert change.low == pytest.approx(differences.mean() - error, abs=0.006)
    assert change.high == pytest.approx(differences.mean() + error, abs=0.006)


@pytest.mark.parametrize(("ups", "downs", "count"), [(3, 1, 6), (9, 2, 20), (40, 22, 500)])
def test_p_values_are_shares_of_samples_with_the_runs_exchanged(ups, downs, count):
    rng = np.random.default_rng(6)
    each = np.repeat([1, -1, 0], [ups, downs, count - ups - downs])
    drawn = rng.choice(each, size=(20_000, count)) * rng.choice([1, -1], size=(20_000, count))
    share = np.mean(np.abs(drawn.sum(axis=1)) >= ups - downs)
    assert exchange_p_value(ups, downs, count) == pytest.approx(share, abs=0.012)
    assert exchange_p_value(downs, ups, count) == exchange_p_value(ups, downs, count)


def test_p_values_of_large_differences_are_small():
    assert exchange_p_value(100, 0, 1000) < 1e-12
    # McNemar's test, a normal distribution, for many videos.
    expected = math.erfc(200 / math.sqrt(2 * 10_200))
    assert exchange_p_value(5200, 5000, 100_000) == pytest.approx(expected, abs=0.002)


def test_runs_without_a_difference_rarely_seem_to_differ():
    rng = np.random.default_rng(2)
    labels = np.zeros(40, int)
    values = []
    for seed in range(200):
        pair = [scores_of(rng.random(40) < 0.7, labels) for _ in range(2)]
        values.append(compare(*pair, seed=seed, num_samples=500).classes[0].p)
    assert 0.0 <= np.mean(np.array(values) <= 0.05) <= 0.09
    assert 0.3 < np.mean(values) < 0.75


def test_the_seed_decides():
    rng = np.random.default_rng(3)
    labels = np.arange(90) % 3
    pair = [scores_of(rng.random(90) < 0.7, labels) for _ in range(2)]
    assert compare(*pair) == compare(*pair)
    assert compare(*pair) != compare(*pair, seed=1)


def test_holms_correction():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_common_videos_and_classes_match_by_name():
    labels = np.array([0, 1, 2, 0, 1, 2])
    first = scores_of(np.array([1, 1, 1, 0, 0, 0], bool), labels)
    order = [4, 3, 2, 1]  # only four of them, the other way round, classes in another order
    classes = np.array([2, 0, 1])
    second = Scores(
        first.scores[order][:, classes],
        np.argsort(classes)[labels[order]],
        [first.videos[row] for row in order],
        [first.class_names[c] for c in classes],
    )
    found = compare(first, second)
    assert (found.num_common, found.num_first, found.num_second) == (4, 6, 4)
    assert not found.same_list
    assert all(each.difference == 0 for each in found.classes)
    missing = np.array([False, True, False, False, False, False])
    lost = compare(first, scores_of([1, 1, 1, 0, 0, 0], labels, missing=missing))
    assert [each.difference for each in lost.classes] == [0, 0.5, 0]


def test_videos_that_are_listed_twice_match_in_order():
    labels, names = np.array([0, 1, 2, 0]), ["a", "a", "b", "c"]
    first = scores_of(np.array([1, 0, 1, 1], bool), labels, names=names)
    second = scores_of(np.array([1, 0, 1], bool), labels[:3], names=names[:3])
    found = compare(first, second)
    assert found.num_common == 3 and all(not each.difference for each in found.classes)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (dict(names=["x", "y", "z"]), "no video"),
        (dict(labels=[0, 1, 1]), "labels of 1 "),
        (dict(num_classes=2, labels=[0, 1, 1]), "3 and 2"),
    ],
)
def test_what_can_not_be_compared_is_refused(other, match):
    first = scores_of(np.ones(3, bool), [0, 1, 2])
    arguments = dict(labels=[0, 1, 2]) | other
    with pytest.raises(UserError, match=match):
        compare(first, scores_of(np.ones(3, bool), **arguments))


def several(scores, labels):
    names = [f"class {c}" for c in range(labels.shape[1])]
    videos = [str(i) for i in range(len(labels))]
    return Scores(scores.astype(np.float32), labels, videos, names)


def test_average_precisions():
    rng = np.random.default_rng(4)
    labels = (rng.random((60, 3)) < [0.5, 0.5, 0.02]).astype(np.float32)
    labels[0] = 1
    noise = rng.random((60, 3))
    good, bad = several(labels + 0.5 * noise, labels), several(noise, labels)
    found = compare(good, bad, num_samples=300)
    assert found.multi_label and found.num_samples == 300
    assert found.metrics[0].first == pytest.approx(
        metrics.mean_average_precision(good.scores, labels)
    )
    change = found.classes[0]
    assert change.first == 1 and change.low > 0.2 and change.p < 0.02
    assert change.second == pytest.approx(metrics.average_precision(bad.scores[:, 0], labels[:, 0]))
    # Of two or three videos, nothing is claimed.
    assert found.classes[2].first == 1 and found.classes[2].p is None
    same = compare(bad, bad, num_samples=300)
    assert all(each.p in (1, None) for each in same.classes)
    assert same.metrics[0].difference == 0


def test_samples_of_one_of_each_video_have_the_average_precision_itself():
    rng = np.random.default_rng(5)
    labels = (rng.random((40, 2)) < 0.4).astype(np.float32)
    labels[0] = 1
    run = several(np.round(rng.random((40, 2)), 1), labels)  # with ties
    other = several(np.round(rng.random((40, 2)), 1), labels)
    found = compare(run, other, num_samples=2000)
    for each in found.classes:
        assert each.low < each.difference < each.high
