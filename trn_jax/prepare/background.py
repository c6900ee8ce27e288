"""Parts of videos without any label, as a class of their own."""

import bisect
import collections
import dataclasses
import random

import numpy as np

from trn_jax.errors import UserError
from trn_jax.prepare import class_names
from trn_jax.prepare.examples import Example, Part
from trn_jax.prepare.opened_videos import Found, Place

NAME = "nothing"


def add_background(writer, found, order, *, share, seed):
    """Add parts that overlap no labelled part, with lengths drawn from those of labelled parts.

    The number of parts of a video goes by the number of its labelled ones, so that videos for
    validation get their share, too; what has no room in one video goes to the next ones. They
    depend on the seed, the videos and their labels alone.

    Args:
        writer: the `DatasetWriter` that notes their number.
        found: `{example: Found}`.
        order: of the classes, see `class_names.ordered`.
        share: number of these parts, as a share of the number of labelled parts.
        seed: of lengths and places.

    Returns:
        `found` with these parts, and the order with their class.

    Raises:
        UserError: the share is not positive, there are no parts, or a class has their name.
    """
    flag = f"--background={share:g}"
    if not 0 < share <= 100:
        raise UserError(f"{flag} must be a share of the labelled parts, such as 0.5")
    labels = sorted({label for example in found for label in example.labels})
    clash = [label for label in labels if label.strip().casefold() == NAME]
    if clash:
        raise UserError(
            f"{flag} adds a class {NAME!r}, but the source has the class {clash[0]!r} already; "
            "rename it, or leave --background out"
        )
    of_video: dict[str, list[Example]] = collections.defaultdict(list)
    for example in found:
        of_video[example.path].append(example)
    places = [each.place for each in found.values() if each.place]
    if not places:
        raise UserError(f"{flag} needs parts of videos: a table with start and end, see --help")
    lengths = sorted(place.end - place.first for place in places)
    wanted, added = 0.0, dict[Example, Found]()
    for path in sorted(of_video):
        examples = of_video[path]
        wanted += share * sum(example.part is not None for example in examples)
        rng = random.Random(f"trn_jax background|{seed}:{examples[0].key}")
        free = _free(found, examples)
        for _ in range(round(wanted)):
            place, free = _draw(rng, free, lengths, found[examples[0]].video.step)
            if place is None:
                break
            wanted -= 1
            example = _example(examples[0], place, found[examples[0]].video.kind)
            added[example] = Found(found[examples[0]].video, place)
    writer.note(f"{len(added):,} parts without a label are the class {NAME!r}")
    if round(wanted):
        writer.note(f"there is no room for {round(wanted):,} more of them")
    if not added:
        raise UserError(f"{flag}: the videos have no room for a part without a label")
    return found | added, [*class_names.ordered(labels, order), NAME]


def _example(labelled, place, kind):
    """The example of a part without a label, in the video of a labelled one."""
    if kind == "frames":
        part = Part(place.first, place.end, in_frames=True)
    else:
        part = Part(place.first / 1000, place.end / 1000)
    return dataclasses.replace(labelled, labels=(NAME,), part=part)


def _free(found, examples):
    """Intervals of a video that no example has, int `[intervals, 2]`."""
    length = found[examples[0]].video.length
    taken = sorted(
        (place.first, place.end) if (place := found[example].place) else (0, length)
        for example in examples
    )
    free, last = [], 0
    for first, end in [*taken, (length, length)]:
        if first > last:
            free.append([last, first])
        last = max(last, end)
    return np.array(free, np.int64).reshape(-1, 2)


def _draw(rng, free, lengths, step):
    """Take a part out of the free intervals, of which a film has thousands.

    A part is at least as long as the longest time between two frames, so that it has one.

    Returns:
        Its `Place`, or `None` if there is no room, and the intervals that are left.
    """
    sizes = free[:, 1] - free[:, 0]
    longest = int(sizes.max(initial=0))
    num_fitting = bisect.bisect_right(lengths, longest)
    if not num_fitting or step > longest:
        return None, free
    length = max(lengths[rng.randrange(num_fitting)], step)
    room = np.maximum(sizes - length + 1, 0)
    until = np.cumsum(room)
    number = int(np.searchsorted(until, rng.random() * until[-1], side="right"))
    first, end = free[number].tolist()
    begin = first + rng.randrange(int(room[number]))
    rest = [each for each in ([first, begin], [begin + length, end]) if each[0] < each[1]]
    left = [np.delete(free, number, axis=0), np.array(rest, np.int64).reshape(-1, 2)]
    return Place(begin, begin + length), np.concatenate(left)
