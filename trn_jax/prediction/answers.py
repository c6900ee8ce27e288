"""Answers of a model: scores of a whole video or of a stretch of it."""

import dataclasses
import functools
from typing import Any

import numpy as np

from trn_jax.evaluation import calibration


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """The scores of a video, or of the stretch `[start, end)` of it.

    Attributes:
        video: its name, with the part of the file if it is one.
        start: in seconds.
        end: in seconds; `None`: the end of a video whose length is unknown.
        scores: float32 `[classes]`, those of an evaluation; `None` if the video can't be read.
        class_names: in the order of the scores.
        is_window: it is one of the windows of a timeline.
        problem: why the video can't be read, or "".
        notes: messages about lost frames.
        age: seconds from the newest frame of a live stream to the answer; `None` otherwise.
        dropped: frames of a live stream so far that no window needed.
        calibration: the `calibration_file.Calibration` of the scores; `None` if there is none.
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
    calibration: Any = None

    @property
    def seconds(self):
        """How long it lasts; `None` if unknown."""
        return None if self.end is None else self.end - self.start

    @functools.cached_property
    def calibrated(self):
        """The calibrated scores, float32 `[classes]`; `None` without scores or calibration."""
        if self.scores is None or self.calibration is None:
            return None
        options = dict(multi_label=self.calibration.multi_label)
        return calibration.calibrated(self.scores, self.calibration.temperature, **options)

    @property
    def decisive(self):
        """The scores that thresholds are for: the calibrated ones, else those that there are."""
        return self.scores if self.calibrated is None else self.calibrated

    @property
    def is_none(self):
        """None of these: the thresholds of the calibration reject the video; see `accepted`."""
        if self.calibrated is None:
            return False
        thresholds = self.calibration.thresholds_of(self.class_names)
        return not self.accepted(thresholds, multi_label=self.calibration.multi_label)

    def accepted(self, thresholds, *, multi_label=False):
        """Numbers of the classes that reach their thresholds; of exclusive ones, the best at most.

        Args:
            thresholds: one number, or one per class.
            multi_label: classes don't exclude each other.
        """
        if self.scores is None:
            return []
        reached = self.decisive >= np.broadcast_to(np.asarray(thresholds), self.scores.shape)
        labels = range(len(reached)) if multi_label else self.top_labels(1)
        return [label for label in labels if reached[label]]

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
