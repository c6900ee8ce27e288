"""Metrics of events, predictions with times, in NumPy.

Truth and predictions are iterables of `events.Event`, in any order. The label `events.NOTHING`
means no event: such rows are neither true nor predicted events, but say that a video, or a part of
it, has none. The overlap of two events is their temporal IoU, the time in both divided by the time
in either; it reaches a threshold within rounding errors (1e-9). Results are fractions.
"""

import collections
import heapq
import itertools
import math

import numpy as np

from trn_jax.errors import UserError, listed
from trn_jax.evaluation.events import NOTHING

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_ROUNDING = 1e-9  # times such as 0.1 are not exact


def temporal_iou(event, times):
    """Temporal IoU of an `Event` with others, `[n]`.

    Args:
        event: the `Event`.
        times: starts and ends of the others in seconds, `[n, 2]`.
    """
    both = np.minimum(event.end, times[:, 1]) - np.maximum(event.start, times[:, 0])
    both = np.maximum(both, 0)
    return both / (event.end - event.start + times[:, 1] - times[:, 0] - both)


def mean_average_precision(truth, predictions, thresholds=THRESHOLDS):
    """Mean average precision at thresholds of temporal IoU, by ActivityNet's definition.

    For each class and threshold, predictions are taken by descending score; each one is matched to
    the true event of its class and video with the highest IoU of those that are not matched yet. It
    is right if that IoU reaches the threshold, otherwise wrong, and so are duplicates. The average
    precision is the area under the precision-recall curve, where the precision at a recall is the
    highest one at that recall or a higher one, so that the curve falls (all points, as in PASCAL
    VOC since 2010).

    This is what `Evaluation/eval_detection.py` of github.com/activitynet/ActivityNet computes
    (Caba Heilbron et al., "ActivityNet", CVPR 2015) as long as no scores are equal, whose order it
    leaves open. Here predictions of equal score are one step of the curve, matched in the order of
    their times, and of several true events with the same IoU the earlier one is matched: the order
    of the rows and the names of the videos don't matter.

    Args:
        truth: true events.
        predictions: predicted events, with scores.
        thresholds: in 0..1, 0 excluded.

    Returns:
        A dict: `thresholds`, a list; `map`, the mean over classes and thresholds; `map_at`, the
        mean over classes for each threshold; `per_class`, `{label: [average precision for each
        threshold]}`. Classes without true events have none and don't count.

    Raises:
        UserError: there is no true event, a prediction has no score or is in a video that is not in
            the truth, or a threshold is out of range.
    """
    thresholds = [_check_threshold(threshold) for threshold in thresholds]
    truth, predictions = _events(truth, predictions)
    without = sum(event.score is None for event in predictions)
    if without:
        raise UserError(
            f"{without:,} of {len(predictions):,} predictions have no score; average precision "
            "ranks by the scores"
        )
    predicted = _grouped(predictions, "label")
    per_class = {
        label: _average_precision(events, predicted.get(label, []), np.array(thresholds)).tolist()
        for label, events in sorted(_grouped(truth, "label").items())
    }
    map_at = np.mean(list(per_class.values()), axis=0)
    return {
        "thresholds": thresholds,
        "map": float(np.mean(map_at)),
        "map_at": map_at.tolist(),
        "per_class": per_class,
    }


def _average_precision(truth, predictions, thresholds):
    """Average precision of a class for each threshold, `[thresholds]`."""
    times = {video: _times(events) for video, events in _grouped(truth, "video").items()}
    is_free = {video: np.ones((len(thresholds), len(each)), bool) for video, each in times.items()}
    ranked = sorted(predictions, key=lambda event: (-event.score, event.start, event.end))
    is_right = np.zeros((len(thresholds), len(ranked)))
    for column, event in enumerate(ranked):
        if event.video not in times:
            continue
        free = is_free[event.video]
        overlaps = np.where(free, temporal_iou(event, times[event.video]), -1)
        best = np.argmax(overlaps, axis=1)
        rows = np.flatnonzero(overlaps.max(axis=1) >= thresholds - _ROUNDING)
        free[rows, best[rows]] = False
        is_right[rows, column] = 1
    scores = np.array([event.score for event in ranked], np.float64)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])
    num_right = np.cumsum(is_right, axis=1)[:, ends]
    precision = num_right / (ends + 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.sum(np.diff(num_right, axis=1, prepend=0) * highest, axis=1) / len(truth)


def event_f1(truth, predictions, iou=0.5):
    """F1 of events, over all classes and per class.

    In each video and class, as many predictions as possible are matched one-to-one to true events
    that they overlap with an IoU of at least `iou`. Only the number of matches counts, so nothing
    depends on which of several such matchings is taken. Scores are ignored.

    Args:
        truth: true events.
        predictions: predicted events.
        iou: in 0..1, 0 excluded.

    Returns:
        A dict of the sums over all classes: `f1`, `precision` (`None` without predictions),
        `recall` (`None` without true events), `num_true`, `num_predicted`, `num_matched`; and
        `per_class`, `{label: the same}`, of all classes that are true or predicted somewhere.

    Raises:
        UserError: there is no true event, a prediction is in a video that is not in the truth, or
            the threshold is out of range.
    """
    _check_threshold(iou)
    truth, predictions = _events(truth, predictions)
    num_true = collections.Counter(event.label for event in truth)
    num_predicted = collections.Counter(event.label for event in predictions)
    num_matched: collections.Counter[str] = collections.Counter()
    predicted = _grouped(predictions, "video", "label")
    for key, events in _grouped(truth, "video", "label").items():
        num_matched[key[1]] += _count_matches(_times(events), predicted.get(key, []), iou)
    counts = (num_true, num_predicted, num_matched)
    per_class = {
        label: _f1(*(count[label] for count in counts))
        for label in sorted(num_true.keys() | num_predicted.keys())
    }
    return {**_f1(*(count.total() for count in counts)), "per_class": per_class}


def _f1(num_true, num_predicted, num_matched):
    return {
        "f1": 2 * num_matched / (num_true + num_predicted),
        "precision": num_matched / num_predicted if num_predicted else None,
        "recall": num_matched / num_true if num_true else None,
        "num_true": num_true,
        "num_predicted": num_predicted,
        "num_matched": num_matched,
    }


def _count_matches(times, predictions, iou):
    """Size of the largest one-to-one matching of `predictions` to true `times`, `[n, 2]`.

    Augmenting paths, one breadth-first search per prediction. True events that a search without
    success has reached can't be part of a later path, so later searches skip them.
    """
    matched = np.full(len(times), -1)  # prediction of each true event
    is_closed = np.zeros(len(times), bool)
    partner: dict[int, int] = {}  # true event of each prediction
    for number in range(len(predictions)):
        is_seen = is_closed.copy()
        reached_from = {}
        queue = collections.deque([number])
        end = None
        while queue and end is None:
            current = queue.popleft()
            overlaps = temporal_iou(predictions[current], times) >= iou - _ROUNDING
            reached = np.flatnonzero(overlaps & ~is_seen)
            free = reached[matched[reached] < 0]
            if len(free):
                end = int(free[0])
                reached = free[:1]
            is_seen[reached] = True
            reached_from.update(dict.fromkeys(reached.tolist(), current))
            queue.extend(matched[reached].tolist())
        if end is None:
            is_closed = is_seen
        while end is not None:  # back along the path, every prediction moves to the next event
            current = reached_from[end]
            matched[end] = current
            partner[current], end = end, partner.get(current)
    return len(partner)


def frame_accuracy(truth, predictions):
    """Fraction of the time with the right label, and the confusion of classes by time.

    Exact: from the starts and ends of events, not from frames. The time of a video goes from 0 to
    its last end, true or predicted, as a table has no durations; a true row `video, 0, <duration>,
    nothing` sets a longer one. Where no event is, the label is `events.NOTHING`. Of overlapping
    predictions, the one with the highest score counts, then the one that starts last. Where true
    events overlap, each of their labels is right; a wrong prediction counts for them in equal
    parts.

    Args:
        truth: true events.
        predictions: predicted events.

    Returns:
        A dict: `accuracy`; `seconds`, in all; `confusion`, `{(true label, predicted label):
        seconds}` without zeros.

    Raises:
        UserError: there is no true event, or a prediction is in a video that is not in the truth.
    """
    truth, predictions = list(truth), list(predictions)
    _events(truth, predictions)  # checks them; rows with `NOTHING` are needed here
    lengths: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    predicted = _grouped(predictions, "video")
    for video, events in _grouped(truth, "video").items():
        for length, true, taken in _spans(events, predicted.get(video, [])):
            rows = [taken] if taken in true else sorted(true)
            for row in rows:
                lengths[row, taken].append(length / len(rows))
    # Sums without rounding: if all is right, the accuracy is 1.
    right = math.fsum(x for (row, taken), each in lengths.items() if row == taken for x in each)
    seconds = math.fsum(x for each in lengths.values() for x in each)
    return {
        "accuracy": right / seconds,
        "seconds": seconds,
        "confusion": {labels: math.fsum(each) for labels, each in sorted(lengths.items())},
    }


def _spans(truth, predictions):
    """Parts of a video between starts and ends: `(seconds, true labels, predicted label)`."""
    bounds = {0.0}
    for event in [*truth, *predictions]:
        bounds |= {event.start, event.end}
    starting: dict[float, tuple[list, list]] = {bound: ([], []) for bound in bounds}
    ending: dict[float, list[str]] = {bound: [] for bound in bounds}
    for event in truth:
        if event.label != NOTHING:
            starting[event.start][0].append(event.label)
            ending[event.end].append(event.label)
    for event in predictions:
        if event.label != NOTHING:
            score = -math.inf if event.score is None else event.score
            entry = (-score, -event.start, event.label, event.end)
            starting[event.start][1].append(entry)
    true: collections.Counter[str] = collections.Counter()
    heap: list[tuple] = []  # predictions that have started, the one that counts first
    for start, end in itertools.pairwise(sorted(bounds)):
        true.update(starting[start][0])
        true.subtract(ending[start])
        for entry in starting[start][1]:
            heapq.heappush(heap, entry)
        while heap and heap[0][-1] <= start:
            heapq.heappop(heap)
        yield end - start, set(+true) or {NOTHING}, heap[0][2] if heap else NOTHING


def _events(truth, predictions):
    """Lists of the events that are something.

    Raises:
        UserError: there is no true one, or a prediction is in a video that is not in the truth.
    """
    truth, predictions = list(truth), list(predictions)
    videos = {event.video for event in truth}
    foreign = sorted({event.video for event in predictions} - videos)
    if foreign:
        raise UserError(
            f"predicted videos that are not in the truth: {len(foreign):,}{listed(foreign)}"
            f"\nleave them out, or add a true row '<video>,0,<duration>,{NOTHING}' for those "
            "without events"
        )
    kept = [[event for event in each if event.label != NOTHING] for each in (truth, predictions)]
    if not kept[0]:
        raise UserError(f"there is no event in the truth, {len(truth):,} rows")
    return kept


def _grouped(events, *names):
    """`{value, or tuple of values, of the attributes: events}`."""
    groups: dict = {}
    for event in events:
        key = tuple(getattr(event, name) for name in names)
        groups.setdefault(key if len(names) > 1 else key[0], []).append(event)
    return groups


def _times(events):
    """Starts and ends in their order, `[n, 2]`."""
    return np.array(sorted((event.start, event.end) for event in events), np.float64)


def _check_threshold(threshold):
    if not 0 < threshold <= 1:
        raise UserError(f"temporal IoU {threshold:g} is out of range; expected 0 < IoU <= 1")
    return threshold
