"""Metrics of events against hand-computed numbers and plain algorithms on small random cases."""

import dataclasses
import itertools

import numpy as np
import pytest

from trn_jax.errors import UserError
from trn_jax.evaluation.event_metrics import (
    THRESHOLDS,
    event_f1,
    frame_accuracy,
    mean_average_precision,
    temporal_iou,
)
from trn_jax.evaluation.events import NOTHING, Event

TRUTH = [
    Event("v", 0, 10, "a"),
    Event("v", 20, 30, "a"),
    Event("v", 40, 50, "b"),
    Event("w", 0, 10, "a"),
]


def scored(events, score=0.5):
    return [dataclasses.replace(event, score=score) for event in events]


def random_events(rng, count, *, scores, videos="vw", labels="ab"):
    found = []
    for _ in range(count):
        start = int(rng.integers(0, 12))
        found.append(
            Event(
                str(rng.choice(list(videos))),
                start,
                start + int(rng.integers(1, 9)),
                str(rng.choice(list(labels))),
                # Different ones, as the plain algorithm has no order for equal ones.
                float(rng.random()) if scores else None,
            )
        )
    return found


def random_case(seed):
    """A truth with at least one event in both videos, and predictions."""
    rng = np.random.default_rng(seed)
    first = [Event("v", 0, 3, "a"), Event("w", 2, 9, "b")]
    truth = first + random_events(rng, int(rng.integers(0, 7)), scores=False)
    return truth, random_events(rng, int(rng.integers(0, 10)), scores=True), rng


# Overlap


def test_temporal_iou():
    times = np.array([[0, 10], [5, 15], [10, 20], [2, 4], [-5, 30]], float)
    expected = [1, 5 / 15, 0, 2 / 10, 10 / 35]
    assert temporal_iou(Event("v", 0, 10, "a"), times) == pytest.approx(expected)


# Mean average precision


@pytest.mark.smoke
def test_average_precision_by_hand():
    predictions = [
        Event("v", 0, 8, "a", 0.9),  # IoU 0.8 with the first
        Event("v", 0, 10, "a", 0.8),  # exact, but a duplicate
        Event("v", 24, 30, "a", 0.7),  # 0.6
        Event("w", 5, 15, "a", 0.6),  # 1 / 3
        Event("v", 42, 50, "c", 0.9),  # a class without truth
    ]
    result = mean_average_precision(TRUTH, predictions)
    # Right or not: 1 0 1 1, 1 0 1 0 and 1 0 0 0 of three events.
    at_3 = (1 + 3 / 4 + 3 / 4) / 3  # precision 1, 2/3 raised to 3/4, 3/4
    at_4 = (1 + 2 / 3) / 3
    at_7 = 1 / 3
    assert result["per_class"]["a"] == pytest.approx([at_3, at_4, at_4, at_4, at_7])
    assert result["per_class"]["b"] == [0] * 5
    assert result["per_class"].keys() == {"a", "b"}
    halves = [at_3 / 2, at_4 / 2, at_4 / 2, at_4 / 2, at_7 / 2]
    assert result["map_at"] == pytest.approx(halves)
    assert result["map"] == pytest.approx(np.mean(halves))
    assert result["thresholds"] == [0.3, 0.4, 0.5, 0.6, 0.7]


def plain_average_precision(truth, predictions, threshold):
    """ActivityNet's algorithm in loops, for one class and different scores."""
    taken = set()
    precisions, recalls = [], []
    num_right = 0
    for number, each in enumerate(sorted(predictions, key=lambda e: -e.score), start=1):
        best = None
        for index, other in enumerate(truth):
            both = max(0, min(each.end, other.end) - max(each.start, other.start))
            iou = both / (max(each.end, other.end) - min(each.start, other.start)) if both else 0
            if each.video != other.video or index in taken or iou < threshold:
                continue
            if best is None or (iou, -other.start, -other.end) > best[0]:
                best = (iou, -other.start, -other.end), index
        if best:
            taken.add(best[1])
            num_right += 1
        precisions.append(num_right / number)
        recalls.append(num_right / len(truth))
    area, before = 0, 0
    for position, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[position:])
        before = recall
    return area


@pytest.mark.parametrize("seed", range(40))
def test_average_precision_equals_the_plain_algorithm(seed):
    truth, predictions, rng = random_case(seed)
    thresholds = (0.1, *THRESHOLDS, 1.0)
    result = mean_average_precision(truth, predictions, thresholds)
    for label, precisions in result["per_class"].items():
        of_class = [[e for e in each if e.label == label] for each in (truth, predictions)]
        expected = [plain_average_precision(*of_class, threshold) for threshold in thresholds]
        assert precisions == pytest.approx(expected, abs=1e-12)
    shuffled = [[each[i] for i in rng.permutation(len(each))] for each in (truth, predictions)]
    assert mean_average_precision(*shuffled, thresholds) == result


def test_equal_scores_are_one_step():
    truth = [Event("v", 0, 10, "a")]
    right, wrong = Event("v", 0, 10, "a", 0.5), Event("v", 50, 60, "a", 0.5)
    for predictions in ([right, wrong], [wrong, right]):
        assert mean_average_precision(truth, predictions)["map"] == 0.5


def test_ties_go_to_earlier_times_whatever_the_order_of_the_rows():
    truth = [Event("v", 0, 10, "a"), Event("v", 10, 20, "a")]
    between, first = Event("v", 5, 15, "a", 0.9), Event("v", 2, 12, "a", 0.9)
    surer = dataclasses.replace(between, score=1)
    for rows in (truth, truth[::-1]):
        # The surer one overlaps both by a third and takes the first, which the other one needs.
        assert mean_average_precision(rows, [surer, first], [0.3])["map"] == 0.5
        for predictions in ([between, first], [first, between]):  # of equal scores, `first` begins
            assert mean_average_precision(rows, predictions, [0.3])["map"] == 1


def test_overlaps_that_are_exactly_the_threshold_count():
    # 0.7 / 1, though 0.8 - 0.1 and 1.1 - 0.1 are none of them exact.
    for offset in (0.1, 0.3, 1.7, 12.1):
        truth = [Event("v", offset, offset + 1, "a")]
        predictions = [Event("v", offset, offset + 0.7, "a", 1)]
        assert mean_average_precision(truth, predictions, [0.7])["map"] == 1
        assert mean_average_precision(truth, predictions, [0.701])["map"] == 0


def test_average_precision_needs_scores():
    with pytest.raises(UserError, match=r"1 of 2 .* score"):
        mean_average_precision(TRUTH, [Event("v", 0, 1, "a"), Event("v", 0, 1, "a", 1)])


# F1


def test_f1_by_hand():
    predictions = [
        Event("v", 0, 6, "a"),  # IoU 0.6
        Event("v", 0, 10, "a"),  # the same event: one of them is a false positive
        Event("v", 40, 45, "b"),  # exactly 0.5
        Event("w", 0, 10, "b"),  # the wrong class
        Event("w", 0, 10, "c"),  # a class that is nowhere
    ]
    result = event_f1(TRUTH, predictions)
    assert result["per_class"]["a"] == {
        "f1": 2 / 5,
        "precision": 1 / 2,
        "recall": 1 / 3,
        "num_true": 3,
        "num_predicted": 2,
        "num_matched": 1,
    }
    assert result["per_class"]["b"]["f1"] == 2 / 3
    assert result["per_class"]["c"]["recall"] is None
    assert (result["num_true"], result["num_predicted"], result["num_matched"]) == (4, 5, 2)
    assert result["f1"] == pytest.approx(4 / 9)
    assert event_f1(TRUTH, predictions, iou=0.51)["num_matched"] == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_matching_makes_room(order):
    # Whichever comes first, the long prediction can't keep the event that the short one needs.
    truth = [Event("v", 0, 6, "a"), Event("v", 0, 10, "a"), Event("v", 0, 16, "a")]
    predictions = [Event("v", 0, end, "a") for end in (4, 9, 11)]
    assert event_f1(truth, [predictions[i] for i in order])["num_matched"] == 3


def most_matches(truth, predictions, iou):
    """The largest one-to-one matching, by trying them all."""
    few, many = sorted((truth, predictions), key=len)

    def matches(one, other):
        both = min(one.end, other.end) - max(one.start, other.start)
        either = max(one.end, other.end) - min(one.start, other.start)
        same = (one.video, one.label) == (other.video, other.label)
        return same and both > 0 and both / either >= iou

    return max(sum(map(matches, few, chosen)) for chosen in itertools.permutations(many, len(few)))


@pytest.mark.parametrize("seed", range(40))
def test_f1_equals_the_best_of_all_matchings(seed):
    rng = np.random.default_rng(seed)
    # Many overlap with several others, so that the order of matching matters.
    truth = random_events(rng, 5, scores=False, videos="v", labels="a")
    predictions = random_events(rng, int(rng.integers(1, 8)), scores=True, videos="v", labels="a")
    result = event_f1(truth, predictions, iou=0.3)
    assert result["num_matched"] == most_matches(truth, predictions, 0.3)
    assert event_f1(truth[::-1], predictions[::-1], iou=0.3) == result


# Frame accuracy


def test_frame_accuracy_by_hand():
    truth = [Event("v", 10, 20, "a"), Event("v", 30, 40, "b")]
    predictions = [
        Event("v", 15, 25, "a"),
        Event("v", 32, 44, "b", 0.1),
        Event("v", 36, 40, "a", 1),
    ]
    result = frame_accuracy(truth, predictions)
    assert result["confusion"] == {
        ("a", "a"): 5,
        ("a", NOTHING): 5,
        ("b", "a"): 4,
        ("b", "b"): 4,
        ("b", NOTHING): 2,
        (NOTHING, "a"): 5,
        (NOTHING, "b"): 4,
        (NOTHING, NOTHING): 15,
    }
    assert (result["seconds"], result["accuracy"]) == (44, 24 / 44)


def test_overlapping_events():
    both = [Event("v", 0, 10, "a"), Event("v", 0, 10, "b")]
    # Either label is right; a wrong one counts for both in equal parts.
    for label, accuracy in (("a", 1), ("b", 1), ("c", 0)):
        assert frame_accuracy(both, [Event("v", 0, 10, label)])["accuracy"] == accuracy
    result = frame_accuracy(both, [Event("v", 0, 10, "c")])
    assert result["confusion"] == {("a", "c"): 5, ("b", "c"): 5}
    # Of two predictions the surer one counts, then the later one.
    one = [Event("v", 0, 10, "a")]
    assert (
        frame_accuracy(one, [Event("v", 0, 10, "b", 1), Event("v", 5, 9, "a", 0)])["accuracy"] == 0
    )
    assert (
        frame_accuracy(one, [Event("v", 0, 10, "b", 1), Event("v", 5, 9, "a", 1)])["accuracy"]
        == 0.4
    )


def sampled_accuracy(truth, predictions):
    """The accuracy of times that are whole seconds, second by second."""
    num_right = num_seconds = 0
    for video in {event.video for event in truth}:
        of_video = [[e for e in each if e.video == video] for each in (truth, predictions)]
        for second in range(max(event.end for each in of_video for event in each)):
            true, taken = [
                [e for e in each if e.start <= second < e.end and e.label != NOTHING]
                for each in of_video
            ]
            best = max(taken, key=lambda event: event.score).label if taken else NOTHING
            num_right += best in ({event.label for event in true} or {NOTHING})
            num_seconds += 1
    return num_right / num_seconds, num_seconds


@pytest.mark.parametrize("seed", range(20))
def test_frame_accuracy_equals_that_of_all_seconds(seed):
    truth, predictions, rng = random_case(seed)
    truth += random_events(rng, 2, scores=False, labels=[NOTHING])
    predictions += random_events(rng, 2, scores=True, labels=[NOTHING])
    result = frame_accuracy(truth, predictions)
    assert (result["accuracy"], result["seconds"]) == sampled_accuracy(truth, predictions)
    confusion = result["confusion"]
    assert sum(confusion.values()) == pytest.approx(result["seconds"])
    right = sum(seconds for (true, taken), seconds in confusion.items() if true == taken)
    assert right / result["seconds"] == pytest.approx(result["accuracy"])
    assert frame_accuracy(truth[::-1], predictions[::-1]) == result


# All metrics


def all_metrics(truth, predictions):
    return (
        mean_average_precision(truth, predictions)["map"],
        event_f1(truth, predictions)["f1"],
        frame_accuracy(truth, predictions)["accuracy"],
    )


@pytest.mark.parametrize("seed", range(5))
def test_perfect_predictions_give_one(seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.random(20) + 1)
    truth = [Event("v", s, s + rng.random(), "ab"[i % 2]) for i, s in enumerate(starts.tolist())]
    assert all_metrics(truth, scored(truth)) == (1, 1, 1)


def test_no_predictions_give_zero():
    assert all_metrics(TRUTH, []) == (0, 0, 20 / 60)  # nothing is true in 20 of 50 and 0 of 10 s
    precision = event_f1(TRUTH, [])["precision"]
    assert precision is None


def test_events_that_are_shifted_by_half_overlap_by_a_third():
    shifted = [dataclasses.replace(e, start=e.start + 5, end=e.end + 5) for e in scored(TRUTH)]
    found = mean_average_precision(TRUTH, shifted)["map_at"]
    assert found == [1, 0, 0, 0, 0]
    assert event_f1(TRUTH, shifted)["f1"] == 0
    assert event_f1(TRUTH, shifted, iou=1 / 3)["f1"] == 1


def test_duplicates_lower_precision():
    twice = scored(TRUTH, 0.9) + scored(TRUTH, 0.8)
    result = event_f1(TRUTH, twice)
    assert (result["precision"], result["recall"]) == (0.5, 1)
    # For the average precision only if they rank no lower than some true event.
    assert mean_average_precision(TRUTH, scored(TRUTH + TRUTH))["map"] == 0.5
    assert mean_average_precision(TRUTH, twice)["map"] == 1


def test_rows_with_nothing_are_no_events_but_their_videos_count():
    truth = [*TRUTH, Event("empty", 0, 30, NOTHING), Event("w", 0, 30, NOTHING)]
    predictions = [*scored(TRUTH), Event("empty", 0, 10, NOTHING, 1)]
    assert all_metrics(truth, predictions) == (1, 1, 1)
    assert frame_accuracy(truth, predictions)["seconds"] == 110
    false = [*predictions, Event("empty", 0, 15, "a", 0.9)]
    assert event_f1(truth, false)["num_predicted"] == 5
    assert frame_accuracy(truth, false)["accuracy"] == 95 / 110
    assert mean_average_precision(truth, false)["per_class"]["a"] == pytest.approx([0.75] * 5)


@pytest.mark.parametrize("metric", [mean_average_precision, event_f1, frame_accuracy])
def test_what_cannot_be_compared_is_refused(metric):
    with pytest.raises(UserError, match="elsewhere"):
        metric(TRUTH, [Event("elsewhere", 0, 1, "a", 1)])
    with pytest.raises(UserError, match="0 rows"):
        metric([], [])
    with pytest.raises(UserError, match="1 rows"):
        metric([Event("v", 0, 1, NOTHING)], [])


@pytest.mark.parametrize("iou", [0, -0.5, 1.1, float("nan")])
def test_thresholds_out_of_range(iou):
    with pytest.raises(UserError, match=f"{iou:g}"):
        event_f1(TRUTH, [], iou=iou)
    with pytest.raises(UserError, match=f"{iou:g}"):
        mean_average_precision(TRUTH, [], [0.5, iou])


def test_thousands_of_events_in_one_video():
    truth = [Event("v", i, i + 1.5, "a") for i in range(3000)]
    predictions = scored(truth, 0.9) + scored(truth, 0.8)
    assert event_f1(truth, predictions)["num_matched"] == 3000
    assert mean_average_precision(truth, predictions, [0.5])["map"] == 1
