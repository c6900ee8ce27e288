"""The features of a video, put together from those of its frames or clips."""

import dataclasses
from typing import Any

import numpy as np

from trn_jax.data.reader import VideoClips


@dataclasses.dataclass(frozen=True, eq=False)
class VideoFeatures:
    """The features of a video.

    Attributes:
        video: its name, with the part of the file if it is one.
        times: of the frames, or of the middle of the clips, in seconds from the start of the file,
            float64 `[rows]`, ascending; NaN where the frame rate is unknown.
        vectors: float32 `[rows, channels]`.
        problem: why the video can't be read, or ""; then there are no rows.
        notes: messages about lost frames.
    """

    video: str
    times: np.ndarray
    vectors: np.ndarray
    problem: str = ""
    notes: tuple[str, ...] = ()


class InOrder:
    """Puts the rows of videos together, and gives them in the order of the inputs.

    One thread reports how many pieces of a video there are, another one adds their rows.

    Args:
        opened: the `inputs.Inputs`.

    Attributes:
        videos: `{example: VideoClips}` of videos that wait for their rows.
    """

    def __init__(self, opened):
        self.videos: dict[int, VideoClips] = {}
        self._opened = opened
        self._rows: dict[int, list] = {n: [] for n in range(len(opened.records))}
        self._ended: dict[int, dict[str, Any]] = {}
        self._first = 0

    def end(self, example, **about):
        """Report that a video has been read: `count` of its pieces, `problem` and `notes`."""
        self._ended[example] = about

    def add(self, example, times, vectors):
        """Add the rows of a piece."""
        self._rows[example].append((times, np.asarray(vectors, np.float32)))

    def complete(self):
        """Yield the `VideoFeatures` of the next videos, as far as they are complete."""
        while self._first in self._ended:
            about = self._ended[self._first]
            problem, rows = about.get("problem", ""), self._rows[self._first]
            if not problem and len(rows) < about["count"]:
                return
            del self._rows[self._first]
            name, notes = self._opened.name(self._first), about.get("notes", ())
            self._first += 1
            if problem or not rows:
                empty = np.empty(0), np.empty((0, 0), np.float32)
                yield VideoFeatures(name, *empty, problem or f"{name} has no frames")
                continue
            times, vectors = map(np.concatenate, zip(*rows, strict=True))
            order = np.argsort(times, kind="stable")
            yield VideoFeatures(name, times[order], vectors[order], notes=notes)
