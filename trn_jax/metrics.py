"""Metrics of single-label classification, in NumPy.

Scores are `[videos, classes]`, labels `[videos]`. Ties go to the class with the lower number, so
that results do not depend on the sorting algorithm.
"""

import numpy as np

from trn_jax.errors import UserError


def top_k_accuracy(scores, labels, k):
    """Share of the videos whose label is among the `k` highest scores.

    `k` is cut to the number of classes.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean(np.any(order == labels[:, None], axis=1)))


def confusion_matrix(predictions, labels, num_classes):
    """Counts `[classes, classes]`; rows are true classes, columns predicted ones."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def per_class_accuracy(confusion):
    """Share of each class's videos that were recognised, `[classes]`; 0 for a class without any."""
    return np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)


def mean_class_accuracy(confusion):
    """Mean of the per-class accuracies, as mmaction2 defines it.

    Classes that neither occur nor were predicted do not count; a class that was predicted but does
    not occur counts as 0.
    """
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    return float(np.mean(per_class_accuracy(confusion)[seen]))


def classification(scores, labels, partners=None):
    """All metrics of an evaluation.

    Args:
        scores: `[videos, classes]`.
        labels: `[videos]`.
        partners: `{class: the class that is this one backwards in time}`, where there are such.

    Returns:
        A dict of numbers between 0 and 1: `top1`, `top5`, `mean_class`, and, given `partners`, over
        the videos of classes that have one: `pair` (the class or its partner was named) and
        `partner` (its partner was named).

    Raises:
        UserError: scores are not finite, or there are none.
    """
    if len(scores) == 0:
        raise UserError("there is nothing to evaluate: the list has no videos")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise UserError(
            f"the scores of {bad} of {len(scores)} videos are not finite numbers; "
            "the training has diverged, or the checkpoint is broken"
        )
    predictions = np.argmax(scores, axis=1)
    confusion = confusion_matrix(predictions, labels, scores.shape[1])
    result = {
        "top1": top_k_accuracy(scores, labels, 1),
        "top5": top_k_accuracy(scores, labels, 5),
        "mean_class": mean_class_accuracy(confusion),
    }
    if partners:
        paired = np.isin(labels, list(partners))
        partner = np.array([partners.get(label, -1) for label in labels.tolist()])
        backwards = predictions == partner
        result["pair"] = float(np.mean((backwards | (predictions == labels))[paired]))
        result["partner"] = float(np.mean(backwards[paired]))
    return result
