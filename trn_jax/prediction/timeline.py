"""Scores of the windows of long videos; the backbone runs once per frame where it can."""

import contextlib
import dataclasses

import jax
import numpy as np
from flax import nnx

from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError
from trn_jax.evaluation.merging import ScoreMerger, merge_of, merge_views
from trn_jax.evaluation.scoring import ClipScorers, relation_draws
from trn_jax.models.folding import fold_batch_norm
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.windows import (
    VIEW,
    Assembler,
    Crops,
    WindowPlan,
    frame_clips,
    wanted_times,
    window_clips,
)

_USUAL_RATE = 30.0  # frames per second, where neither the checkpoint nor the video has one


def plan_windows(contract, *, every, frame_rate, seed, by_frame=False):
    """The `WindowPlan` of a contract.

    Args:
        contract: the `Contract`.
        every: seconds from one window to the next; `None` for a quarter of a window, or, with
            `by_frame`, for a segment of it, which takes no more passes of the backbone.
        frame_rate: of the video, per second; `None` if unknown.
        seed: of what is drawn.
        by_frame: the backbone runs once per frame.

    Raises:
        UserError: the length of training examples is unknown.
    """
    rate = contract.frame_rate or frame_rate or _USUAL_RATE
    length = contract.seconds
    if length is None and contract.num_frames:
        length = contract.num_frames / rate
    if length is None:
        raise UserError(
            "the checkpoint has no length of its training examples; give the length of a window, "
            "such as --seconds=3"
        )
    if every is None:
        # Windows a whole number of segments apart share frames.
        segments = 1 if by_frame else max(contract.view.num_segments // 4, 1)
        every = length * segments / contract.view.num_segments
    return WindowPlan(contract.view, length, every, rate, seed)


def with_notes(answers, video):
    """Answers of a video, the last one with the notes on it, which are known when it is decoded."""
    last, problem = None, None
    try:
        with contextlib.closing(answers):
            for answer in answers:
                if last is not None:
                    yield last
                last = answer
    except FrameError as error:
        problem = error
    if last is not None:
        yield dataclasses.replace(last, notes=video.notes)
    if problem is not None:
        raise problem


class TimelineScorer:
    """Scores the windows of videos.

    Args:
        model: a `Recognizer`.
        contract: its `Contract`.
        class_names: in the order of the scores.
        multi_label: scores are sigmoids.
        max_views: clips per step.
        seed: of what is drawn.

    Attributes:
        class_names: the same.
        by_frame: the backbone runs once per frame, not once per clip.

    Raises:
        UserError: the model doesn't take the clips of the view.
    """

    def __init__(self, model, contract, *, class_names, multi_label, max_views, seed):
        self._contract = contract
        self.class_names = class_names
        self._seed = seed
        self._multi_label = multi_label
        self._merge = merge_of(contract.view, model.merge_views)
        folded = fold_batch_norm(model, size=contract.view.crop_size)
        self._graph, state = nnx.split(folded)
        self._windows_per_head = max(max_views // contract.view.num_views, 1)
        self._scorers = ClipScorers(self._graph, max_views=max_views)
        self._scorer = self._scorers.of()
        self._states = self._scorer.on_these_devices((nnx.as_pure(state),))
        self._scorer.check({f"protocols.{contract.protocol}": contract.section}, self._states)
        self._head = jax.jit(
            lambda states, features: nnx.merge(self._graph, *states).head_logits(features)
        )
        self.by_frame = model.scores_frames and contract.view.relations == "model"

    def windows(self, name, video, *, every=None, offset=0.0):
        """Score the windows of an open video.

        Args:
            name: of the video, for the output.
            video: a `decode.Video`; without an index, it is decoded in order and may be endless.
            every: seconds from one window to the next; by default as `plan_windows` has it.
            offset: seconds before a video that is a part of another one.

        Yields:
            An `Answer` per window; the last one has the notes on the video.

        Raises:
            FrameError: the video can't be read.
            UserError: see `plan_windows`.
        """
        yield from with_notes(self._windows(name, video, every, offset), video)

    def _windows(self, name, video, every, offset):
        options = dict(frame_rate=video.mean_rate, seed=self._seed, by_frame=self.by_frame)
        plan = plan_windows(self._contract, every=every, **options)
        source = WindowFrames(video, plan, self._contract.view)
        number = source.num_frames if self.by_frame else source.num_windows
        num_views = self._contract.view.num_views
        self._scorer = self._scorers.of(number and number * num_views)
        score = self._score_frames if self.by_frame else self._score_clips
        with contextlib.closing(score(source)) as scored:
            for window, scores in scored:
                yield Answer(
                    name,
                    offset + window.start,
                    offset + window.end,
                    scores.astype(np.float32),
                    self.class_names,
                    is_window=True,
                )

    def _score_clips(self, source):
        """Pairs of a window and its scores `[classes]`, by the clips of every window."""
        windows = {}

        def videos():
            for key, pixels in source.frames():
                yield from clips(source.assembler.add(key, pixels))
            yield from clips(source.finish())

        def clips(complete):
            for window, pixels in complete:
                windows[window.number] = window
                yield window_clips(source.crops, window.number, pixels)

        with contextlib.closing(self.clip_scores(videos())) as scored:
            for number, scores in scored:
                yield windows.pop(number), scores

    def clip_scores(self, videos):
        """Pairs of a number and merged scores `[classes]`, from an iterator of `window_clips`."""
        done = []
        views = {VIEW: self._contract.view}
        kinds, draws = relation_draws(views)
        merger = ScoreMerger(
            views,
            draws=draws,
            model_merge=self._merge,
            multi_label=self._multi_label,
            merged=lambda number, merged: done.append((number, merged[VIEW].mean(axis=0))),
        )
        step = self._scorer.score_step(kinds, self._states)
        with contextlib.closing(self._scorer.scored(videos, step, self._states)) as scored:
            for found in scored:
                merger.add(*found)
                yield from done
                done.clear()

    def _score_frames(self, source):
        """The same with one pass of the backbone per frame."""
        keys: dict[int, float] = {}

        def videos():
            for number, (key, pixels) in enumerate(source.frames()):
                keys[number] = key
                yield frame_clips(source.crops, number, pixels)

        with contextlib.closing(self.frame_features(videos(), source.crops.num_crops)) as found:
            complete = []
            for number, features in found:
                complete += source.assembler.add(keys.pop(number), features)
                if len(complete) >= self._windows_per_head:
                    yield from self._complete(complete)
                    complete = []
        yield from self._complete([*complete, *source.finish()])

    def frame_features(self, videos, num_crops):
        """Pairs of a number and features `[crops, channels]`, from an iterator of `frame_clips`."""
        unfinished: dict[int, list] = {}
        step = self._scorer.feature_step()
        with contextlib.closing(self._scorer.scored(videos, step, self._states)) as scored:
            for features, clips, mirrored in scored:
                for row, clip in zip(np.asarray(features)[:, 0], clips, strict=False):
                    rows = unfinished.setdefault(clip.example, [None] * num_crops)
                    for _, position, flip in clip.places:
                        rows[position] = row if flip == mirrored else rows[position]
                    if all(row is not None for row in rows):
                        yield clip.example, np.stack(unfinished.pop(clip.example))

    def _complete(self, windows):
        """Scores of windows, in few passes of the head, whose weights take long to read."""
        for start in range(0, len(windows), self._windows_per_head):
            part = windows[start : start + self._windows_per_head]
            scores = self.head_scores(np.stack([features for _, features in part]))
            yield from zip((window for window, _ in part), scores, strict=True)

    def head_scores(self, features):
        """Merged scores from features of frames.

        Args:
            features: `[windows, clips, segments, crops, channels]`.

        Returns:
            float64 `[windows, classes]`.
        """
        num_windows, _, num_segments, _, channels = features.shape
        # Views in the order of evaluations: `crop * num_clips + clip`.
        views = np.moveaxis(features, 3, 1).reshape(num_windows, -1, num_segments, channels)
        size = 1 << (num_windows - 1).bit_length()  # few programs
        views = np.pad(views, [(0, size - num_windows), *[(0, 0)] * 3])
        logits = np.asarray(self._head(self._states, views.reshape(-1, num_segments, channels)))
        logits = logits.reshape(size, views.shape[1], -1)[:num_windows]
        options = dict(merge=self._merge, multi_label=self._multi_label)
        return np.stack([merge_views(each, **options) for each in logits])


class WindowFrames:
    """The cropped frames that the windows of a video need.

    Args:
        video: an open `decode.Video`.
        plan: the `WindowPlan`.
        view: the `View` of a window.

    Attributes:
        crops: the `Crops` that cut them.
        assembler: of the windows.
        num_frames: how many there are; `None` if unknown.
        num_windows: how many windows there are; `None` if unknown.
    """

    def __init__(self, video, plan, view):
        self.crops = Crops(view)
        self._video = video
        times = video.listed_times
        self.num_frames = self.num_windows = None
        if times is None:
            self._keys = wanted_times(plan.windows())
            self.assembler = Assembler(plan.windows(), plan)
        else:
            windows = list(plan.windows(times, video.seconds))
            keys = np.unique([window.keys for window in windows]).tolist()
            self.num_frames, self.num_windows, self._keys = len(keys), len(windows), iter(keys)
            self.assembler = Assembler(iter(windows), plan)

    def frames(self):
        """Pairs of a key and its distinct crops, `[boxes, size, size, 3]`."""
        for key, frame in self._video.shown_at(self._keys):
            yield float(key), self.crops.cut(frame)

    def finish(self):
        """The last window of a video that ended early, see `Assembler.finish`."""
        total = self._video.seconds_shown
        return [] if total is None else self.assembler.finish(total)
