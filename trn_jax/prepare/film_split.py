"""Splits of a single film, whose parts can only be divided by time.

Frames of one film resemble each other, the more so the closer they are. So validation gets the end
of the film, and parts that begin less than the length of a usual part before it are in no split.
"""

import bisect
import dataclasses
import statistics

from trn_jax.prepare.examples import Example

_ROUNDING = 1e-6  # of sums of seconds


@dataclasses.dataclass(frozen=True)
class FilmDivision:
    """The parts of a film by split.

    Attributes:
        train: those that end early enough, by their end.
        val: those at the end of the film, by their start.
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
    by_start = sorted(examples, key=lambda example: example.part.start)
    by_end = sorted(examples, key=lambda example: example.part.end)
    starts = [example.part.start for example in by_start]
    ends = [example.part.end + gap for example in by_end]
    # A film may have thousands of parts, so the sides of a time are only counted, not listed.
    in_train, in_val = _num_classes(by_end), _num_classes(by_start[::-1])
    num_classes = in_val[-1]

    def sides(start):
        """The numbers of parts of training and of validation, if that begins at `start`."""
        first = bisect.bisect_left(starts, start)
        return bisect.bisect_left(ends, start + _ROUNDING), len(examples) - first

    def rank(start):
        num_train, num_val = sides(start)
        share = num_val / (num_train + num_val)
        lost = num_classes - in_train[num_train], num_classes - in_val[num_val]
        return lost[0], num_val > num_train, lost[1], abs(share - val_share)

    possible = [start for start in sorted(set(starts)) if sides(start)[0]]
    if not possible:
        return None
    num_train, num_val = sides(min(possible, key=rank))
    train, val = by_end[:num_train], by_start[-num_val:]
    chosen = {*train, *val}
    return FilmDivision(train, val, [example for example in examples if example not in chosen])


def _num_classes(examples):
    """The numbers of classes of the first 0, 1, 2, ... of the examples."""
    found: set[str] = set()
    numbers = [0]
    for example in examples:
        found.update(example.labels)
        numbers.append(len(found))
    return numbers
