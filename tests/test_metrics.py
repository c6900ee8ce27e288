"""Metrics against the reference's numbers and cases counted by hand."""

import numpy as np
import pytest

from trn_jax import metrics
from trn_jax.errors import UserError

SCORES = np.array(
    [
        [0.1, 0.6, 0.2, 0.1],
        [0.5, 0.2, 0.2, 0.1],
        [0.3, 0.3, 0.35, 0.05],
        [0.05, 0.15, 0.2, 0.6],
        [0.7, 0.1, 0.1, 0.1],
    ]
)
LABELS = np.array([1, 0, 0, 2, 0])


def one_hot(predictions, num_classes=6):
    return np.eye(num_classes)[predictions]


def test_reference_vectors():
    confusion = metrics.confusion_matrix(SCORES.argmax(1), LABELS, 4)
    assert confusion.tolist() == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert metrics.top_k_accuracy(SCORES, LABELS, 1) == pytest.approx(0.6)
    # The third video ties for the second place; the reference gives it to the higher class, we to
    # the lower one.
    assert metrics.top_k_accuracy(SCORES, LABELS, 2) == 1
    nudged = SCORES + 1e-9 * np.arange(4)
    assert metrics.top_k_accuracy(nudged, LABELS, 2) == pytest.approx(0.8)
    # Class 3 is predicted but does not occur: it counts as 0.
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(0.4166667, abs=1e-7)
    result = metrics.classification(SCORES, LABELS)
    assert result == pytest.approx({"top1": 0.6, "top5": 1.0, "mean_class": 0.4166667}, abs=1e-7)


def test_top_5_is_not_top_4_or_6():
    scores = np.array([[7, 6, 5, 4, 3, 2, 1.0]] * 7)
    assert metrics.classification(scores, np.arange(7))["top5"] == pytest.approx(5 / 7)


def test_k_is_cut_to_the_number_of_classes():
    assert metrics.top_k_accuracy(SCORES, LABELS, 9) == 1


def test_ties_go_to_the_lower_class():
    scores = np.zeros((3, 3))
    assert metrics.top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(scores, np.array([1, 1, 2]), 2) == pytest.approx(2 / 3)
    result = metrics.classification(scores, np.array([0, 0, 0]))
    assert (result["top1"], result["mean_class"]) == (1, 1)


def test_per_class_accuracy_of_a_class_without_videos_is_zero():
    confusion = metrics.confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert metrics.per_class_accuracy(confusion).tolist() == [0.5, 1, 0]
    # Class 2 neither occurs nor is predicted, so it does not pull the mean down.
    assert metrics.mean_class_accuracy(confusion) == 0.75


def test_mean_class_accuracy_weighs_classes_and_not_videos():
    labels = np.array([0] * 9 + [1])
    result = metrics.classification(one_hot(np.zeros(10, int)), labels)
    assert (result["top1"], result["mean_class"]) == (0.9, 0.5)


def test_pair_and_partner_accuracy():
    # Classes 0 and 1 are each other backwards, as are 2 and 3; 4 and 5 have no partner.
    partners = {0: 1, 1: 0, 2: 3, 3: 2}
    labels = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    predictions = np.array([0, 1, 0, 2, 0, 2, 4, 0])
    result = metrics.classification(one_hot(predictions), labels, partners)
    assert result["top1"] == pytest.approx(3 / 8)
    assert result["partner"] == pytest.approx(3 / 6)  # videos 1, 2 and 5
    assert result["pair"] == pytest.approx(5 / 6)  # all but video 4


@pytest.mark.parametrize("partners", [None, {}])
def test_no_pairs_where_no_class_has_a_partner(partners):
    assert metrics.classification(SCORES, LABELS, partners).keys() == {"top1", "top5", "mean_class"}


def test_results_are_plain_numbers():
    result = metrics.classification(SCORES, LABELS, {0: 1, 1: 0})
    assert {type(value) for value in result.values()} == {float}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = SCORES.copy()
    scores[[1, 4], 0] = bad
    with pytest.raises(UserError, match=r"2 of 5 videos are not finite"):
        metrics.classification(scores, LABELS)


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="no videos"):
        metrics.classification(np.zeros((0, 4)), np.zeros(0, int))
