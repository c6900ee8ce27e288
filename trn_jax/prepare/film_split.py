"""Splits of a single film, whose parts can only be divided by time.

Frames of one film resemble each other, the more so the closer they are. So validation gets the end
of the film, and parts that begin less than the length of a usual part before it are in no split.
"""

import dataclasses
import statistics

from trn_jax.prepare.examples import Example

_ROUNDING = 1e-6  # of sums of seconds


@dataclasses.dataclass(frozen=True)
class FilmDivision:
    """The parts of a film by split.

    Attributes:
        train: those that end early enough.
        val: those at the end.
        between: those that are in neither.
    """

    train: list[Example]
    val: list[Example]
    between: list[Example]

    @property
    def start(self):
        """The beginning of validation, in the unit of the parts."""
        return min(example.part.start for example in self.val if example.part)


def divide_film(examples, *, val_share):
    """Divide the parts of a single video at one time.

    Of the possible times, one is taken after which every class is in training, at most half of the
    parts are for validation, and every class is in validation, in this order of importance; and of
    those the one with the share of parts nearest to `val_share`.

    Args:
        examples: parts of one video.
        val_share: share of validation.

    Returns:
        A `FilmDivision`, or `None` if no time leaves parts on both sides.
    """
    if len({example.part.in_frames for example in examples}) > 1:
        return None
    gap = statistics.median(example.part.end - example.part.start for example in examples)
    starts = sorted({example.part.start for example in examples})
    found = [_divided(examples, start, gap) for start in starts]
    found = [each for each in found if each.train and each.val]

    def rank(each):
        divided = len(each.train) + len(each.val)
        lost = [_num_lost(examples, side) for side in (each.train, each.val)]
        is_large = len(each.val) > len(each.train)
        return lost[0], is_large, lost[1], abs(len(each.val) / divided - val_share)

    return min(found, key=rank, default=None)


def _divided(examples, start, gap):
    train = [e for e in examples if e.part.end + gap < start + _ROUNDING]
    val = [e for e in examples if e.part.start >= start]
    return FilmDivision(train, val, [e for e in examples if e not in train and e not in val])


def _num_lost(examples, side):
    """How many classes have no part in a split."""
    classes, found = ({label for e in part for label in e.labels} for part in (examples, side))
    return len(classes - found)
