"""Reads only the sampled frames of a video; decodes images."""

import abc

import cv2
import numpy as np
import simplejpeg

from trn_jax.data import image_header
from trn_jax.data.memory import scratch
from trn_jax.data.orientation import oriented
from trn_jax.errors import UserError, first_line

_JPEG_MAGIC = b"\xff\xd8"
_ORIENTED = (b"\x89PNG", b"RIFF")  # formats besides JPEG whose orientation is applied here
MAX_PIXELS = 100_000_000  # of a frame, by default
USUAL_RATE = 25.0  # frames per second of videos without times and rate, as FFmpeg assumes
_MAX_ASPECT = 100  # long side / short side


class FrameError(UserError):
    """A frame is missing or doesn't decode; the message names the file."""


class CorruptVideo(FrameError):
    """A frame that the file lists doesn't decode; others of the video do.

    Attributes:
        decodable: opens the video again, with only the frames that decode.
    """

    def __init__(self, message, decodable):
        super().__init__(message)
        self.decodable = decodable


def read_video(opening, read):
    """Read a video; if a wanted frame is corrupt, again with only the frames that decode.

    So the result depends on the video alone, not on earlier reads.

    Args:
        opening: opens the `Video`.
        read: called with it, and again if a frame is corrupt.

    Returns:
        What `read` returns.

    Raises:
        FrameError: the video can't be read.
    """
    try:
        with opening() as video:
            return read(video)
    except CorruptVideo as error:
        again = error.decodable
    with again() as video:
        return read(video)


class Video(abc.ABC):
    """An open video; use it in a `with`.

    Attributes:
        path: its name in messages.
        num_frames: number of frames.
        seconds_shown: how long it lasts by its decoded frames, once `shown_at` has decoded all of
            them in order; `None` otherwise.
    """

    path: str
    num_frames: int
    seconds_shown: float | None = None

    @property
    def loss(self):
        """A message about lost frames, or ""."""
        return ""

    @property
    def seconds(self):
        """How long it lasts, in seconds; `None` if unknown."""
        return None

    @property
    def mean_rate(self):
        """Its number of frames per second; `None` if unknown."""
        return self.num_frames / self.seconds if self.seconds else None

    @property
    def listed_times(self):
        """When its frames are shown, float64 `[frames]`, in seconds from the first one.

        `None` if that is unknown, or known only by decoding.
        """
        return None

    @property
    def listed_seconds(self):
        """About how long it lasts, in seconds, known without decoding it; `None` if unknown."""
        return self.seconds

    def count(self):  # noqa: B027
        """Decode a video that was opened without counting its frames, to count them."""

    def shown_at(self, times):
        """Decode the frames that are shown at some times, each once.

        Args:
            times: an iterable of ascending times, in seconds from the first frame.

        Yields:
            Pairs of a time and the frame, uint8 `[height, width, 3]` in RGB, in memory that the
            next frame overwrites; ends with the video.

        Raises:
            FrameError: the video can't be read, or its times are unknown.
        """
        known = self.listed_times
        if known is None:
            raise FrameError(
                f"the frame rate of {self.path} is unknown; give it, such as --frame-rate=12"
            )
        wanted: dict[int, list[float]] = {}
        for time in times:
            number = max(int(np.searchsorted(known, time, side="right")) - 1, 0)
            wanted.setdefault(number, []).append(time)
        for number, frame in self.frames(wanted):
            for time in wanted[number]:
                yield time, frame

    def in_order(self):
        """Decode all frames, in order.

        Yields:
            Pairs of a frame as it is shown, uint8 `[height, width, 3]` in RGB with square pixels,
            and its time in seconds from the first one.

        Raises:
            FrameError: the video can't be read.
        """
        times = self.listed_times
        if times is None:
            times = np.arange(self.num_frames) / USUAL_RATE
        for number, frame in self.frames(range(self.num_frames)):
            yield frame, float(times[number])

    @property
    def notes(self):
        """Messages about anything unusual in the frames read so far."""
        return ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def frames(self, indices, draft=None):
        """Decode some frames, each into memory that the next one overwrites.

        Args:
            indices: numbers of the frames, from 0; repeated ones are decoded once.
            draft: see `decode_image`.

        Yields:
            Pairs of the ascending number and the frame, uint8 `[height, width, 3]` in RGB, all of
            one size.

        Raises:
            FrameError: a frame is missing, doesn't decode, or differs in size from the others.
        """
        first = None
        with scratch() as memory:
            wanted = sorted({int(index) for index in indices})
            for number, frame in self._decode(wanted, memory, draft):
                if first is None:
                    check_shape(frame, f"frame {number} of {self.path}")
                    first = frame.shape
                if frame.shape != first:
                    sizes = sorted({first, frame.shape})
                    raise FrameError(f"the frames of {self.path} differ in size: {sizes}")
                yield number, frame

    def read(self, indices):
        """Decode some frames into a list with one array per index; see `frames`."""
        indices = [int(index) for index in indices]
        found = {number: frame.copy() for number, frame in self.frames(indices)}
        return [found[index] for index in indices]

    @abc.abstractmethod
    def _decode(self, wanted, memory, draft):
        """Yield `(number, frame)` of the ascending numbers `wanted`."""

    def _check_within(self, wanted):
        """Raise `FrameError` unless the video has all frames `wanted`."""
        outside = [number for number in wanted if not 0 <= number < self.num_frames]
        if outside:
            raise FrameError(
                f"{self.path} ends before frame {outside[0]}: it has {self.num_frames} frames"
            )


class StoredImages(Video):
    """A video whose frames are stored as images.

    Attributes:
        advice: next step in messages about corrupt images.
        max_pixels: larger images are unreadable.
        frame_rate: frames per second; `None` if unknown.
    """

    advice: str
    max_pixels: int
    frame_rate: float | None = None

    @property
    def seconds(self):
        """See `Video.seconds`."""
        return self.num_frames / self.frame_rate if self.frame_rate else None

    @property
    def listed_times(self):
        """See `Video.listed_times`."""
        return np.arange(self.num_frames) / self.frame_rate if self.frame_rate else None

    @abc.abstractmethod
    def images(self, numbers):
        """Encoded frames, usually JPEGs: an iterable of `bytes`.

        Raises:
            FrameError: one is missing or unreadable.
        """

    @abc.abstractmethod
    def called(self, number):
        """Name of a frame in messages."""

    def _decode(self, wanted, memory, draft):
        for number, image in zip(wanted, self.images(wanted), strict=True):
            name = self.called(number)
            yield number, decode_image(image, name, self.advice, memory, draft, self.max_pixels)


def decode_image(data, name, advice, memory, draft=None, max_pixels=MAX_PIXELS):
    """Decode a JPEG, or another image that OpenCV reads, in its EXIF orientation.

    Args:
        data: its `bytes`.
        name: its name in messages.
        advice: next step in messages.
        memory: the `memory.Scratch` to decode into.
        draft: decode JPEGs approximately, most pixels off by one at most, and at a half, a quarter
            or an eighth of their size if its short side is at least this; 0: at full size; `None`:
            decode exactly.
        max_pixels: larger images are rejected before memory is allocated.

    Returns:
        uint8 `[height, width, 3]` in RGB.

    Raises:
        FrameError: it doesn't decode.
    """
    problem = f"can't decode {name} ({len(data)} bytes)"
    try:
        if data.startswith(_JPEG_MAGIC):
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        else:
            width, height = image_header.size(data) or (0, 0)
        if width * height > max_pixels:
            raise FrameError(
                f"{problem}: its header says {width} x {height} pixels, more than "
                f"data.max_pixels={max_pixels}; {advice}"
            )
        if data.startswith(_JPEG_MAGIC):
            pixels = _decode_jpeg(data, memory.array(height, width, 3), draft)
        else:
            pixels = _decode_other(data) if width * height else None
    except (ValueError, MemoryError, cv2.error) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"{problem}: {first_line(error)}; {advice}") from None
    if pixels is None:
        raise FrameError(f"{name} is neither a JPEG nor another image that OpenCV reads; {advice}")
    return oriented(pixels, *image_header.orientation(data))


def _decode_jpeg(data, buffer, draft):
    fast: dict[str, int] = {}
    if draft is not None:
        fast = dict(fastdct=True, fastupsample=True)
    if draft:
        fast |= dict(min_height=draft, min_width=draft, min_factor=2)
    return simplejpeg.decode_jpeg(data, "RGB", buffer=buffer, **fast)


def _decode_other(data):
    # Releases of OpenCV differ in the formats whose orientation they apply.
    flags = cv2.IMREAD_COLOR_RGB
    if data.startswith(_ORIENTED):
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def check_shape(pixels, name):
    """Check the aspect ratio of a frame `[height, width, 3]`, so that it fits into memory scaled.

    Raises:
        FrameError: it is too extreme.
    """
    height, width, _ = pixels.shape
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise FrameError(
            f"{name} has {width} x {height} pixels; expected sides that differ by at most a factor "
            f"of {_MAX_ASPECT}"
        )
