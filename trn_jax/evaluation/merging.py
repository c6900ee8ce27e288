"""Merges the views of videos into scores, each video as soon as its last logits arrive."""

import numpy as np


def merge_views(logits, *, merge, multi_label=False):
    """Merge the views of a video into one prediction, in float64.

    Args:
        logits: `[views, ..., classes]`.
        merge: average the "logits" or the "probabilities".
        multi_label: sigmoid per class instead of softmax.

    Returns:
        Probabilities `[..., classes]`, float64.
    """
    probabilities = _sigmoid if multi_label else _softmax
    logits = np.asarray(logits, np.float64)
    if merge == "logits":
        return probabilities(logits.mean(axis=0))
    return probabilities(logits).mean(axis=0)


def merge_of(view, model_merge):
    """How the views of a `View` merge, see `merge_views`; `model_merge`: as the model has it."""
    return model_merge if view.merge_views == "model" else view.merge_views


def _softmax(logits):
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which callers report
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _sigmoid(logits):
    return (1 + np.tanh(logits / 2)) / 2  # does not overflow


class ViewRows:
    """Collects what a step gives for clips; a video is complete once all of its views are there.

    Args:
        num_views: `{name of a view: number of its views}`.
        complete: called once per video as `complete(example, {name: rows [views, ...]})`.
    """

    def __init__(self, num_views, complete):
        self._num_views = num_views
        self._complete = complete
        self._open: dict[int, int] = {}  # places without a row, per video
        self._rows: dict[int, dict[str, np.ndarray]] = {}

    def add(self, rows, clips, mirrored):
        """Add the rows `[batch, ...]` of `Clip`s that the device mirrored or not."""
        for row, clip in zip(np.asarray(rows), clips, strict=False):
            example = clip.example
            if example not in self._open:
                self._open[example] = sum(self._num_views.values())
                self._rows[example] = {
                    name: np.empty((count, *row.shape), row.dtype)
                    for name, count in self._num_views.items()
                }
            for name, position, flip in clip.places:
                if flip == mirrored:
                    self._rows[example][name][position] = row
                    self._open[example] -= 1
            if not self._open[example]:
                del self._open[example]
                self._complete(example, self._rows.pop(example))


class ScoreMerger:
    """Collects the logits of clips, and merges those of a video as soon as the last one arrives.

    Args:
        views: `{name: View}`.
        draws: `{name: slice}`, which draws of the logits belong to a view.
        model_merge: how views whose `merge_views` is "model" merge.
        multi_label: see `merge_views`.
        merged: called once per video as `merged(example, {name: scores [draws, classes]})`; the
            scores are float64.
    """

    def __init__(self, views, *, draws, model_merge, multi_label, merged):
        self._views = views
        self._draws = draws
        self._model_merge = model_merge
        self._multi_label = multi_label
        self._merged = merged
        self._rows = ViewRows({n: view.num_views for n, view in views.items()}, self._complete)

    def add(self, logits, clips, mirrored):
        """Add the logits `[batch, draws, classes]` of `Clip`s that the device mirrored or not."""
        self._rows.add(logits, clips, mirrored)

    def _complete(self, example, rows):
        self._merged(example, {name: self._merge(name, found) for name, found in rows.items()})

    def _merge(self, name, logits):
        merge = merge_of(self._views[name], self._model_merge)
        drawn = logits[:, self._draws[name]]
        return merge_views(drawn, merge=merge, multi_label=self._multi_label)


class MergedScores:
    """Keeps the merged scores of a list of videos; the `merged` of a `ScoreMerger`.

    Args:
        views: `{name: View}`.
        num_videos: length of the list.
        num_classes: classes of the scores.
        class_order: int `[num_classes]`, the output of each label; `None`: the same.
        count: called as `count(example, scores [classes])` with the first view of each video.

    Attributes:
        scores: `{name: [videos, draws, classes]}`, float32; 0 for videos without scores.
    """

    def __init__(self, views, *, num_videos, num_classes, class_order, count):
        self.scores = {
            name: np.zeros((num_videos, view.num_draws, num_classes), np.float32)
            for name, view in views.items()
        }
        self._order = slice(None) if class_order is None else class_order
        self._count = count

    def __call__(self, example, merged):
        """Keep `{name: scores [draws, classes]}` of one video."""
        for name, found in merged.items():
            self.scores[name][example] = found[:, self._order]
        first = next(iter(merged))
        self._count(example, self.scores[first][example, 0])


class RunningAccuracy:
    """Top-1 accuracy of the videos so far.

    Args:
        labels: int `[videos]`, or multi-hot `[videos, classes]`, for which there is no top-1.
        show: called for every video as `show(1, text)`.
    """

    def __init__(self, labels, show):
        self._labels = labels if labels.ndim == 1 else None
        self._show = show
        self._num_videos = self._num_correct = 0

    def __call__(self, example, scores):
        """Count one video with its scores `[classes]`."""
        self._num_videos += 1
        text = ""
        if self._labels is not None:
            self._num_correct += int(np.argmax(scores) == self._labels[example])
            text = f"top-1 {100 * self._num_correct / self._num_videos:.2f} % so far"
        self._show(1, text)
