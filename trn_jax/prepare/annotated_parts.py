"""What files of annotation tools have in common: labelled parts of videos."""

import dataclasses
import json
import math

from trn_jax.errors import UserError
from trn_jax.files import read_text
from trn_jax.prepare.examples import Part


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A labelled part of a video.

    Attributes:
        videos: names that the video may have, best first.
        labels: names of its classes.
        part: the `Part`.
        place: where it is in the file, for messages.
        split: "train", "val", "test" or "".
    """

    videos: tuple[str, ...]
    labels: tuple[str, ...]
    part: Part
    place: str
    split: str = ""


@dataclasses.dataclass
class AnnotationFile:
    """What is in a file.

    Attributes:
        annotations: the labelled parts.
        skipped: `{what: places}` of what has no parts.
        lost: places of parts that should be there, with the reason.
    """

    annotations: list[Annotation] = dataclasses.field(default_factory=list)
    skipped: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lost: list[str] = dataclasses.field(default_factory=list)

    def skip(self, what, place):
        """Note what has no part."""
        self.skipped.setdefault(what, []).append(place)


def read_json(path):
    """The content of a JSON file; `UserError` if it is none."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not complete JSON: {error}") from None


def checked(value, kind, place, expected):
    """A value of a JSON file, if it is of a type; `UserError` names the place and the value."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{place} is {_shown(value)}, expected {expected}")
    return value


def seconds(value, place):
    """A time of a JSON file as a float; see `checked`."""
    checked(value, (int, float), place, "seconds")
    if (isinstance(value, int) and abs(value) > 10**12) or not math.isfinite(value):
        raise UserError(f"{place} is {_shown(value)}, expected seconds")
    return float(value)


def frame_number(value, place):
    """The number of a frame, from a JSON value or text; see `checked`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value) if abs(value) < 1e12 else value
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 15:
        value = int(value)
    checked(value, int, place, "the number of a frame")
    if abs(value) > 10**12:
        raise UserError(f"{place} is {_shown(value)}, expected the number of a frame")
    return value


def _shown(value):
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) < 60 else f"{text[:60]}..."
