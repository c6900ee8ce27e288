"""Late fusion: the weighted mean of several models' scores."""

import dataclasses
from functools import partial

import numpy as np

from trn_jax.errors import UserError, listed
from trn_jax.evaluation import metrics

_MAX_NAMED = 3
_listed = partial(listed, most=_MAX_NAMED)


def fuse(parts, weights=None):
    """Weighted mean of several models' scores of the same videos.

    A video is missing if it is in all parts. Where it is in some, its scores are those of the
    others, times their share of the weights.

    Args:
        parts: a list of pairs `(name, Scores)`, at least two; videos are in the order of the first.
        weights: a non-negative number per part; by default equal.

    Returns:
        A `Scores`.

    Raises:
        UserError: wrong weights, or the parts have different videos, labels or classes.
    """
    weights = [1.0] * len(parts) if weights is None else weights
    if len(parts) < 2:
        raise UserError(f"a fusion needs at least two files, found {len(parts)}")
    if len(weights) != len(parts):
        raise UserError(f"there are {len(weights)} weights for {len(parts)} files; give one each")
    if not np.isfinite(weights).all() or min(weights) < 0 or sum(weights) == 0:
        raise UserError(
            f"weights {', '.join(f'{w:g}' for w in weights)} must be finite and not negative, and "
            "not all 0"
        )
    for name, part in parts:
        if not np.isfinite(part.scores).all():
            raise UserError(f"{name} has scores that are not finite; evaluate it again")
    first_name, first = parts[0]
    shares = np.divide(weights, sum(weights))
    total, missing = shares[0] * first.scores, first.is_missing
    for share, (name, part) in zip(shares[1:], parts[1:], strict=True):
        try:
            places = _match(first, part)
        except UserError as error:
            raise UserError(f"can't fuse {name} with {first_name}: {error}") from None
        total += share * part.scores[places]
        missing = missing & part.is_missing[places]
    terms = [f"{weight:g} x {name}" for weight, (name, _) in zip(weights, parts, strict=True)]
    return dataclasses.replace(
        first,
        scores=total.astype(np.float32),
        protocol="fusion",
        missing=missing if missing.any() else None,
        about={"fusion": " + ".join(terms)},
    )


def _match(first, other):
    """Rows of `other` in the order of the videos of `first`, `[videos]`.

    Raises:
        UserError: the two have different videos, labels or classes.
    """
    if other.scores.shape[1] != first.scores.shape[1]:
        raise UserError(
            f"it has {other.scores.shape[1]} classes, the other one {first.scores.shape[1]}"
        )
    if first.class_names and other.class_names:
        unlike = [
            f"class {label} is {theirs!r} there and {ours!r} here"
            for label, (ours, theirs) in enumerate(
                zip(other.class_names, first.class_names, strict=True)
            )
            if ours != theirs
        ]
        if unlike:
            raise UserError(f"they name {len(unlike)} classes differently:{_listed(unlike)}")
    ours, theirs = (metrics.are_probabilities(s.scores) for s in (other, first))
    if ours != theirs:
        raise UserError(
            "only one of them has probabilities: its scores are in "
            f"{other.scores.min():g}..{other.scores.max():g}, those of the other one in "
            f"{first.scores.min():g}..{first.scores.max():g}"
        )
    places = _match_names(first, other)
    if other.labels.ndim != first.labels.ndim:
        raise UserError("one has one label per video, the other one several")
    unlike = other.labels[places] != first.labels
    rows = np.flatnonzero(unlike.any(axis=1) if first.multi_label else unlike)
    if len(rows):
        names = [first.videos[row] if first.videos else f"video {row}" for row in rows[:_MAX_NAMED]]
        raise UserError(
            f"their labels differ for {len(rows)} of {len(first.labels)} videos, such as "
            f"{', '.join(names)}; evaluate both on the same list"
        )
    return places


def _match_names(first, other):
    num_here, num_there = len(other.scores), len(first.scores)
    same_order = np.arange(num_here)
    if other.videos == first.videos and first.videos:
        return same_order
    if not other.videos or not first.videos:
        # Dumps of mmaction2 name no videos; they are in the order of the list.
        if num_here != num_there:
            raise UserError(
                f"it has {num_here} videos, the other one {num_there}, and not both have names to "
                "match them by"
            )
        return same_order
    places = {name: row for row, name in enumerate(other.videos)}
    absent = [f"{name!r} is only there" for name in first.videos if name not in places]
    absent += [f"{name!r} is only here" for name in places.keys() - set(first.videos)]
    if absent:
        raise UserError(
            f"their videos differ ({num_here} here, {num_there} there):{_listed(absent)}"
        )
    if len(places) < num_here or num_here != num_there:
        raise UserError(
            "their videos are in different orders, and some names occur more than once, so they "
            "can't be matched"
        )
    return np.array([places[name] for name in first.videos])
