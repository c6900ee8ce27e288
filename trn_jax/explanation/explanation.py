"""What is known of why a model gives a video its class."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trn_jax.explanation.frames import ScaleRelations


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Why a model gives a video its class.

    Attributes:
        video: its name.
        problem: why it can't be read, or ""; then nothing else is known.
        notes: messages about lost frames, and about what is explained.
        class_names: in the order of the scores.
        scores: of the prediction, float32 `[classes]`.
        classes: numbers of the explained classes, the predicted one first, int `[explained]`.
        frames: numbers of the frames of the clip, int `[frames]`.
        times: of these, in seconds, `[frames]`; NaN: unknown.
        pixels: the clip as the model sees it, uint8 `[frames, size, size, 3]`.
        values: the `FrameValues` of its frames for the explained classes; `None` without "frames".
        scales: the `ScaleRelations` of a multi-scale TRN, from small to large; else empty.
        order: `{"forward", "reversed", "shuffled", "frozen": scores [classes]}`, of the last two
            the means over random orders and over the frames; empty without "order".
        early: scores after each tenth of the video, `[10, classes]`; `None` without "order".
        maps: class activation maps of the explained classes, float32 `[explained, frames, height,
            width]`; `None` without "where", or if the model has none.
        features: of the frames before the head, float32 `[frames, channels]`.
    """

    video: str
    problem: str = ""
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    scores: Any = None
    classes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    frames: Any = None
    times: Any = None
    pixels: Any = None
    values: Any = None
    scales: Sequence[ScaleRelations] = ()
    order: dict = dataclasses.field(default_factory=dict)
    early: Any = None
    maps: Any = None
    features: Any = None

    @property
    def label(self):
        """Name of the predicted class; "" if the video can't be read."""
        return self.class_names[self.classes[0]] if len(self.classes) else ""

    @property
    def order_scores(self):
        """How much the scores of the explained classes fall if the clip is reversed, `[explained]`.

        Near 1 if the class needs the order, 0 if it makes no difference.
        """
        return (self.order["forward"] - self.order["reversed"])[self.classes]

    def deciding(self, count, *, row=0):
        """The frames with the highest values, in the order of time.

        Args:
            count: how many.
            row: of the explained classes.

        Returns:
            Positions in the clip, int `[count]`.
        """
        best = np.argsort(-self.values.values[row], kind="stable")[:count]
        return np.sort(best)

    def to_dict(self):
        """The numbers as a dict that JSON can hold; without pixels, features and maps."""
        if self.problem:
            return {"video": self.video, "problem": self.problem}
        found = {
            "video": self.video,
            "label": self.label,
            "frames": self.frames.tolist(),
            "times": [None if np.isnan(time) else round(float(time), 3) for time in self.times],
            "notes": list(self.notes),
            "classes": [self._class_to_dict(row) for row in range(len(self.classes))],
        }
        if self.values:
            found["method"] = self.values.method
        return found

    def _class_to_dict(self, row):
        label = self.classes[row]
        found: dict = {"label": self.class_names[label], "score": float(self.scores[label])}
        if self.values:
            found |= {
                "logit": float(self.values.all[row]),
                "logit_without_frames": float(self.values.none[row]),
                "values": self.values.values[row].tolist(),
                "standard_errors": self.values.errors[row].tolist(),
            }
        if self.scales:
            found["scales"] = [
                {
                    "frames": each.scale,
                    "logit": float(each.scores[row]),
                    "representative": each.best[row].tolist(),
                }
                for each in self.scales
            ]
        if self.order:
            found["order"] = {name: float(each[label]) for name, each in self.order.items()}
            found["order_score"] = float(self.order_scores[row])
            found["early"] = self.early[:, label].tolist()
        return found
