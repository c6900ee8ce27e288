"""Windows of a long video: which frames each of them shows, read and cropped once.

A window is scored like a training example. The key of a frame is the time from which it is shown
where the video has an index, else the time at which it is wanted; equal keys are equal frames.
"""

import bisect
import dataclasses
import heapq
import itertools
from collections.abc import Iterator

import numpy as np

from trn_jax.data import augment, memory
from trn_jax.data.decode import FrameError
from trn_jax.data.reader import Box, Clip, VideoClips
from trn_jax.data.views import View
from trn_jax.errors import UserError

# Segments have fractional lengths: so many virtual frames per segment divide a window finely.
_VIRTUAL = 1000
_SPREAD = ("center", "twice")  # samplings that cover an example, whatever its number of frames
_DIGITS = 6  # of a time in seconds
_TOLERANCE = 1e-3  # of a window's length, within which its end is that of the video
_MAX_WINDOWS = 1_000_000  # of a video, such as 4 days at 3 per second
VIEW = "window"  # the name of the view in `Clip.places`


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
    """A stretch `[start, end)` of a video, in seconds.

    Attributes:
        number: from 0.
        start: in seconds.
        end: in seconds.
        keys: of the frames of its clips, `[clips, segments]`, in seconds.
    """

    number: int
    start: float
    end: float
    keys: np.ndarray


@dataclasses.dataclass(frozen=True)
class WindowPlan:
    """Windows of one length, a stride apart.

    Attributes:
        view: the `View` of a window.
        length: of a window, in seconds.
        stride: from one start to the next, in seconds.
        frame_rate: of training examples, per second, for samplings that count frames.
        seed: of what is drawn.
    """

    view: View
    length: float
    stride: float
    frame_rate: float
    seed: int

    def stretches(self, total=None) -> Iterator[tuple[float, float]]:
        """Start and end of every window; the last one ends with the video.

        Args:
            total: length of the video in seconds; `None`: unknown, so windows never end.

        Raises:
            FrameError: there are too many; the length or the frame rate can't be right.
        """
        if total is not None and total / self.stride > _MAX_WINDOWS:
            raise FrameError(
                f"a video of {total:.6g} s has {total / self.stride:.3g} windows, one every "
                f"{self.stride:.3g} s, more than {_MAX_WINDOWS:,}; if it does last so long, give "
                "fewer, such as --every=5"
            )
        tolerance = _TOLERANCE * self.length
        end = 0.0
        for number in itertools.count():
            start = number * self.stride
            if total is not None and start + self.length > total + tolerance:
                break
            end = start + self.length
            yield start, end
        if not end or end < total - tolerance:
            yield max(total - self.length, 0.0), total

    def times(self, start, end):
        """When the frames of a window are wanted, `[clips, segments]`, in seconds."""
        sampler = self.view.sampler()
        spread = self.view.sampling in _SPREAD
        rate = _VIRTUAL * self.view.num_segments / (end - start) if spread else self.frame_rate
        num_frames = max(round((end - start) * rate), 1)
        rng = np.random.default_rng((self.seed, 0, 0))
        return start + (sampler(num_frames, rng) + 0.5) / rate

    def windows(self, frame_times=None, total=None):
        """All windows of a video.

        Args:
            frame_times: when its frames are shown, ascending, in seconds from the first,
                `[frames]`; `None`: unknown, so the keys are the times at which frames are wanted.
            total: length of the video in seconds; `None`: unknown, so windows never end.

        Yields:
            `Window`s.
        """
        for number, (start, end) in enumerate(self.stretches(total)):
            # Windows that share a time must agree on its last digits, too.
            keys = np.round(self.times(start, end), _DIGITS)
            if frame_times is not None:
                shown = np.searchsorted(frame_times, keys, side="right") - 1
                keys = np.asarray(frame_times, np.float64)[np.maximum(shown, 0)]
            yield Window(number, start, end, keys)


def wanted_times(windows):
    """The distinct times of endless windows, ascending; starts with 0. The memory is bounded.

    Args:
        windows: an iterator of `Window`s with times.
    """
    ahead, heap, last = next(windows), [0.0], -1.0
    while True:
        while not heap or ahead.start <= heap[0]:
            for key in np.unique(ahead.keys).tolist():
                heapq.heappush(heap, key)
            ahead = next(windows)
        key = heapq.heappop(heap)
        if key > last:
            last = key
            yield key


class Assembler:
    """Puts windows together from what is known of their frames, each as soon as it is complete.

    Args:
        windows: an iterator of `Window`s in order.
        plan: their `WindowPlan`.
    """

    def __init__(self, windows, plan):
        self._windows = windows
        self._plan = plan
        self._next = next(windows, None)
        self._end = 0.0  # of the last window
        self._held: dict[float, np.ndarray] = {}

    @property
    def num_held(self):
        """Number of frames that are held."""
        return len(self._held)

    def add(self, key, value):
        """Add a frame, in the order of the keys.

        Args:
            key: of the frame.
            value: an array of any shape, the same for all frames.

        Returns:
            A list of the `Window`s that are complete now, each with the values of its frames,
            `[clips, segments, ...]`.
        """
        self._held[key] = value
        found = []
        while self._next is not None and key >= self._next.keys.max():
            window, self._next = self._next, next(self._windows, None)
            self._end = window.end
            found.append((window, self._values(window.keys)))
            # `finish` needs nothing from before the last window.
            first = window.keys.min()
            for old in [old for old in self._held if old < first]:
                del self._held[old]
        return found

    def finish(self, total):
        """The window that ends with a video that ended before its last window did.

        Args:
            total: length of the video in seconds.

        Returns:
            As of `add`; its frames are the nearest ones that are known.
        """
        tolerance = _TOLERANCE * self._plan.length
        if self._next is None or not self._held or total <= self._end + tolerance:
            return []
        start = max(total - self._plan.length, 0.0)
        times = self._plan.times(start, total)
        window = Window(self._next.number, start, total, _nearest(sorted(self._held), times))
        self._next = None
        return [(window, self._values(window.keys))]

    def _values(self, keys):
        return np.stack([np.stack([self._held[key] for key in row]) for row in keys.tolist()])


def _nearest(keys, wanted):
    """For each of `wanted`, an array, the nearest of the ascending list `keys`."""

    def closest(value):
        after = bisect.bisect_left(keys, value)
        return min(keys[max(after - 1, 0) : after + 1], key=lambda key: abs(key - value))

    return np.vectorize(closest, otypes=[np.float64])(wanted)


class Crops:
    """Cuts the crops of a view out of frames.

    Args:
        view: the `View`.

    Raises:
        UserError: the view has random colours.
    """

    def __init__(self, view):
        if any(view.color_jitter):
            raise UserError(
                f"color_jitter={view.color_jitter} is random, but a timeline takes fixed colours"
            )
        self._cropping = view.cropping(exact=True)
        self.size = self._cropping.size
        self.num_crops = self._cropping.num_crops
        self.boxes: tuple[Box, ...] = ()  # distinct ones
        self.places: tuple = ()  # (number of the distinct box, mirrored) per crop

    def cut(self, frame):
        """The distinct crops of a frame, uint8 `[boxes, size, size, 3]`."""
        short_side, size = self._cropping.scaled_to, self._cropping.size
        with memory.scratch() as scratch:
            scaled = augment.resize_short_side(frame, short_side, scratch)
            crops = self._cropping.boxes(*scaled.shape[:2], None)
            self.boxes = tuple(dict.fromkeys(box for box, _ in crops))
            self.places = tuple((self.boxes.index(box), mirrored) for box, mirrored in crops)
            found = np.empty((len(self.boxes), size, size, 3), np.uint8)
            for box, target in zip(self.boxes, found, strict=True):
                augment.cut(scaled, box, False, target)
        return found

    def blank(self):
        """The crops of a black frame, as `cut` gives them, to compile what takes them."""
        return self.cut(np.zeros((2 * self.size, 3 * self.size, 3), np.uint8))


def frame_clips(crops, number, pixels):
    """A frame as a `VideoClips` of clips of one frame.

    Args:
        crops: the `Crops` that cut it.
        number: of the frame, from 0.
        pixels: its distinct crops, uint8 `[boxes, size, size, 3]`.
    """
    return window_clips(crops, number, pixels[None, None])


def window_clips(crops, number, pixels):
    """A window as a `VideoClips`.

    Args:
        crops: the `Crops` that cut its frames.
        number: of the window, from 0.
        pixels: uint8 `[clips, segments, boxes, size, size, 3]`.
    """
    num_clips, num_segments = pixels.shape[:2]
    clips = [
        Clip(
            number,
            # Clips of equal frames are equal: the number of the clip makes them distinct.
            tuple(range(clip * num_segments, (clip + 1) * num_segments)),
            0,
            box,
            crops.size,
            places=tuple(
                (VIEW, position * num_clips + clip, mirrored)
                for position, (of, mirrored) in enumerate(crops.places)
                if of == number_of_box
            ),
        )
        for number_of_box, box in enumerate(crops.boxes)
        for clip in range(num_clips)
    ]
    # [boxes * clips, segments, size, size, 3]
    stacked = np.moveaxis(pixels, 2, 0).reshape(len(clips), num_segments, *pixels.shape[3:])
    return VideoClips(number, clips, [stacked])
