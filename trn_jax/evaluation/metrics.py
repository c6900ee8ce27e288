"""Classification metrics for one or several labels per video, in NumPy.

Scores are `[videos, classes]`; labels are `[videos]`, or multi-hot `[videos, classes]`. Results are
fractions. Of equal scores, the class with the higher number ranks first among the top k, and the
lower number is the prediction of the confusion matrix, as in mmaction2.
"""

import numpy as np

from trn_jax.errors import UserError


def top_k_accuracy(scores, labels, k):
    """Fraction of videos whose label is among the `k` highest scores, or among all.

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
    """Accuracy of each class, `[classes]`; 0 for a class without videos.

    Args:
        confusion: see `confusion_matrix`.
        num_missing: further videos of each class, without a prediction, `[classes]`.
    """
    return np.diag(confusion) / np.maximum(confusion.sum(axis=1) + num_missing, 1)


def mean_class_accuracy(confusion, num_missing=0):
    """Mean of `per_class_accuracy`, as in mmaction2.

    A class without videos doesn't count, unless it was predicted: then it counts as 0.
    """
    counted = (confusion.sum(axis=0) + confusion.sum(axis=1) + num_missing) > 0
    return float(np.mean(per_class_accuracy(confusion, num_missing)[counted]))


def calibration_error(scores, labels, num_bins=15):
    """Expected calibration error.

    Videos are binned by their highest score into `num_bins` equal intervals; the result is the mean
    difference between the mean score and the accuracy of a bin, weighted by its videos (Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017). Of several labels per video, every score
    counts by itself.

    Raises:
        UserError: the scores are not probabilities.
    """
    _, confidence, right = reliability_bins(scores, labels, num_bins)
    num_decisions = len(scores) if labels.ndim == 1 else scores.size
    return float(np.abs(confidence - right).sum() / num_decisions)


def reliability_bins(scores, labels, num_bins=15):
    """The bins of `calibration_error`.

    Returns:
        Three arrays `[num_bins]`: number of decisions, sum of their scores, and number of right
        ones (of several labels: of positive ones).

    Raises:
        UserError: the scores are not probabilities.
    """
    if not are_probabilities(scores):
        raise UserError(
            "the calibration error needs probabilities; these scores are in "
            f"{scores.min():g}..{scores.max():g}"
        )
    if labels.ndim == 2:
        confidence, right = scores.ravel().astype(np.float64), labels.ravel() > 0
    else:
        confidence = scores.max(axis=1).astype(np.float64)
        right = np.argmax(scores, axis=1) == labels
    # Bins are open below: a confidence of 1 belongs to the last one.
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return (
        np.bincount(bins, minlength=num_bins),
        np.bincount(bins, confidence, num_bins),
        np.bincount(bins, right, num_bins),
    )


def negative_log_likelihood(scores, labels):
    """Mean of `-log(score of the label)`; of several labels, mean of all decisions.

    Scores of 0 count as the smallest one that float32 has with all digits, 1.2e-38.
    """
    scores = np.asarray(scores, np.float64)
    lowest = np.finfo(np.float32).tiny
    if labels.ndim == 1:
        scores = scores[np.arange(len(labels)), labels]
    else:
        scores = np.where(labels > 0, scores, 1 - scores)
    return float(-np.mean(np.log(np.clip(scores, lowest, 1))))


def are_probabilities(scores):
    """Whether all scores are in 0..1, up to rounding."""
    return bool(scores.size and scores.min() >= 0 and scores.max() <= 1 + 1e-5)


def average_precision(scores, positive):
    """Area under the precision-recall curve, without interpolation.

    Args:
        scores: `[n]`; equal ones are one step.
        positive: `[n]`, which of them are positive.

    Returns:
        A fraction; NaN without positives.
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
    """Average precision of each class, `[classes]`; NaN for a class without videos."""
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([average_precision(*column) for column in columns])


def mean_average_precision(scores, labels):
    """Mean average precision of the classes with videos, as for Charades.

    (`mean_average_precision` in mmaction2.)
    """
    return float(np.nanmean(per_class_average_precision(scores, labels)))


def mean_average_precision_by_video(scores, labels):
    """Mean over the videos with labels of the average precision of their classes' ranking.

    As for Multi-Moments in Time (`mmit_mean_average_precision` in mmaction2).
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
        missing: unreadable videos, bool `[videos]`, which count as wrong; `None`: there are none.

    Returns:
        A dict of fractions: `top1`, `top5` (or what `top_k` names), `mean_class`, and, over the
        videos of classes in `reversed_class`: `pair` (predicted the class or its reversed class)
        and `reversed_class` (predicted that).

    Raises:
        UserError: scores are not finite, or there are none.
    """
    missing = np.zeros(len(scores), bool) if missing is None else missing
    num_classes = scores.shape[1]
    _check(scores[~missing])
    predictions = np.where(missing, -1, np.argmax(scores, axis=1))
    confusion = confusion_matrix(predictions[~missing], labels[~missing], num_classes)
    wanted = np.where(missing, -1, labels)  # -1: no class
    result = {f"top{k}": top_k_accuracy(scores, wanted, k) for k in top_k}
    num_missing = np.bincount(labels[missing], minlength=num_classes)
    result["mean_class"] = mean_class_accuracy(confusion, num_missing)
    if reversed_class:
        paired = np.isin(labels, list(reversed_class))
        reversed_labels = np.array([reversed_class.get(label, -1) for label in labels.tolist()])
        backwards = (predictions == reversed_labels) & ~missing
        result["pair"] = float(np.mean((backwards | (predictions == labels))[paired]))
        result["reversed_class"] = float(np.mean(backwards[paired]))
    return result


def multi_label(scores, labels, missing=None):
    """All metrics of an evaluation with several labels per video.

    Args:
        scores: `[videos, classes]`.
        labels: multi-hot `[videos, classes]`, at least one 1.
        missing: unreadable videos, bool `[videos]`, which rank last in every class and count as
            wrong; `None`: there are none.

    Returns:
        A dict of fractions: `map` (see `mean_average_precision`), `map_by_video`, and `top1`, of
        the videos whose highest score is that of one of their labels.

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
        raise UserError("nothing to evaluate: the list has no videos")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise UserError(
            f"the scores of {bad} of {len(scores)} videos are not finite; the training has "
            "diverged, or the checkpoint is corrupt"
        )
