"""Metrics against the reference's numbers and cases counted by hand."""

import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation import metrics

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


@pytest.mark.smoke
def test_reference_vectors():
    confusion = metrics.confusion_matrix(SCORES.argmax(1), LABELS, 4)
    assert confusion.tolist() == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert metrics.top_k_accuracy(SCORES, LABELS, 1) == pytest.approx(0.6)
    # The third video ties for the second place, which goes to the higher class.
    assert metrics.top_k_accuracy(SCORES, LABELS, 2) == pytest.approx(0.8)
    # Class 3 is predicted but does not occur: it counts as 0.
    assert metrics.mean_class_accuracy(confusion) == pytest.approx(0.4166667, abs=1e-7)
    result = metrics.classification(SCORES, LABELS)
    assert result == pytest.approx({"top1": 0.6, "top5": 1.0, "mean_class": 0.4166667}, abs=1e-7)


def test_top_5_is_not_top_4_or_6():
    scores = np.array([[7, 6, 5, 4, 3, 2, 1.0]] * 7)
    assert metrics.classification(scores, np.arange(7))["top5"] == pytest.approx(5 / 7)


def test_k_is_cut_to_the_number_of_classes():
    assert metrics.top_k_accuracy(SCORES, LABELS, 9) == 1


def test_ties_go_to_the_higher_class_but_in_confusions():
    scores = np.zeros((3, 3))
    assert metrics.top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(scores, np.array([0, 0, 2]), 2) == pytest.approx(1 / 3)
    result = metrics.classification(scores, np.array([0, 0, 0]))
    assert (result["top1"], result["mean_class"]) == (0, 1)


def test_per_class_accuracy_of_a_class_without_videos_is_zero():
    confusion = metrics.confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)
    assert metrics.per_class_accuracy(confusion).tolist() == [0.5, 1, 0]
    # Class 2 neither occurs nor is predicted, so it does not pull the mean down.
    assert metrics.mean_class_accuracy(confusion) == 0.75


def test_mean_class_accuracy_weighs_classes_and_not_videos():
    labels = np.array([0] * 9 + [1])
    result = metrics.classification(one_hot(np.zeros(10, int)), labels)
    assert (result["top1"], result["mean_class"]) == (0.9, 0.5)


def test_pair_and_reversed_class_accuracy():
    # Classes 0 and 1 are each other backwards, as are 2 and 3; 4 and 5 have none.
    reversed_class = {0: 1, 1: 0, 2: 3, 3: 2}
    labels = np.array([0, 0, 1, 2, 3, 3, 4, 5])
    predictions = np.array([0, 1, 0, 2, 0, 2, 4, 0])
    result = metrics.classification(one_hot(predictions), labels, reversed_class)
    assert result["top1"] == pytest.approx(3 / 8)
    assert result["reversed_class"] == pytest.approx(3 / 6)  # videos 1, 2 and 5
    assert result["pair"] == pytest.approx(5 / 6)  # all but video 4


@pytest.mark.parametrize("reversed_class", [None, {}])
def test_no_pairs_where_no_class_has_a_reversed_class(reversed_class):
    assert metrics.classification(SCORES, LABELS, reversed_class).keys() == {
        "top1",
        "top5",
        "mean_class",
    }


def test_results_are_plain_numbers():
    result = metrics.classification(SCORES, LABELS, {0: 1, 1: 0})
    assert {type(value) for value in result.values()} == {float}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = SCORES.copy()
    scores[[1, 4], 0] = bad
    with pytest.raises(UserError, match=r"2 of 5 videos are not finite"):
        metrics.classification(scores, LABELS)
    with pytest.raises(UserError, match=r"2 of 5 videos are not finite"):
        metrics.multi_label(scores, np.eye(4)[LABELS])


# Several labels per video.
MANY_SCORES = np.array([[0.9, 0.1, 0.8], [0.3, 0.7, 0.2], [0.6, 0.5, 0.4]])
MANY_LABELS = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0]])


def test_reference_vectors_of_average_precision():
    result = metrics.multi_label(MANY_SCORES, MANY_LABELS)
    expected = {"map": 0.7777778, "map_by_video": 0.9444444, "top1": 1.0}
    assert result == pytest.approx(expected, abs=1e-7)
    assert {type(value) for value in result.values()} == {float}


def test_average_precision_counted_by_hand():
    # Positives at the ranks 1, 3 and 4 of 5: precisions 1, 2/3 and 3/4, a third of recall each.
    scores, positive = np.array([5, 4, 3, 2, 1.0]), np.array([1, 0, 1, 1, 0])
    expected = (1 + 2 / 3 + 3 / 4) / 3
    assert metrics.average_precision(scores, positive) == pytest.approx(expected)
    # Equal scores are one step: nothing can be told apart, precision is the share of positives.
    assert metrics.average_precision(np.zeros(5), positive) == pytest.approx(3 / 5)
    assert metrics.average_precision(-scores, np.array([0, 0, 0, 0, 1])) == 1


def test_the_order_of_ties_does_not_matter_to_average_precision():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 4, 30).astype(float), rng.integers(0, 2, 30)
    first = metrics.average_precision(scores, positive)
    for _ in range(5):
        order = rng.permutation(30)
        assert metrics.average_precision(scores[order], positive[order]) == pytest.approx(first)


def test_a_class_without_videos_does_not_count_for_average_precision():
    labels = MANY_LABELS.copy()
    labels[:, 2] = 0
    classes = metrics.per_class_average_precision(MANY_SCORES, labels)
    assert np.isnan(classes[2])
    assert metrics.mean_average_precision(MANY_SCORES, labels) == pytest.approx(classes[:2].mean())
    assert np.isnan(metrics.average_precision(np.zeros(0), np.zeros(0)))


def test_top_1_of_several_labels_takes_any_of_them():
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2]])
    labels = np.array([[1, 1], [1, 0], [1, 0]])
    assert metrics.multi_label(scores, labels)["top1"] == pytest.approx(2 / 3)


def test_videos_that_could_not_be_read_count_as_wrong():
    scores = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 0.0]])
    labels, missing = np.array([0, 2, 0, 0]), np.array([False, True, False, True])
    found = metrics.classification(scores, labels, {0: 1, 1: 0}, (1, 3), missing)
    # One of four is right; all classes among the first three, but of two videos there are none.
    assert found["top1"] == 0.25 and found["top3"] == 0.5
    # Classes: 0 has one of three, 1 was predicted and has none, 2 has none of one.
    assert found["mean_class"] == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert found["pair"] == pytest.approx(2 / 3) and found["reversed_class"] == pytest.approx(1 / 3)
    # Zeros in the scores are not looked at: a class of the highest number would be the first.
    scores[missing] = [[0, 0, 1], [1, 0, 0]]
    assert metrics.classification(scores, labels, {0: 1, 1: 0}, (1, 3), missing) == found
    none = np.zeros(4, bool)
    assert metrics.classification(scores, labels, missing=none) == metrics.classification(
        scores, labels
    )


def test_several_labels_of_videos_that_could_not_be_read():
    scores = np.array([[0.9, 0.3], [0.0, 0.0], [0.2, 0.1]])
    labels, missing = np.array([[1, 0], [1, 1], [0, 1]]), np.array([False, True, False])
    found = metrics.multi_label(scores, labels, missing)
    # Class 0: found first and last of three; class 1: second and last.
    first, second = (1 / 1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2
    assert found["map"] == pytest.approx((first + second) / 2)
    assert found["map_by_video"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["top1"] == pytest.approx(1 / 3)


def test_calibration_error_counted_by_hand():
    # Ten videos at 0.75 of which six are right; five at 1.0, all right: (10 * 0.15 + 0) / 15.
    scores = np.array([[0.75, 0.25]] * 10 + [[0.0, 1.0]] * 5)
    labels = np.array([0] * 6 + [1] * 4 + [1] * 5)
    assert metrics.calibration_error(scores, labels) == pytest.approx(0.1)
    # One that claims certainty and is always wrong cannot be worse.
    assert metrics.calibration_error(np.eye(3), np.array([1, 2, 0])) == 1
    # Over- and underconfidence do not cancel, as they lie in different intervals.
    scores = np.array([[0.6, 0.4], [0.9, 0.1]])
    assert metrics.calibration_error(scores, np.array([0, 1])) == pytest.approx((0.4 + 0.9) / 2)
    assert metrics.calibration_error(scores, np.array([0, 1]), num_bins=1) == pytest.approx(0.25)
    with pytest.raises(UserError, match=r"-2\.\.3"):
        metrics.calibration_error(np.array([[-2.0, 3]]), np.array([1]))


def test_any_k():
    scores = np.array([[7, 6, 5, 4, 3, 2, 1.0]] * 7)
    result = metrics.classification(scores, np.arange(7), top_k=(1, 3, 10))
    assert result["top3"] == pytest.approx(3 / 7)
    assert result["top10"] == 1
    assert "top5" not in result
    with pytest.raises(UserError, match="top-0 accuracy"):
        metrics.classification(scores, np.arange(7), top_k=(0,))


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="no videos"):
        metrics.classification(np.zeros((0, 4)), np.zeros(0, int))


def test_the_calibration_error_of_several_labels_counts_every_score():
    scores = np.array([[0.9, 0.3], [0.9, 0.3]])
    labels = np.array([[1.0, 0.0], [0.0, 0.0]])
    # 0.9 is right in one of two cases, 0.3 in none.
    assert metrics.calibration_error(scores, labels) == pytest.approx((0.4 + 0.3) / 2)
    counts, confidence, right = metrics.reliability_bins(scores, labels, num_bins=10)
    assert counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 2, 0]
    assert (confidence[8], right[8], right[2]) == (pytest.approx(1.8), 1, 0)


def test_negative_log_likelihood_by_hand():
    scores = np.array([[0.5, 0.5], [0.25, 0.75]])
    found = metrics.negative_log_likelihood(scores, np.array([0, 0]))
    assert found == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2)
    found = metrics.negative_log_likelihood(scores, np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert found == pytest.approx(-np.log([0.5, 0.5, 0.25, 0.75]).mean())
    assert metrics.negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) < 88
