"""Folders with one image per frame as videos."""

import dataclasses
import os
import re

from trn_jax.data.decode import MAX_PIXELS, FrameError, StoredImages

_ADVICE = "extract this video again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameFolders:
    """Videos as folders with one image per frame: a source of videos.

    A source has `open(record)`, which returns a `Video`, and `check(record)`, whether the video
    exists.

    Attributes:
        pattern: file name by frame number, such as `"{:05d}.jpg"`.
        first_frame: number of frame 0, usually 1.
        max_pixels: larger images are unreadable.
        frame_rate: frames per second; `None` if unknown.
    """

    pattern: str
    first_frame: int
    max_pixels: int = MAX_PIXELS
    frame_rate: float | None = None

    def open(self, record):
        """The folder of a `Record`, or the part of it, as a video; use it in a `with`."""
        _check_is_folder(record)
        return _FrameFolder(self, record)

    def check(self, record):
        """Check that first and last frame of a folder, or of the part of it, exist.

        Raises:
            FrameError: they don't; the message has the names found and the setting to change.
        """
        _check_is_folder(record)
        folder, zero = record.path, self.pattern.format(0)
        first = self.first_frame + (record.offset or 0)
        if first == 1 and os.path.exists(os.path.join(folder, zero)):
            raise FrameError(
                f"the frames in {folder} are numbered from 0 ({zero!r} exists); "
                "set data.first_frame=0"
            )
        for number in (first, first + record.num_frames - 1):
            name = self.pattern.format(number)
            if not os.path.exists(os.path.join(folder, name)):
                raise FrameError(_explain_missing(folder, name))


class _FrameFolder(StoredImages):
    """A folder of images, or a part of one, with the number of frames in the list."""

    advice = _ADVICE
    notes: tuple[str, ...] = ()  # of who opens a part of a folder

    def __init__(self, source, record):
        self.path = record.path
        self.num_frames = record.num_frames
        self.max_pixels = source.max_pixels
        self._pattern = source.pattern
        self._first = source.first_frame + (record.offset or 0)
        self.frame_rate = source.frame_rate

    def images(self, numbers):
        return map(read_image_file, map(self.called, numbers))

    def called(self, number):
        name = self._pattern.format(number + self._first)
        return os.path.join(self.path, name)


def _check_is_folder(record):
    if not record.num_frames:
        raise FrameError(
            f"{record.path} is a video file, but data.source='frames' expects folders; a list has "
            "only files or only folders"
        )


def read_image_file(path):
    """Read the file of a frame.

    Raises:
        FrameError: it is missing, empty or unreadable; the message has the names found.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError:
        raise FrameError(_explain_missing(*os.path.split(path))) from None
    except OSError as error:
        raise FrameError(f"can't read {path}: {error.strerror}") from None
    if not data:
        raise FrameError(f"{path} is empty (0 bytes); {_ADVICE}")
    return data


def _explain_missing(folder, name):
    if not os.path.isdir(folder):
        return (
            f"folder {folder} not found; check data_dir and data.frames, or the first column of "
            "the list"
        )
    try:
        files = sorted(os.listdir(folder))
    except OSError as error:
        return f"can't read {folder}: {error.strerror}"
    images = [f for f in files if f.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
    if not images:
        return f"frame {name!r} not found in {folder}, which has no images"
    message = f"frame {name!r} not found in {folder}"
    pattern = guess_pattern(images[0])
    number = re.search(r"(\d+)\.\w+$", name)
    if pattern is None or number is None or pattern.format(int(number[1])) != name:
        hint = f"; set data.frame_pattern={pattern!r}" if pattern else ""
        return f"{message} (found {images[0]!r}){hint}"
    return (
        f"{message}: the folder has {len(images)} images, {images[0]!r} to {images[-1]!r}, fewer "
        "than the list says; correct its second column, or data.first_frame"
    )


def guess_pattern(name):
    """Pattern of a file name that ends in a number, or `None`."""
    stem, extension = os.path.splitext(name)
    digits = len(stem) - len(stem.rstrip("0123456789"))
    return f"{stem[:-digits]}{{:0{digits}d}}{extension}" if digits else None
