"""Calibration of scores: a temperature, and thresholds below which no class is named.

The temperature minimises the negative log likelihood of the labels (Guo et al., "On Calibration of
Modern Neural Networks", ICML 2017).
"""

import numpy as np

from trn_jax.checkpoints.calibration_file import TEMPERATURES, Calibration
from trn_jax.errors import UserError
from trn_jax.evaluation import metrics
from trn_jax.evaluation.merging import merge_views

# How little a few videos count: as if so many more had calibrated scores as they are, and so many
# more of each class had the threshold of all classes.
PRIOR_VIDEOS = 5
PRIOR_EXAMPLES = 10
_ENDS = float(np.finfo(np.float32).tiny), 1 - 2.0**-25  # the scores that logits are taken of
_CHUNK = 1 << 20  # logits that are computed with at a time
_MAX_STEPS, _PRECISION = 100, 1e-9  # of the temperature


def calibrated(scores, temperature, *, multi_label=False):
    """Divide the logits of scores by a temperature.

    The logits are taken of the merged scores, whatever they were merged from: `softmax(log(p) / T)`
    where classes exclude each other, and `sigmoid(logit(p) / T)` where they don't. The order of
    classes stays the same. A temperature of 1 changes no bit.

    Args:
        scores: probabilities `[..., classes]`.
        temperature: T; above 1, scores become less sure.
        multi_label: one decision per class.

    Returns:
        An array of the same shape and type.
    """
    scores = np.asarray(scores)
    if temperature == 1:
        return scores
    logits = _logits(scores, multi_label) / temperature
    found = merge_views(logits[None], merge="logits", multi_label=multi_label)
    return found.astype(scores.dtype)


def _logits(scores, multi_label):
    clipped = np.clip(scores.astype(np.float64), *_ENDS)
    return np.log(clipped) - np.log1p(-clipped) if multi_label else np.log(clipped)


def fit(found, *, class_names=None, **origin):
    """Fit temperature and thresholds to the scores of an evaluation.

    Args:
        found: the `Scores`; unreadable videos don't count.
        class_names: of the classes of the checkpoint, in the order of the scores; by default those
            of the scores.
        **origin: `split` and `list_sha256` of the `Calibration`; `protocol`, by default that of the
            scores.

    Returns:
        The `Calibration`.

    Raises:
        UserError: no video is readable, or the scores are not probabilities.
    """
    read = ~found.is_missing
    scores, labels, several = found.scores[read], found.labels[read], found.multi_label
    if not len(scores):
        raise UserError("a calibration needs videos: none of the list can be read")
    if not metrics.are_probabilities(scores):
        raise UserError(
            f"a calibration needs probabilities; these scores are in {scores.min():g}.."
            f"{scores.max():g}"
        )
    names = class_names or [found.class_name(label) for label in range(scores.shape[1])]
    temperature = fit_temperature(scores, labels)
    after = calibrated(scores, temperature, multi_label=several)
    threshold, thresholds = fit_thresholds(after, labels)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        thresholds=dict(zip(names, thresholds, strict=True)),
        multi_label=several,
        num_videos=len(scores),
        before=reliability(scores, labels),
        after=reliability(after, labels),
        **{"protocol": found.protocol} | origin,
    )


def reliability(scores, labels):
    """How far scores are from probabilities: `ece` and `nll`, see `Calibration.before`."""
    return {
        "ece": metrics.calibration_error(scores, labels),
        "nll": metrics.negative_log_likelihood(scores, labels),
    }


def fit_temperature(scores, labels):
    """The temperature with the lowest negative log likelihood.

    To the videos of the list come `PRIOR_VIDEOS` whose labels are distributed as their scores say,
    so that a few videos, which may all be right by chance, change little; their share falls with
    the number of videos.

    Args:
        scores: probabilities `[videos, classes]`.
        labels: `[videos]`, or multi-hot `[videos, classes]`.

    Returns:
        A number in 0.05..20; 1 if the scores of all classes are equal.
    """
    several = labels.ndim == 2
    logits = _logits(scores, several)
    if several:
        of_labels = float(np.sum(logits * labels))
    else:
        logits -= logits.max(axis=1, keepdims=True)
        of_labels = float(np.sum(logits[np.arange(len(labels)), labels]))
    # The loss is convex in the inverse temperature. Where its derivative is 0, the logits expected
    # by the calibrated scores sum to those of the labels.
    share = PRIOR_VIDEOS / len(scores)
    inverse = 1.0
    expected, slope = _expected(logits, inverse, several)
    wanted = (of_labels + share * expected) / (1 + share)
    low, high = 1 / TEMPERATURES.high, 1 / TEMPERATURES.low
    for _ in range(_MAX_STEPS):
        if abs(expected - wanted) <= _PRECISION * len(scores):
            break
        low, high = (inverse, high) if expected < wanted else (low, inverse)
        # Newton's step, or, where that leads out of the interval, half of it.
        step = inverse + (wanted - expected) / slope if slope > 0 else np.inf
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _PRECISION * inverse:
            break
        inverse = following
        expected, slope = _expected(logits, inverse, several)
    return float(np.clip(1 / inverse, TEMPERATURES.low, TEMPERATURES.high))


def _expected(logits, inverse, several):
    """The sum of logits that calibrated scores expect, and its derivative by the inverse of T."""
    total = slope = 0.0
    for part in np.array_split(logits, -(-logits.size // _CHUNK)):
        found = merge_views(inverse * part[None], merge="logits", multi_label=several)
        if several:
            total += float(np.sum(found * part))
            slope += float(np.sum(found * (1 - found) * part**2))
        else:
            means = np.sum(found * part, axis=1)
            total += float(means.sum())
            slope += float(np.sum(found * part**2) - np.sum(means**2))
    return total, slope


def fit_thresholds(scores, labels):
    """The thresholds with the highest F1.

    Args:
        scores: calibrated, `[videos, classes]`.
        labels: `[videos]`, or multi-hot `[videos, classes]`.

    Returns:
        The threshold for the decisions on all classes, and a list of those of the classes. That of
        a class with n videos is a mean: its own counts n times, that of all `PRIOR_EXAMPLES` times.
    """
    positive = labels > 0 if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])
    of_all = best_threshold(scores.ravel(), positive.ravel())
    found = []
    columns = np.ascontiguousarray(scores.T), np.ascontiguousarray(positive.T)
    for column, wanted in zip(*columns, strict=True):
        count = int(wanted.sum())
        own = count * best_threshold(column, wanted) if count else 0.0
        found.append((own + PRIOR_EXAMPLES * of_all) / (count + PRIOR_EXAMPLES))
    return of_all, found


def best_threshold(scores, positive):
    """The threshold with the highest F1 of what reaches it.

    It lies in the middle between two scores (or the lowest one and 0). Of equally good gaps it is
    the widest one, of equally wide ones the lowest.

    Args:
        scores: `[n]`, at least 0.
        positive: bool `[n]`, with at least one true.
    """
    right, wrong = np.sort(scores[positive]), np.sort(scores[~positive])
    # The best one is reached by a positive score: down to the next one, only wrong ones are added.
    reached = np.unique(right)
    num_right = len(right) - np.searchsorted(right, reached)
    num_below = np.searchsorted(wrong, reached)
    f1 = 2 * num_right / (num_right + len(wrong) - num_below + len(right))
    next_wrong = np.append(0.0, wrong)[num_below]
    rejected = np.maximum(np.append(0.0, reached[:-1]), next_wrong)
    gaps = np.where(f1 == f1.max(), reached - rejected, -1.0)
    best = int(np.argmax(gaps))
    return float(reached[best] + rejected[best]) / 2
