"""Videos that PyAV (FFmpeg) decodes in order, from the first frame to the last."""

import abc
import math
from typing import Any

from trn_jax.data.containers import decodable, explained, pyav
from trn_jax.data.decode import USUAL_RATE, CorruptVideo, Video, check_shape
from trn_jax.data.frame_index import AscendingClock, shown_in_order
from trn_jax.data.orientation import display_matrix, oriented, squared, symmetry

_MAX_ASPECT = 10  # width of a pixel by its height


def rate_of(stream):
    """Frames per second of a video stream, 0 if unknown."""
    return float(stream.average_rate or stream.guessed_rate or 0)


class OrderedVideo(Video):
    """A video that can be decoded in order; frames are as they are shown, of the first one's size.

    Args:
        path: its name in messages.
        max_pixels: frames with more pixels are not decoded.

    Attributes:
        num_frames: number of frames; 0 until they are known.
        num_lost: further frames, which don't decode; 0 if unknown.
        num_scaled: frames read so far whose size differs from that of the first one.
        rate: frames per second by the file, 0 if unknown.
    """

    rate: float
    _stream: Any
    _num_streams: int
    _index: Any = None  # a `FrameIndex`, if the packets number the frames
    _clock: AscendingClock | None = None  # of times that are not those of an index

    def __init__(self, path, *, max_pixels):
        self.path = path
        self.num_frames = self.num_lost = self.num_scaled = 0
        self._size = 0, 0
        self._max_pixels = max_pixels
        # Shared by all frames; one per frame takes three times as long.
        self._reformatter = pyav().video.reformatter.VideoReformatter()

    @property
    def loss(self):
        """See `Video.loss`."""
        if not self.num_lost:
            return ""
        return (
            f"{self.path}: {self.num_lost} of {self.num_frames + self.num_lost} frames are missing "
            f"or don't decode; the other {self.num_frames} are used"
        )

    @property
    def seconds(self):
        """See `Video.seconds`; the number of frames by the rate."""
        return self.num_frames / self.rate if self.rate else None

    @property
    def notes(self):
        """See `Video.notes`."""
        notes = [self.loss] if self.loss else []
        if self._num_streams > 1:
            notes.append(
                f"{self.path} has {self._num_streams} video streams; stream {self._stream.index} "
                "is used"
            )
        if self._clock and self._clock.jumps:
            notes.append(self._clock.note(self.path))
        if self.num_scaled:
            width, height = self._size
            notes.append(
                f"{self.path} changes its frame size; {self.num_scaled} frames are scaled to "
                f"{width} x {height}, the size of the first one"
            )
        return tuple(notes)

    def shown_at(self, times):
        """See `Video.shown_at`; without an index, everything is decoded in order."""
        last = -1.0
        if self._index is not None:
            times = list(times)
            try:
                for last, frame in super().shown_at(times):
                    yield last, frame
                return
            except CorruptVideo:
                times = [time for time in times if time > last]
        yield from self._shown_in_order(iter(times))

    def _shown_in_order(self, times):
        """`shown_at` by decoding all frames, which also counts them; sets `seconds_shown`."""
        step, last, pixels = 1 / (self.rate or USUAL_RATE), None, None
        for time, frame in shown_in_order(self._decoded_from(step), times, step):
            if frame is not last:
                last, pixels = frame, self._pixels(frame)
            yield time, pixels

    def in_order(self):
        """See `Video.in_order`; without an index, those that decode, however many there are."""
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
            aspect = 1.0  # no camera has such pixels
        for frame, time in self._decoded_from(1 / (self.rate or USUAL_RATE)):
            is_turned, *_ = symmetry(display_matrix(frame))
            yield squared(self._pixels(frame), 1 / aspect if is_turned else aspect), time

    def _decoded_from(self, step):
        """Decode all frames that decode: pairs of a frame and the time from which it is shown.

        `step` is the time from frame to frame where they have none, or wrong ones, see
        `frame_index.AscendingClock`.
        """
        first, failed, number, start = math.nan, list[Exception](), -1, 0.0
        # Behind frames that don't decode, those of a file with an index have their times.
        self._clock = clock = AscendingClock(1 / step, trusted=self._index is not None)
        with explained(self.path), self._reopened() as (container, stream, _):
            for number, frame in enumerate(decodable(container, stream, failed)):
                if number == 0:
                    self._size = frame.width, frame.height
                time = math.nan if frame.time is None else float(frame.time)
                first = time - number * step if math.isnan(first) else first
                start = clock.time(time - first)
                yield frame, start
        if number >= 0:
            self.seconds_shown = start + step
            self._count(number + 1, len(failed))

    def stream(self):
        """Decode the whole video once.

        Yields:
            Pairs of a frame, uint8 `[height, width, 3]` in RGB, and its time in seconds or `None`.

        Raises:
            FrameError: no frame decodes.
        """
        num_frames, failed = 0, list[Exception]()
        with explained(self.path), self._reopened() as (container, stream, _):
            for num_frames, frame in enumerate(decodable(container, stream, failed), start=1):
                if num_frames == 1:
                    self._size = frame.width, frame.height
                pixels = self._pixels(frame)
                check_shape(pixels, f"frame {num_frames} of {self.path}")
                yield pixels, frame.time
        self._count(num_frames, len(failed))

    def _read_in_order(self, wanted):
        """Decode the frames `wanted`, starting at the first frame of the video."""
        last, wanted = wanted[-1], set(wanted)
        with self._reopened() as (container, stream, _):
            for number, frame in enumerate(decodable(container, stream, [])):
                if number in wanted:
                    yield number, frame
                if number == last:
                    break

    def _decode(self, wanted, memory, draft):
        for number, frame in self._read_in_order(wanted):
            yield number, self._pixels(frame)

    def _pixels(self, frame):
        """A frame as it is shown, uint8 `[height, width, 3]` in RGB."""
        scaled = {}
        if (frame.width, frame.height) != self._size:
            self.num_scaled += 1
            width, height = self._size
            scaled = dict(width=width, height=height, interpolation="BICUBIC")
        rgb = self._reformatter.reformat(frame, format="rgb24", **scaled)
        return oriented(rgb.to_ndarray(), *symmetry(display_matrix(frame)))

    @abc.abstractmethod
    def _reopened(self):
        """The video from its first frame on; see `containers.opened`."""

    @abc.abstractmethod
    def _count(self, num_frames, num_failed):
        """Note how many frames and how many errors decoding everything gave."""
