"""Labelled videos before they are opened, and the names of the three splits."""

import dataclasses
import os
import re
import unicodedata

from trn_jax.data.parts import is_interval
from trn_jax.data.videos import is_video

SPLIT_NAMES = ("train", "val", "test")
_SYNONYMS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_DECORATION = re.compile(r"[\W_]|\d{3,}|videos?|clips?|frames?|images?|data|split|set")


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A part of a video, as a source names it: `start <= time < end`.

    Attributes:
        start: in seconds from the first frame; or in frames, from 0.
        end: the same.
        in_frames: whether these are numbers of frames.
    """

    start: float
    end: float
    in_frames: bool = False

    def __str__(self):
        if self.in_frames:
            return f"frames {self.start} to {self.end}"
        return f"{self.start:.3f}-{self.end:.3f}"

    @property
    def is_interval(self):
        """Whether it is one: not empty, and not before the video."""
        return self.start >= 0 and is_interval(self.start, self.end)


@dataclasses.dataclass(frozen=True)
class Example:
    """A video, or a part of one, with the names of its classes.

    Attributes:
        path: relative to the folder of the videos, or absolute if elsewhere.
        labels: names of its classes; exactly one unless the data set is multi-label.
        split: "train", "val" or "test"; "" if the source has none.
        group: videos of one group, such as a person, stay in one split; "" for none.
        part: the part of the video; `None`: all of it.
    """

    path: str
    labels: tuple[str, ...]
    split: str = ""
    group: str = ""
    part: Part | None = None

    @property
    def name(self):
        """Its name in messages."""
        return f"{self.path} [{self.part}]" if self.part else self.path

    @property
    def key(self):
        """Identity of a video for the split: its path without extension, in NFC with `/`.

        A video file and the folder of its frames have the same key.
        """
        path = unicodedata.normalize("NFC", self.path).replace(os.sep, "/")
        return os.path.splitext(path)[0] if is_video(path) else path


def split_called(name):
    """The split that a folder or a table cell names ("Validation", "test_videos"), or `None`."""
    return _SYNONYMS.get(_DECORATION.sub("", name.lower()))
