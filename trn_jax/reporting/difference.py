"""The difference of two evaluations on the same videos, with paired bootstrap over the videos.

The interval of a difference is that of samples of the videos, drawn with replacement. The p-value
of accuracies is the share of samples that differ at least as much if the runs are also exchanged at
random in each drawn video, which changes nothing if there is no difference. That of average
precisions, and their interval, are those of a normal distribution with the samples' standard error.
"""

import dataclasses
import math

import numpy as np

from trn_jax.evaluation.metrics import per_class_average_precision
from trn_jax.reporting.matching import matched

NUM_SAMPLES = 10_000  # of the videos
CONFIDENCE = 0.95
_DEVIATIONS = 1.96  # of a normal distribution, to both sides, for this confidence
_LEAST_POSITIVE = 10  # videos of a class, whose average precision has an interval
_MOST_WORK = 5e7  # videos times classes times samples that average precisions are computed of
_FEWEST_SAMPLES = 100
_CHUNK = 1 << 22  # weights that are drawn at a time


@dataclasses.dataclass(frozen=True)
class Change:
    """The difference of a fraction, the first run's minus the second one's.

    Attributes:
        name: of a class or metric.
        videos: that it is over; of several labels, those with the class.
        first: of the first run, a fraction; `None` without videos.
        second: of the second run.
        low: lower end of the interval of the difference; `None` if there is none.
        high: upper end.
        p: p-value, uncorrected; `None` if there is none.
        p_holm: corrected for all classes by Holm's method; `None` for a metric.
    """

    name: str
    videos: int
    first: float | None
    second: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None

    @property
    def difference(self):
        """First minus second, or `None`."""
        return None if self.first is None or self.second is None else self.first - self.second


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two evaluations.

    Attributes:
        num_common: videos that both have.
        num_first: videos of the first one.
        num_second: videos of the second one.
        same_list: both are of the list with the same hash.
        multi_label: average precisions, instead of accuracies, are compared.
        num_samples: of the bootstrap; 0: there was none, as there are too many videos and classes.
        metrics: `Change`s of top-1 and mean class accuracy, or of mAP.
        classes: `Change`s of all classes, in the order of the first evaluation.
    """

    num_common: int
    num_first: int
    num_second: int
    same_list: bool
    multi_label: bool
    num_samples: int
    metrics: list[Change]
    classes: list[Change]


def compare(first, second, *, seed=0, num_samples=NUM_SAMPLES):
    """Compare two evaluations, video by video.

    Videos match by name, classes too. Unreadable videos count as wrong, in average precisions as
    last.

    Args:
        first: the `Scores` of one.
        second: the `Scores` of the other.
        seed: of the bootstrap.
        num_samples: of the bootstrap.

    Returns:
        A `Difference`.

    Raises:
        UserError: they have no video in common, or different classes or labels.
    """
    rows, others, columns = matched(first, second)
    rng = np.random.default_rng(seed)
    digests = [each.about.get("list_sha256") for each in (first, second)]
    if first.multi_label:
        pair = [_ranked(first)[rows], _ranked(second)[others][:, columns]]
        names = list(map(first.class_name, range(pair[0].shape[1])))
        found = _average_precisions(pair, first.labels[rows], names, rng, num_samples)
    else:
        pair = [_right(first)[rows], _right(second)[others]]
        names = list(map(first.class_name, range(first.scores.shape[1])))
        found = _accuracies(pair, first.labels[rows], names, rng, num_samples)
    measured, classes, num_samples = found
    return Difference(
        num_common=len(rows),
        num_first=len(first.scores),
        num_second=len(second.scores),
        same_list=bool(digests[0]) and digests[0] == digests[1],
        multi_label=first.multi_label,
        num_samples=num_samples,
        metrics=measured,
        classes=with_holm(classes),
    )


def with_holm(changes):
    """`Change`s with p-values corrected for their number by Holm's method."""
    known = [number for number, each in enumerate(changes) if each.p is not None]
    corrected = holm([changes[number].p for number in known])
    found = list(changes)
    for number, p in zip(known, corrected, strict=True):
        found[number] = dataclasses.replace(changes[number], p_holm=p)
    return found


def holm(p_values):
    """P-values corrected for their number (Holm, Scandinavian Journal of Statistics, 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected, highest = [0.0] * len(order), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min((len(order) - rank) * p_values[number], 1.0))
        corrected[number] = float(highest)
    return corrected


def _right(found):
    """Whether each video is recognised, bool `[videos]`."""
    return (np.argmax(found.scores, axis=1) == found.labels) & ~found.is_missing


def _ranked(found):
    return np.where(found.is_missing[:, None], -np.inf, found.scores)


# Accuracies


def _accuracies(pair, labels, names, rng, num_samples):
    """`Change`s of the metrics and of the classes, and the number of samples."""
    num_videos = len(labels)
    counts = np.bincount(labels, minlength=len(names))
    share = 1 / np.count_nonzero(counts)
    classes, means = [], []
    of_all, of_mean, null_of_mean = np.zeros(num_samples), np.zeros(num_samples), 0.0
    for label, name in enumerate(names):
        count = int(counts[label])
        if not count:
            classes.append(Change(name, 0, None, None))
            continue
        first, second = (right[labels == label] for right in pair)
        ups, downs = int((first & ~second).sum()), int((second & ~first).sum())
        shares = np.array([ups, downs, count - ups - downs]) / count
        drawn = rng.multinomial(count, shares, size=num_samples)
        samples = drawn[:, 0] - drawn[:, 1]
        means.append((float(first.mean()), float(second.mean())))
        p = exchange_p_value(ups, downs, count)
        low, high = _interval(samples / count)
        classes.append(Change(name, count, *means[-1], low, high, p))
        # A sample of all videos has as many of each class as there are.
        of_all += samples / num_videos
        of_mean += samples / count * share
        differing = rng.binomial(count, (ups + downs) / count, size=num_samples)
        null_of_mean += (2 * rng.binomial(differing, 0.5) - differing) / count * share
    first, second = pair
    both = int((first & ~second).sum()), int((second & ~first).sum())
    top = float(first.mean()), float(second.mean())
    mean = tuple(np.mean(means, axis=0).tolist())
    # A hair below: sums of fractions are rounded.
    extreme = np.abs(null_of_mean) >= abs(mean[0] - mean[1]) - 1e-9
    p_of_mean = (1 + int(extreme.sum())) / (1 + num_samples)
    p = exchange_p_value(*both, num_videos)
    low, high = _interval(of_all)
    measured = [Change("top-1", num_videos, *top, low, high, p)]
    low, high = _interval(of_mean)
    measured.append(Change("mean class", num_videos, mean[0], mean[1], low, high, p_of_mean))
    return measured, classes, num_samples


def exchange_p_value(ups, downs, count):
    """P-value of a difference of accuracies.

    In a sample of the videos, with the runs exchanged at random in each, the difference of a video
    is 1 or -1 with equal probability, or 0. The distribution of their sum is computed from its
    characteristic function: the limit of infinitely many samples.

    Args:
        ups: videos that only the first run has right.
        downs: videos that only the second run has right.
        count: all videos.
    """
    if ups == downs:
        return 1.0
    differing = (ups + downs) / count
    size = 2 * count + 1
    angles = 2 * np.pi * np.arange(count + 1) / size
    characteristic = (1 - differing + differing * np.cos(angles)) ** count
    masses = np.fft.irfft(characteristic, size)  # of the sums 0, 1, ..., count, -count, ..., -1
    tail = float(np.sum(masses[abs(ups - downs) : count + 1]))
    return min(max(2 * tail, 0.0), 1.0)


def _interval(samples):
    ends = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    low, high = np.quantile(samples, ends)
    return float(low), float(high)


# Average precisions


def _average_precisions(pair, labels, names, rng, num_samples):
    """`Change`s of mAP and of the classes, and the number of samples."""
    num_videos = len(labels)
    affordable = int(_MOST_WORK / labels.size)
    num_samples = min(num_samples, max(affordable, _FEWEST_SAMPLES))
    if affordable < _FEWEST_SAMPLES // 10:
        num_samples = 0
    found = np.array([per_class_average_precision(scores, labels) for scores in pair])
    drawn = _sampled_precisions(pair, labels, rng, num_samples)
    drawn = drawn[0] - drawn[1]
    classes = []
    for label, (name, count) in enumerate(zip(names, labels.sum(axis=0).astype(int), strict=True)):
        first, second = found[:, label].tolist() if count else (None, None)
        known = drawn[:, label] if count >= _LEAST_POSITIVE else drawn[:0, 0]
        classes.append(_change(name, int(count), first, second, known))
    known = drawn[:, ~np.isnan(found[0])]
    counted = np.isfinite(known)
    means = np.where(counted, known, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    first, second = np.nanmean(found, axis=1).tolist()
    return [_change("mAP", num_videos, first, second, means)], classes, num_samples


def _change(name, count, first, second, drawn):
    """A `Change` by a normal distribution with the standard error of `drawn` differences."""
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Change(name, count, first, second)
    error, difference = float(drawn.std()), first - second
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    room = _DEVIATIONS * error
    return Change(name, count, first, second, difference - room, difference + room, p)


def _sampled_precisions(pair, labels, rng, num_samples):
    """Average precisions of samples, `[2, samples, classes]`; NaN without positive videos."""
    num_videos, num_classes = labels.shape
    found = np.full((2, num_samples, num_classes), np.nan)
    orders = [np.argsort(-scores, axis=0, kind="stable") for scores in pair]
    step = max(1, _CHUNK // num_videos)
    for start in range(0, num_samples, step):
        size = min(step, num_samples - start)
        drawn = rng.integers(num_videos, size=(size, num_videos))
        counts = [np.bincount(row, minlength=num_videos) for row in drawn]
        weights = np.stack(counts, axis=1).astype(np.float32)  # [videos, samples]
        for run, (scores, order) in enumerate(zip(pair, orders, strict=True)):
            for label in range(num_classes):
                if not labels[:, label].any():
                    continue
                rows = order[:, label]
                found[run, start : start + size, label] = _weighted_precision(
                    scores[rows, label], labels[rows, label] > 0, weights[rows]
                )
    return found


def _weighted_precision(ranked, positive, weights):
    """`metrics.average_precision` with each video as often as its weight says, `[samples]`."""
    # Only steps with a positive video add anything; equal scores are one step.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    ends = ends[np.unique(np.searchsorted(ends, np.flatnonzero(positive)))]
    seen = np.cumsum(weights, axis=0)[ends]  # exact: below 2^24
    hits = np.cumsum(weights[positive], axis=0)[np.cumsum(positive)[ends] - 1]
    steps = np.diff(hits, axis=0, prepend=np.zeros_like(hits[:1]))
    with np.errstate(invalid="ignore"):
        return (steps * hits / np.maximum(seen, 1)).sum(axis=0) / hits[-1]
