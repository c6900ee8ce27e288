"""Scores after every frame of a video or camera: one pass of the backbone per frame."""

import collections
import contextlib
import itertools
import math
import time

import numpy as np

from trn_jax.data.decode import FrameError
from trn_jax.data.frame_views import check_streamable, frame_spacing
from trn_jax.evaluation.merging import merge_of, merge_views
from trn_jax.models.folding import fold_batch_norm
from trn_jax.models.streaming import streaming
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.live import Capture, Gap, newest_samples
from trn_jax.prediction.timeline import plan_windows, with_notes
from trn_jax.prediction.windows import Crops

_STEPS_AHEAD = 2  # that run while the next frame is decoded
_MAX_FRAMES = 10_000_000  # of a video, such as 10 days at 12 per second


class FrameScorer:
    """Scores videos frame by frame, with frames as far apart as those of a clip in training.

    An `Answer` follows every frame. Its window ends with the frame, and is as long as a clip, or
    begins with the video.

    Args:
        model: a `Recognizer`.
        contract: its `Contract`.
        class_names: in the order of the scores.
        multi_label: scores are sigmoids.
        pooling: see `models.streaming.Stream`.

    Attributes:
        class_names: the same.

    Raises:
        UserError: the model can't be streamed, or the view has no place in a stream.
    """

    def __init__(self, model, contract, *, class_names, multi_label, pooling):
        view = contract.view
        check_streamable(contract.protocol, view)
        self.class_names = class_names
        self._contract = contract
        folded = fold_batch_norm(model, size=view.crop_size)
        self._stream = streaming(folded, pooling=pooling, window=view.num_segments)
        self._merge = merge_of(view, model.merge_views)
        self._multi_label = multi_label
        crops = Crops(view)
        self._start = self._stream.init(crops.num_crops, crops.size)

    def plan(self, frame_rate):
        """Length of a window and distance of frames, in seconds.

        Args:
            frame_rate: of the video, per second; `None` if unknown.

        Raises:
            UserError: the length of training examples is unknown.
        """
        options = dict(every=None, by_frame=True, seed=0)  # neither changes the plan's length
        plan = plan_windows(self._contract, frame_rate=frame_rate, **options)
        view, rate = self._contract.view, plan.frame_rate
        step = frame_spacing(view, plan.length * rate) / rate
        return step * self._stream.window, step

    def windows(self, name, video, *, offset=0.0):
        """Score an open video.

        Args:
            name: of the video, for the output.
            video: a `decode.Video`; without an index, it is decoded in order and may be endless.
            offset: seconds before a video that is a part of another one.

        Yields:
            An `Answer` per frame; the last one has the notes on the video.

        Raises:
            FrameError: the video can't be read.
            UserError: see `plan`.
        """
        yield from with_notes(self._windows(name, video, offset), video)

    def _windows(self, name, video, offset):
        length, step = self.plan(video.mean_rate)
        scoring = self.scoring(Crops(self._contract.view))
        scored = (
            (end, scoring.logits(scoring.crops.cut(frame))) for end, frame in _frames(video, step)
        )
        for end, logits in _delayed(scored, _STEPS_AHEAD):
            yield Answer(
                name,
                offset + max(end - length, 0.0),
                offset + end,
                self.merged(logits),
                self.class_names,
                is_window=True,
            )

    def live(self, opened, name, *, frame_rate, duration=None):
        """Score a live stream: always the newest frame, however slow the network is.

        A network that is too slow skips frames. Where the stream broke, it begins anew.

        Args:
            opened: function that opens the stream: a `StreamVideo`.
            name: of the stream.
            frame_rate: of the stream, per second; `None` if unknown.
            duration: seconds after which it ends; `None`: never.

        Yields:
            An `Answer` per frame, with its `age`, and a `Gap` where the stream broke.

        Raises:
            FrameError: the stream can't be opened, or opened again.
            UserError: see `plan`.
        """
        length, step = self.plan(frame_rate)
        capture = Capture(name, opened, self._contract.view, step=step, kept=1)
        scoring = self.scoring(capture.crops)
        scoring.warm_up()
        begin = 0.0  # of what the state knows
        with contextlib.closing(newest_samples(capture, [0], 1, duration)) as newest:
            for found in newest:
                if isinstance(found, Gap):
                    scoring.reset()
                    begin = found.end
                    yield found
                    continue
                number, samples = found
                (sample,) = samples.values()
                scores = self.merged(scoring.logits(sample.pixels))
                end = number * step
                yield Answer(
                    name,
                    min(max(end - length, begin), end),
                    end,
                    scores,
                    self.class_names,
                    is_window=True,
                    age=time.monotonic() - sample.arrived,
                    dropped=capture.num_frames - capture.num_kept,
                )

    def scoring(self, crops):
        """A `Scoring` of frames that `crops` cuts."""
        return Scoring(self._stream, self._start, crops)

    def merged(self, logits):
        """Scores float32 `[classes]` of the crops of a frame."""
        options = dict(merge=self._merge, multi_label=self._multi_label)
        return merge_views(np.asarray(logits), **options).astype(np.float32)


class Scoring:
    """One video or camera, of which every crop is a stream.

    Args:
        stream: a `models.streaming.Stream`.
        start: its state before the first frame, of as many streams as crops.
        crops: the `Crops` that cut the frames.

    Attributes:
        crops: the same.
    """

    def __init__(self, stream, start, crops):
        self.crops = crops
        self._stream = stream
        self._start = self._state = start

    def logits(self, pixels):
        """Logits `[crops, classes]` after the frame with crops uint8 `[boxes, size, size, 3]`."""
        frames = [pixels[of, :, ::-1] if flip else pixels[of] for of, flip in self.crops.places]
        logits, self._state = self._stream.step(self._state, np.stack(frames))
        return logits

    def warm_up(self):
        """Compile what `logits` needs."""
        np.asarray(self.logits(self.crops.blank()))
        self.reset()

    def reset(self):
        """Begin anew."""
        self._state = self._start


def _delayed(items, count):
    """The same items, each once so many further ones are there."""
    waiting: collections.deque = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _frames(video, step):
    """Pairs of a time and the frame that is shown then: the middles of segments of `step` seconds.

    A video that ends before the first of them has its first frame.

    Raises:
        FrameError: the video can't be read, or is too long.
    """
    middles = (step * (number + 0.5) for number in itertools.count())
    if video.listed_times is not None:
        count = max(math.ceil(video.seconds / step - 0.5), 1)
        if count > _MAX_FRAMES:
            raise FrameError(
                f"a video of {video.seconds:.6g} s has {count:,} frames at a distance of "
                f"{step:.3g} s, more than {_MAX_FRAMES:,}"
            )
        yield from video.shown_at(itertools.islice(middles, count))
        return
    first = None
    for moment, frame in video.shown_at(itertools.chain([0.0], middles)):
        if moment:
            first = None
            yield moment, frame
        else:
            first = frame.copy()
    if first is not None:
        yield video.seconds_shown or 0.0, first
