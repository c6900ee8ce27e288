"""What the order of the frames is worth: the scores of a clip forward, reversed, shuffled, frozen.

A model that ignores the order gives the same scores to the first three. One whose class is a matter
of appearance still recognises a single frozen frame.
"""

import numpy as np

ORDERS = ("forward", "reversed", "shuffled", "frozen")
NUM_SHUFFLES = 20


def rearrangements(num_frames, *, num_shuffles=NUM_SHUFFLES, seed=0):
    """The orders of the frames of a clip.

    Args:
        num_frames: frames of the clip.
        num_shuffles: random orders; the same for every clip of as many frames.
        seed: of these.

    Returns:
        `{name: int [rearrangements, frames]}`, see `Rearranged.logits`, for the `ORDERS`: one
        forward and reversed, `num_shuffles` shuffled ones, and, frozen, one per frame that consists
        of that frame alone.
    """
    forward = np.arange(num_frames)
    rng = np.random.default_rng((seed, num_frames))
    return {
        "forward": forward[None],
        "reversed": forward[None, ::-1],
        "shuffled": np.stack([rng.permutation(num_frames) for _ in range(num_shuffles)]),
        "frozen": np.repeat(forward[:, None], num_frames, axis=1),
    }


def score_orders(rearranged, clip, choices):
    """Score a clip in several orders.

    Args:
        rearranged: a `Rearranged`.
        clip: the `LoadedClip`.
        choices: from `rearrangements`.

    Returns:
        `{name: logits [rearrangements, classes]}`.
    """
    logits = rearranged.logits(clip, np.concatenate(list(choices.values())))
    ends = np.cumsum([len(each) for each in choices.values()])[:-1]
    return dict(zip(choices, np.split(logits, ends), strict=True))
