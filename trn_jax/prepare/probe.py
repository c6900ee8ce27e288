"""Properties of a video file, from decoding parts of it."""

import dataclasses
from typing import Any

from trn_jax.data.decode import MAX_PIXELS, read_video
from trn_jax.data.videos import VideoFile


@dataclasses.dataclass(frozen=True)
class Probe:
    """Properties of a video file, from decoding parts of it.

    Attributes:
        num_frames: number of frames.
        size: width and height of the frames in pixels.
        notes: messages about anything unusual.
        seconds: see `VideoFile.seconds`; 0 if unknown.
        times: see `VideoFile.times`; empty unless it was timed.
    """

    num_frames: int
    size: tuple[int, int]
    notes: tuple[str, ...]
    seconds: float = 0.0
    times: Any = ()


def probe(path, *, max_pixels=MAX_PIXELS, timed=False):
    """Decode the first, the middle and the last group of pictures of a video file.

    Args:
        path: the file.
        max_pixels: see `VideoFile`.
        timed: whether to find the times of its frames.

    Returns:
        A `Probe`.

    Raises:
        FrameError: the file can't be read.
    """

    def read(video):
        last = video.num_frames - 1
        size = 0, 0
        for _, frame in video.frames({n for m in (0, last // 2, last) for n in video.group(m)}):
            size = frame.shape[1], frame.shape[0]
        times = video.times if timed else ()
        return Probe(video.num_frames, size, video.notes, video.seconds or 0.0, times)

    return read_video(lambda: VideoFile(path, max_pixels=max_pixels, timed=timed), read)
