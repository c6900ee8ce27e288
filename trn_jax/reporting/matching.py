"""Videos and classes that two evaluations have in common, by name."""

import dataclasses

import numpy as np

from trn_jax.errors import UserError, listed


def aligned(first, second):
    """The `Scores` of two evaluations for the videos of both, with the classes of the first one.

    Raises:
        UserError: see `matched`.
    """
    rows, others, columns = matched(first, second)
    names = [first.videos[row] for row in rows] if first.videos else []
    own = dataclasses.replace(
        first,
        scores=first.scores[rows],
        labels=first.labels[rows],
        videos=names,
        missing=first.is_missing[rows],
    )
    scores = second.scores[others][:, columns]
    return own, dataclasses.replace(own, scores=scores, missing=second.is_missing[others])


def matched(first, second):
    """Match the videos and the classes of two evaluations.

    Args:
        first: the `Scores` of one.
        second: the `Scores` of the other.

    Returns:
        The rows of the common videos in the first and in the second one, and the columns of the
        second one in the order of the first one's classes, all integer arrays.

    Raises:
        UserError: they have no video in common, or different classes or labels.
    """
    if first.multi_label != second.multi_label:
        raise UserError("one run has one label per video, the other one several")
    columns = _matched_classes(first, second)
    rows, others = _matched_videos(first, second)
    labels = second.labels[others]
    if first.multi_label:
        unlike = (labels[:, columns] != first.labels[rows]).any(axis=1)
    else:
        unlike = np.argsort(columns)[labels] != first.labels[rows]
    if unlike.any():
        names = [first.videos[row] for row in rows[unlike]] if first.videos else []
        raise UserError(
            f"the labels of {int(unlike.sum())} videos differ between the runs; evaluate both on "
            f"the same list{listed(names, most=3)}"
        )
    return rows, others, columns


def _matched_classes(first, second):
    num_first, num_second = first.scores.shape[1], second.scores.shape[1]
    if num_first != num_second:
        raise UserError(f"the runs have {num_first} and {num_second} classes; expected the same")
    if not first.class_names or not second.class_names:
        return np.arange(num_first)
    places = {name: column for column, name in enumerate(second.class_names)}
    missing = [name for name in first.class_names if name not in places]
    if missing:
        raise UserError(
            f"the second run lacks classes of the first one: {len(missing)}{listed(missing)}"
        )
    return np.array([places[name] for name in first.class_names])


def _matched_videos(first, second):
    if first.videos == second.videos:  # also if neither has names: the order of the list
        if len(first.scores) != len(second.scores):
            raise UserError(
                f"the runs have {len(first.scores)} and {len(second.scores)} videos without names "
                "to match them by"
            )
        return np.arange(len(first.scores)), np.arange(len(first.scores))
    places = _numbered(second.videos)
    pairs = [(row, places[key]) for key, row in _numbered(first.videos).items() if key in places]
    if not pairs:
        raise UserError(
            f"the runs have no video in common; the first ones are {first.videos[:1]} and "
            f"{second.videos[:1]}"
        )
    rows, others = np.array(sorted(pairs)).T
    return rows, others


def _numbered(videos):
    """`{(name, how many rows before have it): row}`, as lists may have a video several times."""
    seen: dict[str, int] = {}
    found = {}
    for row, name in enumerate(videos):
        seen[name] = seen.get(name, -1) + 1
        found[name, seen[name]] = row
    return found
