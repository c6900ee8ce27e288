"""The strip below a rendered video: what happens now, with its score, and a bar over time."""

import bisect
import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation import lettering
from trn_jax.evaluation.drawing import COLORS, WHITE
from trn_jax.evaluation.events import NOTHING

_PAPER, _TRACK = (24, 24, 24), (60, 60, 60)
_TEXT, _DIM = (240, 240, 240), (150, 150, 150)
_GOLDEN = 0.618034  # of a turn from one hue to the next keeps them apart
_SHADES = ((0.65, 0.95), (0.9, 0.7), (0.35, 0.9))  # saturation and value, in turn
_TEXT_SHARE = 0.045  # size of text by the shorter side of the frame
_TEXT_SIZES = 14, 64  # pixels
_MAX_ROWS, _MAX_LANES = 3, 4
_SAME_TIME = 1e-6  # seconds
NONE, NO_EVENT = "none of these", "no event"


@dataclasses.dataclass(frozen=True)
class Story:
    """What a film shows besides its frames. Times are in seconds from the first frame.

    Attributes:
        class_names: in the order of the labels.
        events: tuples `(start, end, label, score)`.
        top: pairs `(label, score)` of a whole video, the best first; empty for a timeline.
        is_none: thresholds reject the whole video.
        curve: tuples `(start, end, label, score)`, the best class of each window.
        length: of the video; `None` if unknown, then there is no bar.
        num_rows: captions at a time.
    """

    class_names: Sequence[str]
    events: Sequence[tuple[float, float, int, float]] = ()
    top: Sequence[tuple[int, float]] = ()
    is_none: bool = False
    curve: Sequence[tuple[float, float, int, float]] = ()
    length: float | None = None
    num_rows: int = 1


def color_of(label):
    """The colour of a class, RGB; always the same, and unlike those of its neighbours."""
    if label < len(COLORS):
        return COLORS[label]
    saturation, value = _SHADES[label % len(_SHADES)]
    return tuple(
        round(255 * part) for part in colorsys.hsv_to_rgb(label * _GOLDEN % 1, saturation, value)
    )


def caption_name(names, label):
    """The name of a class as it can be drawn; with its number, if characters have no font."""
    name = escaped(names[label]).strip()
    return f"{label}: {name}" if lettering.missing(name) else name


class Strip:
    """Draws the strip of a film, frame by frame.

    Args:
        width: of the film in pixels.
        height: of its frames in pixels, from which the size of the text follows.
        story: the `Story`.

    Attributes:
        height: of the strip in pixels.
        bar: `(top, bottom, left, right)` of the bar over time in the strip; empty without a length.
    """

    def __init__(self, width, height, story):
        least, most = _TEXT_SIZES
        self._story, self._width = story, width
        self._size = int(np.clip(round(_TEXT_SHARE * min(width, height)), least, most))
        self._margin = self._size // 2
        self._small = max(self._size * 3 // 4, 10)
        self._row = lettering.line_height(self._size) + self._size // 4
        self._rows = max(min(story.num_rows, _MAX_ROWS), 1) + story.is_none
        self._lanes = _lanes(story.events)
        self._num_lanes = max(self._lanes, default=0) + 1
        self._borders = sorted({time for event in story.events for time in event[:2]})
        self._events: tuple = -1, ()
        top = self._margin + self._rows * self._row
        self.bar, curve = (top, top, 0, 0), 0
        if story.length:
            curve = self._size * 3 // 2 if story.curve else 0
            lanes = self._num_lanes * max(self._size // 2, 4)
            self.bar = top + curve, top + curve + lanes, self._margin, width - self._margin
        bottom = self.bar[1] + (self._margin if story.length else 0)
        # Sides of films are even numbers.
        self.height = bottom + (bottom + height) % 2
        self._plain = np.full((self.height, width, 3), _PAPER, np.uint8)
        if story.length:
            self._draw_curve(curve)
            self._draw_bar()
        self._shown: tuple | None = None
        self._image = self._plain

    def draw(self, time):
        """The strip at a time, uint8 `[height, width, 3]` in RGB."""
        now = self._events_at(time), _clock(time)
        if now != self._shown:
            self._image, self._shown = self._captioned(*now), now
        if not self._story.length:
            return self._image
        top, bottom, left, right = self.bar
        image = self._image.copy()
        share = min(max(time / self._story.length, 0), 1)
        thick = max(self._size // 8, 2)
        x = round(left + share * (right - left - thick))
        image[top - self._size // 4 : bottom + self._size // 4, x : x + thick] = WHITE
        return image

    def _events_at(self, time):
        """Numbers of the events of a time."""
        time += _SAME_TIME
        place = bisect.bisect_right(self._borders, time)
        if place != self._events[0]:
            events = enumerate(self._story.events)
            self._events = place, tuple(n for n, each in events if each[0] <= time < each[1])
        return self._events[1]

    def _captioned(self, events, clock):
        image = self._plain.copy()
        room = self._width - 2 * self._margin
        if self._story.length:
            text = lettering.line(clock, self._small)
            if text.shape[1] < room / 2:
                y = self._margin + self._size - self._small
                _blend(image, text, self._width - self._margin - text.shape[1], y, _DIM)
                room -= text.shape[1] + self._margin
        story, y = self._story, self._margin
        found = story.top or [story.events[n][2:] for n in events]
        if story.is_none or not found:
            text = lettering.shortened(NONE if story.top else NO_EVENT, self._size, room)
            _blend(image, lettering.line(text, self._size), self._margin, y, _DIM)
            y, room = y + self._row, self._width - 2 * self._margin
        for label, score in found[: self._rows - story.is_none]:
            self._draw_caption(image, y, label, score, room)
            y, room = y + self._row, self._width - 2 * self._margin
        return image

    def _draw_caption(self, image, y, label, score, room):
        """A mark in the colour of the class, its name, and the score."""
        number = lettering.line(f"{score:.2f}", self._size)
        side = self._size * 3 // 4
        left = self._margin + side + self._margin
        name = caption_name(self._story.class_names, label)
        room -= left - self._margin + number.shape[1] + self._margin
        name = lettering.line(lettering.shortened(name, self._size, room), self._size)
        color, dim = (_DIM, _DIM) if self._story.is_none else (_TEXT, _DIM)
        bottom = y + self._size
        image[bottom - side : bottom, self._margin : self._margin + side] = color_of(label)
        _blend(image, name, left, y, color)
        _blend(image, number, left + name.shape[1] + self._margin, y, dim)

    def _columns(self, start, end):
        """The columns of a time in the bar, at least two."""
        _, _, left, right = self.bar
        scale = (right - left) / self._story.length
        first, last = round(left + start * scale), round(left + end * scale)
        first = min(max(first, left), right - 2)
        return first, min(max(last, first + 2), right)

    def _draw_bar(self):
        top, bottom, left, right = self.bar
        self._plain[top:bottom, left:right] = _TRACK
        lane = (bottom - top) // self._num_lanes
        for (start, end, label, _), number in zip(self._story.events, self._lanes, strict=True):
            first, last = self._columns(start, end)
            y = top + number * lane
            self._plain[y : y + lane, first:last] = color_of(label)

    def _draw_curve(self, height):
        """The highest score of each window, above the bar."""
        bottom = self.bar[0] - 2
        for start, end, label, score in self._story.curve:
            first, last = self._columns(start, end)
            y = bottom - round((height - 2) * min(max(score, 0), 1))
            is_nothing = self._story.class_names[label] == NOTHING
            color = np.asarray(_TRACK if is_nothing else color_of(label))
            self._plain[y:bottom, first:last] = (color + _PAPER) // 2


def _lanes(events):
    """Numbers of lanes of a bar in which events don't overlap, as far as there are lanes."""
    ends = [-1.0] * _MAX_LANES
    found = []
    for start, end, *_ in events:
        free = [n for n, until in enumerate(ends) if until <= start + _SAME_TIME]
        lane = free[0] if free else int(np.argmin(ends))
        ends[lane] = max(end, ends[lane])
        found.append(lane)
    return found


def _clock(seconds):
    minutes, seconds = divmod(int(seconds + _SAME_TIME), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _blend(image, mask, x, y, color):
    """Paint a colour through a mask, at its left upper corner."""
    height, width = mask.shape
    place = image[y : y + height, x : x + width]
    share = mask[: place.shape[0], : place.shape[1], None] / np.float32(255)
    place[...] = np.rint(place + share * (np.asarray(color) - place.astype(np.float32)))
