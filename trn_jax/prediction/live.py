"""Windows of live streams: always the newest one, however slow the network is."""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable

import numpy as np

from trn_jax.data.decode import FrameError
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.windows import Crops, frame_clips, window_clips

FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before a stream is opened again
_MAX_TRIES = 8  # in a row
_POLL = 0.5  # seconds, after which gaps are reported and the duration is checked


@dataclasses.dataclass(frozen=True)
class Gap:
    """A time without frames, because the stream broke.

    Attributes:
        video: name of the stream.
        start: in seconds since the first frame.
        end: the same.
        reason: why it broke.
    """

    video: str
    start: float
    end: float
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """The crops of the frame that is shown at a point of the grid."""

    pixels: np.ndarray
    arrived: float  # by the clock


class Capture(threading.Thread):
    """Decodes a live stream as it comes, and keeps the newest crops.

    Frames that no window shows are dropped and counted. A stream that breaks is opened again, with
    longer and longer waits in between; what was kept is forgotten then, as windows have no gaps.

    Args:
        name: of the stream.
        opened: function that opens it: a `StreamVideo`.
        view: the `View`.
        step: seconds from one kept frame to the next.
        kept: number of frames to keep.
        clock: function that returns seconds.

    Attributes:
        num_frames: frames that arrived.
        num_kept: frames that were kept.
    """

    def __init__(self, name, opened, view, *, step, kept, clock=time.monotonic):
        super().__init__(name="capture", daemon=True)
        self.num_frames = self.num_kept = 0
        self.crops = Crops(view)
        self._source = name
        self._opened: Callable = opened
        self._step = step
        self._clock = clock
        self._changed = threading.Condition()
        self._samples: collections.OrderedDict[int, Sample] = collections.OrderedDict()
        self._num_samples = kept
        self._gaps: list[Gap] = []
        self._began: float | None = None
        self._ended: BaseException | None = None
        self._closed = threading.Event()

    def run(self):
        """Decode until `close`; see `threading.Thread`."""
        try:
            self._run()
        except BaseException as error:
            with self._changed:
                self._ended = error
                self._changed.notify_all()

    def _run(self):
        broken, reason, tries = None, "", 0
        while not self._closed.is_set():
            try:
                with self._opened() as video:
                    for frame in video.arriving():
                        now = self._clock()
                        if broken is not None:
                            self._note_gap(broken, now, reason)
                            broken, tries = None, 0
                        self.take(video, frame, now)
                        if self._closed.is_set():
                            return
                reason = "it ended"
            except FrameError as error:
                if self._began is None:  # it was never there
                    raise
                reason = str(error)
            broken = self._clock() if broken is None else broken
            tries += 1
            if tries > _MAX_TRIES:
                raise FrameError(f"{self._source} broke ({reason}) and can't be opened again")
            self._closed.wait(min(FIRST_WAIT * 2 ** (tries - 1), _LONGEST_WAIT))

    def _note_gap(self, start, end, reason):
        with self._changed:
            began = self._began or 0.0
            self._gaps.append(Gap(self._source, start - began, end - began, reason))
            self._samples.clear()

    def take(self, video, frame, now):
        """Keep a frame that arrived now, if a window may show it."""
        if self._began is None:
            self._began = now
        self.num_frames += 1
        number = int((now - self._began) / self._step)
        with self._changed:
            newest = next(reversed(self._samples), None)
        if newest is not None and number <= newest:
            return
        sample = Sample(self.crops.cut(video.upright(frame)), now)
        self.num_kept += 1
        with self._changed:
            # A slow camera's frame is shown at all points until the next one.
            first = number if newest is None else max(newest + 1, number - self._num_samples)
            for each in range(first, number + 1):
                self._samples[each] = sample
            while len(self._samples) > self._num_samples:
                self._samples.popitem(last=False)
            self._changed.notify_all()

    def window(self, due, offsets, timeout):
        """Wait for the newest window that is complete.

        Args:
            due: number of a sample; the window ends with it or a later one.
            offsets: of the frames of a window from its first sample, ascending, `[frames]`.
            timeout: seconds to wait.

        Returns:
            The number of its last sample and `{number: sample}`; `None` after the timeout.

        Raises:
            UserError: the stream is gone for good.
        """
        span = offsets[-1]

        def newest():
            last = next(reversed(self._samples), -1)
            return last if last >= due and last - span in self._samples else None

        with self._changed:
            self._changed.wait_for(lambda: newest() is not None or self._ended, timeout)
            last = newest()
            if last is None and self._ended:
                raise self._ended
            if last is None:
                return None
            return last, {last - span + o: self._samples[last - span + o] for o in offsets}

    def gaps(self):
        """The `Gap`s since the last call."""
        with self._changed:
            found, self._gaps = self._gaps, []
        return found

    def close(self):
        """Stop the thread."""
        self._closed.set()


def grid(plan):
    """The regular points of time at which the frames of a window are taken.

    Args:
        plan: the `WindowPlan`.

    Returns:
        Numbers of the points, from 0, `[clips, segments]`, and the seconds between two points.
    """
    times = plan.times(0.0, plan.length)
    offsets = np.round(times - times.min(), 6)
    gaps = np.diff(np.unique(offsets))
    step = float(gaps.min()) if gaps.size else plan.length
    return np.round(offsets / step).astype(int), step


def live_windows(scorer, plan, view, opened, name, *, duration=None):
    """Score the newest window of a stream, again and again.

    Windows are a stride apart; a network that takes longer than that skips windows, so an answer is
    never older than two strides or two passes of the network.

    Args:
        scorer: a `TimelineScorer` whose steps are as small as a window.
        plan: the `WindowPlan`.
        view: its `View`.
        opened: function that opens the stream: a `StreamVideo`.
        name: of the stream.
        duration: seconds after which it ends; `None`: never.

    Yields:
        An `Answer` per window, with its `age`, and a `Gap` where the stream broke.

    Raises:
        FrameError: the stream can't be opened, or opened again.
    """
    numbers, step = grid(plan)
    wanted = np.unique(numbers).tolist()
    stride = max(round(plan.stride / step), 1)
    capture = Capture(name, opened, view, step=step, kept=wanted[-1] + 1 + stride)
    window = LiveWindow(scorer, capture.crops, numbers)
    window.warm_up()
    with contextlib.closing(newest_samples(capture, wanted, stride, duration)) as windows:
        for found in windows:
            if isinstance(found, Gap):
                yield found
                continue
            newest, samples = found
            scores = window.scores(newest, {n: each.pixels for n, each in samples.items()})
            arrived = max(sample.arrived for sample in samples.values())
            end = newest * step
            yield Answer(
                name,
                max(end - plan.length, 0.0),
                end,
                scores.astype(np.float32),
                scorer.class_names,
                is_window=True,
                age=time.monotonic() - arrived,
                dropped=capture.num_frames - capture.num_kept,
            )


def newest_samples(capture, wanted, stride, duration):
    """Capture a stream, and wait for the samples of its newest window, again and again.

    Args:
        capture: a `Capture` that has not started.
        wanted: numbers of the samples of a window from its first one, ascending.
        stride: from one window to the next at least, in samples.
        duration: seconds after which it ends; `None`: never.

    Yields:
        The number of the last sample of a window and `{number: sample}`, and a `Gap` where the
        stream broke.

    Raises:
        FrameError: the stream can't be opened, or opened again.
    """
    begin, due = time.monotonic(), wanted[-1]
    capture.start()
    try:
        while duration is None or time.monotonic() - begin < duration:
            found = capture.window(due, wanted, _POLL)
            yield from capture.gaps()
            if found is not None:
                due = found[0] + stride
                yield found
    finally:
        capture.close()


class LiveWindow:
    """Scores single windows, and keeps the features of frames that the next one needs."""

    def __init__(self, scorer, crops, numbers):
        self._scorer = scorer
        self._crops = crops
        self._numbers = numbers
        self._features: dict[int, np.ndarray] = {}

    def warm_up(self):
        """Compile what `scores` needs, before the stream is opened."""
        numbers = np.unique(self._numbers).tolist()
        self.scores(numbers[-1], dict.fromkeys(numbers, self._crops.blank()))
        self._features.clear()

    def scores(self, newest, pixels):
        """The merged scores `[classes]` of the window that ends with a sample.

        Args:
            newest: number of the sample.
            pixels: `{number: crops of the sample}`.
        """
        numbers = newest - self._numbers.max() + self._numbers
        if not self._scorer.by_frame:
            stacked = np.stack([np.stack([pixels[n] for n in row]) for row in numbers.tolist()])
            clips = (window_clips(self._crops, 0, each) for each in [stacked])
            ((_, scores),) = self._scorer.clip_scores(clips)
            return scores
        known = self._features
        self._features = {n: known[n] for n in pixels if n in known}
        new = (frame_clips(self._crops, n, pixels[n]) for n in pixels if n not in self._features)
        found = dict(self._scorer.frame_features(new, self._crops.num_crops))
        self._features |= found
        stacked = np.stack([np.stack([self._features[n] for n in r]) for r in numbers.tolist()])
        (scores,) = self._scorer.head_scores(stacked[None])
        return scores
