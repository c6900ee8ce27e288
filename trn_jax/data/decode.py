"""Reading the frames of a video that are used, and no others."""

import abc
import dataclasses
import os
import re

import cv2
import numpy as np
import simplejpeg

from trn_jax.data import image_header
from trn_jax.data.memory import scratch
from trn_jax.data.orientation import oriented
from trn_jax.errors import UserError, first_line

_JPEG_MAGIC = b"\xff\xd8"
_TURNED = (b"\x89PNG", b"RIFF")  # formats whose orientation is read here, besides JPEG's
_ADVICE = "extract this video again"
MAX_PIXELS = 100_000_000  # of a frame, by default
_MOST_OBLONG = 100  # long side / short side


class FrameError(UserError):
    """A frame is missing or cannot be decoded; the message names the file."""


class CorruptVideo(FrameError):
    """A frame does not decode that the file lists; others of the video do.

    Attributes:
        decodable: opens the video again as one that has only the frames that decode.
    """

    def __init__(self, message, decodable):
        super().__init__(message)
        self.decodable = decodable


def read_video(opening, read):
    """Read a video, without the frames that turn out not to decode.

    What is read is a function of the video alone, not of what was read before: so every reader
    begins with the frames that a file lists, as long as none of those that it wants is damaged.

    Args:
        opening: opens the `Video`.
        read: called with it; and, if a frame is damaged, again, with only those that decode.

    Returns:
        What `read` returns.

    Raises:
        FrameError: the video cannot be read.
    """
    try:
        with opening() as video:
            return read(video)
    except CorruptVideo as error:
        again = error.decodable
    with again() as video:
        return read(video)


class Video(abc.ABC):
    """A video that is open; use it in a `with`.

    Attributes:
        path: what it is called, for messages.
        num_frames: how many frames there are.
    """

    path: str
    num_frames: int

    @property
    def loss(self):
        """A message about frames that are lost, or ""."""
        return ""

    @property
    def notes(self):
        """What is unusual, for people, as far as the frames that were read tell."""
        return ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None  # Most videos have nothing to close.

    def frames(self, indices, draft=None):
        """Decode some frames, one after the other, into memory that the next one overwrites.

        Args:
            indices: which ones, counted from 0; a frame that occurs twice is decoded once.
            draft: see `decode_image`.

        Yields:
            Pairs of the ascending number of a frame and the frame, uint8 `[height, width, 3]` in
            RGB, all of one size.

        Raises:
            FrameError: a frame is missing, cannot be decoded, or differs in size from the others.
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
        """Decode some frames, as `frames` does, into a list with one array per index."""
        indices = [int(index) for index in indices]
        found = {number: frame.copy() for number, frame in self.frames(indices)}
        return [found[index] for index in indices]

    @abc.abstractmethod
    def _decode(self, wanted, memory, draft):
        """Yield the frames of the ascending numbers `wanted` with their numbers."""


class StoredImages(Video):
    """A video whose frames are stored as images, one by one.

    Attributes:
        advice: what to do if an image is damaged, for messages.
        max_pixels: larger images are unreadable.
    """

    advice: str
    max_pixels: int

    @abc.abstractmethod
    def images(self, numbers):
        """Frames as they are stored, JPEGs as a rule: an iterable of `bytes`.

        Raises:
            FrameError: one is missing or unreadable.
        """

    @abc.abstractmethod
    def called(self, number):
        """The name of a frame, for messages."""

    def _decode(self, wanted, memory, draft):
        for number, image in zip(wanted, self.images(wanted), strict=True):
            name = self.called(number)
            yield number, decode_image(image, name, self.advice, memory, draft, self.max_pixels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameFolders:
    """Videos as folders with one image per frame: a source of videos.

    A source has `open(record)`, which gives a `Video`; and `check(record)`, which looks whether the
    video is there at all.

    Attributes:
        pattern: file name for the number of a frame, such as `"{:05d}.jpg"`.
        first_frame: the number of frame 0, usually 1.
        max_pixels: larger images are unreadable.
    """

    pattern: str
    first_frame: int
    max_pixels: int = MAX_PIXELS

    def open(self, record):
        """The folder of a `Record` as a video; use it in a `with`."""
        _check_is_folder(record)
        return _FrameFolder(self, record.path, record.num_frames)

    def check(self, record):
        """Look whether first and last frame of a folder are there, under the names expected.

        Raises:
            FrameError: they are not; the message says what is there, and which setting to change.
        """
        _check_is_folder(record)
        folder, zero = record.path, self.pattern.format(0)
        if self.first_frame == 1 and os.path.exists(os.path.join(folder, zero)):
            raise FrameError(
                f"the frames in {folder} are numbered from 0 ({zero!r} exists); "
                "set data.first_frame=0"
            )
        for number in (self.first_frame, self.first_frame + record.num_frames - 1):
            name = self.pattern.format(number)
            if not os.path.exists(os.path.join(folder, name)):
                raise FrameError(_explain_missing(folder, name))


class _FrameFolder(StoredImages):
    """A folder of images as a video, which has as many frames as the list says."""

    advice = _ADVICE

    def __init__(self, source, path, num_frames):
        self.path = path
        self.num_frames = num_frames
        self.max_pixels = source.max_pixels
        self._source = source

    def images(self, numbers):
        return map(read_image_file, map(self.called, numbers))

    def called(self, number):
        name = self._source.pattern.format(number + self._source.first_frame)
        return os.path.join(self.path, name)


def _check_is_folder(record):
    if not record.num_frames:
        raise FrameError(
            f"{record.path} is a video file by its name, but folders of frames are expected; "
            "lists name one or the other throughout, as data.source says"
        )


def read_image_file(path):
    """The content of the file of a frame.

    Raises:
        FrameError: it is missing, empty or unreadable; the message says what is there instead.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise FrameError(_explain_missing(*os.path.split(path))) from None
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise FrameError(f"{path} is empty (0 bytes); {_ADVICE}")
    return data


def decode_image(data, name, advice, memory, draft=None, max_pixels=MAX_PIXELS):
    """Decode a JPEG, or another image that OpenCV reads; turned as its EXIF data says.

    Args:
        data: its `bytes`.
        name: what it is called, for messages.
        advice: what to do if it is damaged, for messages.
        memory: the `memory.Scratch` to decode into.
        draft: short side in pixels that suffices: JPEGs are decoded approximately, the pixels
            mostly one level off, and at a half, a quarter or an eighth of their size if that is as
            large; 0: at their own size; `None`: exactly.
        max_pixels: larger images are refused before memory is taken for them.

    Returns:
        uint8 `[height, width, 3]` in RGB.

    Raises:
        FrameError: it cannot be decoded.
    """
    problem = f"cannot decode {name} ({len(data)} bytes)"
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
    # Releases of OpenCV differ in which formats they turn.
    flags = cv2.IMREAD_COLOR_RGB
    if data.startswith(_TURNED):
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def check_shape(pixels, name):
    """Check that a frame can be scaled to a usual short side: `[height, width, 3]`.

    Raises:
        FrameError: it is so oblong that it would not fit into memory then.
    """
    height, width, _ = pixels.shape
    if max(height, width) > _MOST_OBLONG * min(height, width):
        raise FrameError(
            f"{name} has {width} x {height} pixels; sides that differ by more than a factor of "
            f"{_MOST_OBLONG} are not read"
        )


def _explain_missing(folder, name):
    if not os.path.isdir(folder):
        return (
            f"folder {folder} not found; check data_dir and data.frames, or the first column of "
            "the list"
        )
    files = sorted(os.listdir(folder))
    images = [f for f in files if f.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
    if not images:
        return f"frame {name!r} not found in {folder}, which has no images at all"
    message = f"frame {name!r} not found in {folder}"
    pattern = guess_pattern(images[0])
    number = re.search(r"(\d+)\.\w+$", name)
    if pattern is None or number is None or pattern.format(int(number[1])) != name:
        hint = f"; set data.frame_pattern={pattern!r}" if pattern else ""
        return f"{message} (found {images[0]!r}){hint}"
    return (
        f"{message}: the folder has {len(images)} images, {images[0]!r} to {images[-1]!r}, and the "
        "list says that there are more; correct its second column, or data.first_frame"
    )


def guess_pattern(name):
    """The pattern of a file name that ends in a number, or `None`."""
    stem, extension = os.path.splitext(name)
    digits = len(stem) - len(stem.rstrip("0123456789"))
    return f"{stem[:-digits]}{{:0{digits}d}}{extension}" if digits else None
