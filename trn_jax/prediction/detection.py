"""From scores of windows to events: smoothing, thresholds with hysteresis, shortest duration."""

import collections
import dataclasses
import math
from typing import Any

import numpy as np

from trn_jax.errors import UserError
from trn_jax.evaluation.events import NOTHING, Event

_SHORTEST = 0.15  # of a window
_TOLERANCE = 1e-6  # of the length of a window, within which lengths are equal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """How events are found.

    Attributes:
        threshold: an event has a score of at least this somewhere; one number, or one per class.
        hysteresis: it lasts as long as the score is at least this share of the threshold.
        smoothing: windows whose mean score counts, an odd number.
        min_seconds: events whose score stays up for a shorter time are left out; `None`: 0.15 of a
            window, so that a single one of many windows is no event.
        extend: let an event last at least as long as a window, where it has room before or after
            it: a window that shows a class shows it from its start to its end, but the score is up
            only while windows show most of it.
        rejects: a whole video is no event, either, unless its score reaches the threshold.

    Raises:
        UserError: values are out of range.
    """

    threshold: float | tuple[float, ...] = 0.5
    hysteresis: float = 0.7
    smoothing: int = 1
    min_seconds: float | None = None
    extend: bool = True
    rejects: bool = False

    def __post_init__(self):
        thresholds = np.ravel(self.threshold)
        if not (thresholds.size and np.all((thresholds >= 0) & (thresholds <= 1))):
            raise UserError(f"threshold={self.threshold!r}: expected numbers in 0..1")
        if not 0 < self.hysteresis <= 1:
            raise UserError(f"hysteresis={self.hysteresis!r}: expected more than 0, at most 1")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise UserError(f"smoothing={self.smoothing!r}: expected an odd number of windows")
        shortest = self.min_seconds or 0.0
        if not (shortest >= 0 and math.isfinite(shortest)):
            raise UserError(f"min_seconds={self.min_seconds!r}: expected at least 0")


def settings_for(calibration, class_names, **given):
    """The `DetectionSettings` for the scores of a checkpoint.

    Args:
        calibration: its `Calibration`, whose thresholds are the default; `None` if it has none.
        class_names: in the order of the scores.
        **given: settings; `None` stands for the default. A threshold that is given rejects whole
            videos, as those of a calibration do.
    """
    given = {key: value for key, value in given.items() if value is not None}
    if calibration is not None:
        given = {"threshold": calibration.thresholds_of(class_names)} | given
    return DetectionSettings(rejects="threshold" in given, **given)


class EventDetector:
    """Finds the events of one video, window by window.

    A window stands for the time around its middle: from halfway to the one before it until halfway
    to the one after it, and the first and the last one until the ends of the video. Where classes
    exclude each other, a time has only the class with the highest score; "nothing" is never an
    event. Windows of a stream grow until they have their length; of those with the same start, only
    the last and longest one counts.

    Args:
        video: its name.
        class_names: in the order of the scores.
        settings: `DetectionSettings`.
        multi_label: classes don't exclude each other.
    """

    def __init__(self, video, class_names, settings, *, multi_label=False):
        self._video = video
        self._class_names = class_names
        self._settings = settings
        self._exclusive = not multi_label
        self._on = np.broadcast_to(np.asarray(settings.threshold, float), (len(class_names),))
        self._off = self._on * settings.hysteresis
        # Windows that the mean of the newest smoothed one takes in.
        self._recent: collections.deque = collections.deque(maxlen=settings.smoothing)
        self._num_windows = 0
        self._cell: tuple | None = None  # (start, middle, end, scores) of the newest smoothed one
        self._running: dict[int, _Running] = {}
        self._length = 0.0  # of a window
        self._held: Any = None  # a window that the next one replaces, if both have the same start
        self._first = 0.0  # the start of the video
        self._ended: list[tuple[int, Event]] = []  # with labels, until it is known what follows
        self._given: dict[int, float] = {}  # the ends of the events before, by label

    def add(self, window):
        """Add an `Answer`, in order; returns the `Event`s that have ended."""
        found, held = [], self._held
        if held is not None and window.start > held.start:
            found += self._take(held)
        seconds = window.end - window.start
        may_grow = abs(seconds - self._length) > _TOLERANCE * self._length
        self._held = window if may_grow else None
        self._length = max(self._length, seconds)
        return found if may_grow else found + self._take(window)

    def _take(self, window):
        self._recent.append(window)
        self._num_windows += 1
        # The smoothed scores of a window need those of half as many windows after it.
        behind = self._settings.smoothing // 2
        if self._num_windows <= behind:
            return []
        return self._advance(self._recent[-1 - behind], list(self._recent))

    def finish(self):
        """The `Event`s that last until the end of the video."""
        found = [] if self._held is None else self._take(self._held)
        behind = self._settings.smoothing // 2
        waiting = list(self._recent)[-behind:] if behind else []
        for index, window in enumerate(waiting):
            first = max(0, len(self._recent) - len(waiting) - behind + index)
            around = list(self._recent)[first:]
            found += self._advance(window, around)
        if self._cell is None:
            return found
        start, _, end, scores = self._cell
        found += self._count(start, end, scores)
        for label in sorted(self._running):
            self._end(label)
        return found + self._release(end, is_last=True)

    def _advance(self, window, around):
        """Take a window with its smoothed scores; counts the one before it."""
        scores = np.mean([each.decisive for each in around], axis=0)
        middle = (window.start + window.end) / 2
        if self._cell is None:
            self._first = window.start
            self._cell = window.start, middle, window.end, scores
            return []
        start, before, _, before_scores = self._cell
        border = (before + middle) / 2
        self._cell = border, middle, window.end, scores
        return self._count(start, border, before_scores)

    def _count(self, start, end, scores):
        """Continue, begin and end events with the scores of the time `[start, end)`."""
        lasts = scores >= self._off
        if self._exclusive:
            lasts &= np.arange(len(scores)) == np.argmax(scores)
        for label in np.flatnonzero(lasts).tolist():
            if self._class_names[label] != NOTHING:
                running = self._running.setdefault(label, _Running(start))
                running.extend(end, float(scores[label]))
        for label in [label for label in self._running if not lasts[label]]:
            self._end(label)
        return self._release(end)

    def _end(self, label):
        running = self._running.pop(label)
        seconds, shortest = running.end - running.start, self._settings.min_seconds
        if shortest is None:
            shortest = _SHORTEST * self._length
        if running.peak < self._on[label] or seconds < shortest or not seconds:
            return
        name = self._class_names[label]
        event = Event(self._video, running.start, running.end, name, running.mean)
        self._ended.append((label, event))

    def _release(self, now, *, is_last=False):
        """The events of which it is known by the time `now` how far they reach."""
        self._ended.sort(key=lambda pair: (pair[1].start, pair[1].end))
        found = []
        while self._ended:
            label, event = self._ended[0]
            extended, is_sure = self._extended(label, event, now)
            if not (is_sure or is_last):
                break
            del self._ended[0]
            self._given[label] = extended.end
            found.append(extended)
        return found

    def _extended(self, label, event, now):
        """An event that is at least as long as a window, if it has room.

        Half of what is missing comes before it and half after it; what has no room on one side
        goes to the other.

        Returns:
            The event, and whether later windows can't give it more room.
        """
        missing = self._length - (event.end - event.start)
        if not self._settings.extend or missing <= 0:
            return event, True
        # Where classes exclude each other, events of all classes limit it.
        given = [end for other, end in self._given.items() if self._exclusive or other == label]
        room_before = max(event.start - max([self._first, *given]), 0.0)
        before = min(missing / 2, room_before)
        limit, may_grow = self._limit_after(label, event)
        after = min(missing - before, max(min(limit, now) - event.end, 0.0))
        before = min(missing - after, room_before)
        short = missing - before - after > _TOLERANCE * self._length
        is_known = now >= event.end + missing - min(missing / 2, room_before)
        start, end = event.start - before, event.end + after
        extended = dataclasses.replace(event, start=start, end=end)
        return extended, is_known and not (short and may_grow)

    def _limit_after(self, label, event):
        """Until when the events after an event let it last, and whether that may become later.

        They keep half of the time between, or less if they need less to be as long as a window.
        """
        later = [(o, e.start, e.end, False) for o, e in self._ended if e is not event]
        later += [(o, each.start, each.end, True) for o, each in self._running.items()]
        limit, may_grow = math.inf, False
        for other, start, end, is_running in later:
            if self._exclusive or other == label:
                needed = max(self._length - (end - start), 0.0)
                limit = min(limit, max((event.end + start) / 2, start - needed))
                may_grow |= is_running and needed > 0
        return limit, may_grow


@dataclasses.dataclass
class _Running:
    """An event that may last."""

    start: float
    end: float = 0.0
    peak: float = 0.0
    _weighted: float = 0.0

    def extend(self, end, score):
        """Let it last until `end` with a score."""
        self._weighted += score * (end - (self.end or self.start))
        self.end, self.peak = end, max(self.peak, score)

    @property
    def mean(self):
        """Its mean score over time."""
        return self._weighted / (self.end - self.start)


def events_of(answers, class_names, settings, *, multi_label=False):
    """The events of one video.

    Args:
        answers: its `Answer`s, in order: windows, or one for the whole video.
        class_names: in the order of the scores.
        settings: `DetectionSettings`.
        multi_label: classes don't exclude each other.

    Returns:
        A list of `Event`, sorted by start. A whole video is one event of the class with the highest
        score, or of every class that reaches its threshold if they don't exclude each other; there
        is none if it can't be read, its length is unknown, or the settings reject it.
    """
    answers = list(answers)
    if not answers or answers[0].problem:
        return []
    if answers[0].is_window:
        detector = EventDetector(answers[0].video, class_names, settings, multi_label=multi_label)
        found = [event for answer in answers for event in detector.add(answer)]
        return sorted([*found, *detector.finish()], key=lambda event: (event.start, event.end))
    (answer,) = answers
    if not answer.end:
        return []
    labels = accepted_labels(answer, settings, multi_label=multi_label)
    scores = answer.decisive
    return [
        Event(answer.video, answer.start, answer.end, class_names[label], float(scores[label]))
        for label in labels
        if class_names[label] != NOTHING
    ]


def accepted_labels(answer, settings, *, multi_label=False):
    """Numbers of the classes of a whole video; none if the settings reject it."""
    if settings.rejects or multi_label:
        return answer.accepted(settings.threshold, multi_label=multi_label)
    return answer.top_labels(1)
