"""Metrics of classification with one or with several labels per video, in NumPy.

Scores are `[videos, classes]`; labels are `[videos]`, or, where a video may have several,
`[videos, classes]` of 0 and 1. All results are shares between 0 and 1. Between equal scores, the
class with the higher number comes first among the top k, and the one with the lower number is the
prediction that confusions count, as in mmaction2.
"""

import numpy as np

from trn_jax.errors import UserError


def top_k_accuracy(scores, labels, k):
    """Share of the videos whose label is among the `k` highest scores.

    `k` is cut to the number of classes.

    Raises:
        UserError: `k` is not positive.
    """
    if k < 1:
        raise UserError(f"top-{k} accuracy does not exist; k must be at least 1")
    order = np.argsort(scores, axis=1, kind="stable")[:, -k:]
    return float(np.mean(np.any(order == labels[:, None], axis=1)))


def confusion_matrix(predictions, labels, num_classes):
    """Counts `[classes, classes]`; rows are true classes, columns predicted ones."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def per_class_accuracy(confusion, num_missing=0):
    """Share of each class's videos that were recognised, `[classes]`; 0 for a class without any.

    Args:
        confusion: see `confusion_matrix`.
        num_missing: videos of each class without a prediction, `[classes]`, which it lacks.
    """
    return np.diag(confusion) / np.maximum(confusion.sum(axis=1) + num_missing, 1)


def mean_class_accuracy(confusion, num_missing=0):
    """Mean of the per-class accuracies, as mmaction2 defines it; see there for the arguments.

    A class without videos does not count, unless it was predicted: then it counts as 0. So one
    wrong guess at a class that the list does not have lowers the mean.
    """
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1) + num_missing) > 0
    return float(np.mean(per_class_accuracy(confusion, num_missing)[seen]))


def calibration_error(scores, labels, num_bins=15):
    """Expected calibration error: how far confidence is from accuracy.

    The videos are sorted into `num_bins` equal intervals of the highest score; the result is the
    mean distance between an interval's mean score and its accuracy, weighted by its videos
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Raises:
        UserError: the scores are not probabilities.
    """
    if not are_probabilities(scores):
        raise UserError(
            "the calibration error needs probabilities; these scores reach from "
            f"{scores.min():g} to {scores.max():g}"
        )
    confidence = scores.max(axis=1).astype(np.float64)
    right = np.argmax(scores, axis=1) == labels
    # Intervals are open below: a confidence of 1 belongs to the last one.
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    surplus = np.bincount(bins, confidence - right, num_bins)
    return float(np.abs(surplus).sum() / len(scores))


def are_probabilities(scores):
    """Whether all scores lie between 0 and 1, up to rounding."""
    return bool(scores.size and scores.min() >= 0 and scores.max() <= 1 + 1e-5)


def average_precision(scores, positive):
    """Area below the steps of precision over recall, without interpolation.

    Args:
        scores: `[n]`; equal ones are one step.
        positive: `[n]`, what should have high scores.

    Returns:
        A number between 0 and 1, NaN if nothing is positive.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    found = np.cumsum(positive[order], dtype=np.float64)
    if not len(found) or found[-1] == 0:
        return float("nan")
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    steps = np.diff(found[ends] / found[-1], prepend=0)
    return float(np.sum(steps * found[ends] / (ends + 1)))


def per_class_average_precision(scores, labels):
    """Average precision of each class over the videos, `[classes]`; NaN for one without videos."""
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([average_precision(*column) for column in columns])


def mean_average_precision(scores, labels):
    """Mean of the classes' average precisions, as Charades is evaluated.

    Classes without videos do not count. (`mean_average_precision` in mmaction2.)
    """
    return float(np.nanmean(per_class_average_precision(scores, labels)))


def mean_average_precision_by_video(scores, labels):
    """Mean over the videos of the average precision of their classes' ranking.

    As Multi-Moments in Time is evaluated (`mmit_mean_average_precision` in mmaction2). Videos
    without labels do not count.
    """
    rows = zip(scores, labels, strict=True)
    return float(np.nanmean([average_precision(*row) for row in rows]))


def classification(scores, labels, reversed_class=None, top_k=(1, 5), missing=None):
    """All metrics of an evaluation with one label per video.

    Args:
        scores: `[videos, classes]`.
        labels: `[videos]`.
        reversed_class: `{class: the class that shows it backwards in time}`; two such classes are a
            pair.
        top_k: which top-k accuracies.
        missing: whether a video could not be read, `[videos]`; it counts as wrong, its scores mean
            nothing. `None`: all could.

    Returns:
        A dict of numbers between 0 and 1: `top1`, `top5` (or what `top_k` names), `mean_class`,
        and, over the videos of classes in `reversed_class`: `pair` (predicted the class or its
        reversed class) and `partner` (predicted the reversed class).

    Raises:
        UserError: scores are not finite, or there are none.
    """
    missing = np.zeros(len(scores), bool) if missing is None else missing
    num_classes = scores.shape[1]
    _check(scores[~missing])
    predictions = np.where(missing, -1, np.argmax(scores, axis=1))
    confusion = confusion_matrix(predictions[~missing], labels[~missing], num_classes)
    wanted = np.where(missing, -1, labels)  # no class has that number
    result = {f"top{k}": top_k_accuracy(scores, wanted, k) for k in top_k}
    num_missing = np.bincount(labels[missing], minlength=num_classes)
    result["mean_class"] = mean_class_accuracy(confusion, num_missing)
    if reversed_class:
        paired = np.isin(labels, list(reversed_class))
        reversed_labels = np.array([reversed_class.get(label, -1) for label in labels.tolist()])
        backwards = (predictions == reversed_labels) & ~missing
        result["pair"] = float(np.mean((backwards | (predictions == labels))[paired]))
        result["partner"] = float(np.mean(backwards[paired]))
    return result


def multi_label(scores, labels, missing=None):
    """All metrics of an evaluation with several labels per video.

    Args:
        scores: `[videos, classes]`.
        labels: `[videos, classes]` of 0 and 1, at least one 1.
        missing: whether a video could not be read, `[videos]`: every class ranks it last, and it
            counts as wrong. `None`: all could.

    Returns:
        A dict of numbers between 0 and 1: `map` (see `mean_average_precision`), `map_by_video`,
        and `top1`, the share of the videos whose highest score is that of one of their labels.

    Raises:
        UserError: scores are not finite, or there are none.
    """
    missing = np.zeros(len(scores), bool) if missing is None else missing
    _check(scores[~missing])
    ranked = np.where(missing[:, None], -np.inf, scores)
    best = np.argmax(scores, axis=1)
    readable = np.mean(~missing)
    by_video = mean_average_precision_by_video(scores[~missing], labels[~missing])
    return {
        "map": mean_average_precision(ranked, labels),
        "map_by_video": float(readable * by_video),
        "top1": float(np.mean((labels[np.arange(len(labels)), best] > 0) & ~missing)),
    }


def _check(scores):
    if len(scores) == 0:
        raise UserError("there is nothing to evaluate: the list has no videos")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise UserError(
            f"the scores of {bad} of {len(scores)} videos are not finite numbers; "
            "the training has diverged, or the checkpoint is broken"
        )
