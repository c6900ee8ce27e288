"""Writer of the frames of one video as JPEGs: timing, scaling and hash."""

import hashlib
import math
import os

import cv2
import simplejpeg

from trn_jax.data.decode import FrameError
from trn_jax.data.videos import VideoFile

_CHUNK_SIZE = 1 << 20  # bytes
_DEFAULT_FPS = 25.0  # for videos without a frame rate
_CLOCK_STEP = 1e-3  # seconds; some containers round times to it


def write_frames(path, folder, settings):
    """Write the frames of a video file to an existing folder.

    Args:
        path: the video file.
        folder: the folder.
        settings: `extraction.Settings`.

    Returns:
        The entry of the manifest: a dict of hash, file size, number and size of frames, and rate.

    Raises:
        FrameError: the video is unreadable.
        OSError: a frame cannot be written.
    """
    cv2.setNumThreads(1)
    count, size = 0, None
    with VideoFile(path, count=False) as video:
        num_bytes, sha256 = _hash(path)
        rate = video.rate or _DEFAULT_FPS
        frames = _timed(video.stream(), rate)
        if settings.fps is not None:
            frames = resampled(frames, settings.fps)
        for count, (_, frame) in enumerate(frames, start=1):
            frame = _scale(frame, settings.short_side)
            size = (frame.shape[1], frame.shape[0])
            data = simplejpeg.encode_jpeg(frame, settings.quality, "RGB", "420")
            with open(os.path.join(folder, settings.pattern.format(count)), "wb") as file:
                file.write(data)
        notes = list(video.notes)
    return {
        "sha256": sha256,
        "bytes": num_bytes,
        "frames": count,
        "size": size,
        "fps": settings.fps or rate,
        **({"notes": notes} if notes else {}),
    }


def _hash(path):
    """Size in bytes and SHA-256 of a file."""
    sha256, num_bytes = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_SIZE):
                sha256.update(chunk)
                num_bytes += len(chunk)
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from None
    return num_bytes, sha256.hexdigest()


def _timed(frames, rate):
    """Yield `(seconds, frame)` with increasing times from 0, from `VideoFile.stream`."""
    first, last = None, -math.inf
    for frame, seconds in frames:
        if first is None:
            first = seconds = seconds or 0.0
        seconds = last if seconds is None else seconds - first
        if seconds <= last:  # the last frames of some codecs have no time
            seconds = last + 1 / rate
        last = seconds
        yield seconds, frame


def resampled(frames, fps):
    """Yield the frame on the screen at the times 0, 1 / fps, 2 / fps, ..., as `(seconds, frame)`.

    `frames` are pairs `(seconds, frame)` at increasing times.
    """
    count, shown = 0, None
    for seconds, frame in frames:
        while shown is not None and count / fps < seconds - _CLOCK_STEP:
            yield count / fps, shown
            count += 1
        shown = frame
    if shown is not None and count / fps <= seconds + _CLOCK_STEP:
        yield count / fps, shown


def _scale(frame, short_side):
    height, width = frame.shape[:2]
    if not short_side or min(height, width) == short_side:
        return frame
    scale = short_side / min(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
