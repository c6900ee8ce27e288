"""Scores of an evaluation and metrics from them."""

import dataclasses

import numpy as np

from trn_jax.errors import UserError, listed
from trn_jax.evaluation import metrics


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of every video of a list, with labels and names.

    Attributes:
        scores: float32 `[videos, classes]`, usually probabilities.
        labels: int64 `[videos]`, or multi-hot float32 `[videos, classes]`.
        videos: names of the videos in the list; empty if unknown.
        class_names: in the order of the labels; empty if unknown.
        reversed_class: `{class: the class that shows it backwards in time}`.
        protocol: name of the protocol.
        about: origin (checkpoint, list, hashes): `{name: text or number}`.
        missing: unreadable videos, bool `[videos]`; their scores are 0, and they count as wrong.
            `None`: there are none.

    Raises:
        UserError: the numbers of videos or classes differ, labels are out of range (multi-hot: not
            0 and 1), or two classes have the same name.
    """

    scores: np.ndarray
    labels: np.ndarray
    videos: list[str]
    class_names: list[str]
    reversed_class: dict[int, int] = dataclasses.field(default_factory=dict)
    protocol: str = ""
    about: dict[str, str | int | float] = dataclasses.field(default_factory=dict)
    missing: np.ndarray | None = None

    def __post_init__(self):
        for name, array, kinds in (("scores", self.scores, "f"), ("labels", self.labels, "iuf")):
            if array.dtype.kind not in kinds:
                raise UserError(f"the {name} are of type {array.dtype}, expected real numbers")
        if self.scores.ndim != 2 or self.labels.ndim not in (1, 2):
            raise UserError(
                f"the scores have shape {list(self.scores.shape)} and the labels "
                f"{list(self.labels.shape)}, expected [videos, classes] and [videos]"
            )
        num_videos, num_classes = self.scores.shape
        for name, found, expected in (
            ("labels", len(self.labels), num_videos),
            ("video names", len(self.videos) or num_videos, num_videos),
            ("class names", len(self.class_names) or num_classes, num_classes),
            ("marks in missing", len(self.is_missing), num_videos),
        ):
            if found != expected:
                raise UserError(
                    f"there are {found} {name}, but scores of {num_videos} videos and "
                    f"{num_classes} classes"
                )
        if self.multi_label and self.labels.shape != self.scores.shape:
            raise UserError(
                f"the labels have shape {list(self.labels.shape)}, but the scores "
                f"{list(self.scores.shape)}"
            )
        self._check_labels(num_classes)
        self._check_classes(num_classes)

    def _check_labels(self, num_classes):
        highest = 1 if self.multi_label else num_classes - 1
        if not len(self.labels):
            return
        low, high = self.labels.min(), self.labels.max()
        if not 0 <= low <= high <= highest:
            raise UserError(f"labels are in {low:g}..{high:g}, expected 0..{highest}")
        parts = self.labels[self.labels != np.floor(self.labels)]
        if parts.size:
            raise UserError(
                f"{parts.size} labels are no integers, such as {parts[0]:g}; expected 0..{highest}"
            )

    def _check_classes(self, num_classes):
        first = dict(zip(reversed(self.class_names), reversed(range(num_classes)), strict=False))
        twice = [
            f"{first[name]} and {label} are both {name!r}"
            for label, name in enumerate(self.class_names)
            if first[name] != label
        ]
        if twice:
            raise UserError("class names must be unique:" + listed(twice, most=3))
        for pair in self.reversed_class.items():
            if not all(0 <= label < num_classes for label in pair):
                raise UserError(
                    f"reversed_class has {pair}, expected classes in 0..{num_classes - 1}"
                )

    @property
    def is_missing(self):
        """`missing` as an array, bool `[videos]`."""
        return np.zeros(len(self.scores), bool) if self.missing is None else self.missing

    @property
    def multi_label(self):
        """Videos have several labels."""
        return self.labels.ndim == 2

    def class_name(self, label):
        """Name of a class, or `class <label>`."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def metrics(self, top_k=(1, 5)):
        """All metrics, see `metrics.classification` and `metrics.multi_label`."""
        if self.multi_label:
            return metrics.multi_label(self.scores, self.labels, self.missing)
        return metrics.classification(
            self.scores, self.labels, self.reversed_class, top_k, self.missing
        )

    def confusion(self):
        """Confusion matrix of readable videos, `[classes, classes]`, a row per true class."""
        read = ~self.is_missing
        predictions = np.argmax(self.scores[read], axis=1)
        return metrics.confusion_matrix(predictions, self.labels[read], self.scores.shape[1])

    def per_class(self):
        """Accuracy per class.

        Returns:
            A list of dicts `label`, `name`, `videos` and `accuracy`, or, multi-label,
            `average_precision`; `None` for a class without videos.
        """
        if self.multi_label:
            counts = self.labels.sum(axis=0)
            ranked = np.where(self.is_missing[:, None], -np.inf, self.scores)
            found = metrics.per_class_average_precision(ranked, self.labels)
            values = [None if np.isnan(value) else float(value) for value in found]
            name = "average_precision"
        else:
            confusion = self.confusion()
            num_missing = np.bincount(self.labels[self.is_missing], minlength=self.scores.shape[1])
            counts = confusion.sum(axis=1) + num_missing
            values = metrics.per_class_accuracy(confusion, num_missing).tolist()
            name = "accuracy"
        return [
            {"label": label, "name": self.class_name(label), "videos": int(count), name: value}
            for label, (count, value) in enumerate(zip(counts, values, strict=True))
        ]
