"""Answers of a model: scores of a whole video or of a stretch of it."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The scores of a video, or of the stretch `[start, end)` of it.

    Attributes:
        video: its name, with the part of the file if it is one.
        start: in seconds.
        end: in seconds; `None`: the end of a video whose length is unknown.
        scores: float32 `[classes]`; `None` if the video can't be read.
        class_names: in the order of the scores.
        is_window: it is one of the windows of a timeline.
        problem: why the video can't be read, or "".
        notes: messages about lost frames.
        age: seconds from the newest frame of a live stream to the answer; `None` otherwise.
        dropped: frames of a live stream so far that no window needed.
    """

    video: str
    start: float
    end: float | None
    scores: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    is_window: bool = False
    problem: str = ""
    notes: tuple[str, ...] = ()
    age: float | None = None
    dropped: int = 0

    @property
    def seconds(self):
        """How long it lasts; `None` if unknown."""
        return None if self.end is None else self.end - self.start

    @property
    def label(self):
        """Name of the class with the highest score; "" if the video can't be read."""
        return "" if self.scores is None else self.class_names[self.top_labels(1)[0]]

    def top(self, count):
        """The highest scores: pairs of the name of a class and its score, the best first.

        There are fewer than `count` if the model has fewer classes.
        """
        scores = np.zeros(0) if self.scores is None else self.scores
        return [(self.class_names[n], float(scores[n])) for n in self.top_labels(count)]

    def top_labels(self, count):
        """Numbers of the classes with the highest scores; of equal ones, the lower comes first."""
        if self.scores is None:
            return []
        return np.argsort(-self.scores, kind="stable")[:count].tolist()
