"""Frames of video files by PyAV (FFmpeg): exact frame counts, and no more decoding than needed."""

import bisect
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

from trn_jax.data.containers import check_file, decodable, explained, opened, pyav
from trn_jax.data.decode import (
    MAX_PIXELS,
    CorruptVideo,
    FrameError,
    Video,
    check_shape,
    read_video,
)
from trn_jax.data.frame_index import read_packets
from trn_jax.data.orientation import display_matrix, oriented, symmetry

EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp"),
    *(".mts", ".m2ts", ".ts", ".ogv", ".vob", ".gif", ".3g2", ".asf", ".divx", ".dv", ".f4v"),
    *(".m2v", ".mxf"),
)


def is_video(path):
    """Whether a file name is that of a video; hidden files (macOS's `._clip.mp4`) are not."""
    return path.lower().endswith(EXTENSIONS) and not os.path.basename(path).startswith(".")


@dataclasses.dataclass(frozen=True)
class VideoFiles:
    """Video files as a source of videos, see `decode.FrameFolders`.

    Attributes:
        max_pixels: frames with more pixels are unreadable.

    Raises:
        UserError: PyAV is not installed.
    """

    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        pyav()

    def open(self, record):
        """The file of a `Record` as a video; use it in a `with`."""
        return VideoFile(record.path, max_pixels=self.max_pixels)

    def check(self, record):
        """Check that the file exists.

        Raises:
            FrameError: it doesn't; the message names what is there instead.
        """
        check_file(record.path)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Properties of a video file, from decoding parts of it.

    Attributes:
        num_frames: number of frames.
        size: width and height of the frames in pixels.
        notes: messages about anything unusual.
    """

    num_frames: int
    size: tuple[int, int]
    notes: tuple[str, ...]


def probe(path, *, max_pixels=MAX_PIXELS):
    """Decode the first, the middle and the last group of pictures of a video file.

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
        return Probe(video.num_frames, size, video.notes)

    return read_video(lambda: VideoFile(path, max_pixels=max_pixels), read)


class VideoFile(Video):
    """A video file; frames are numbered in display order.

    Frames that are not shown, such as those cut by an edit list, don't count; every frame of a
    variable rate counts once. The display matrix is applied, so videos stand upright and those of
    front cameras are not mirrored. Frames are scaled to the size of the first one.

    The frame count comes from the packets, without decoding. If they are visibly corrupt, and with
    `decodable`, it is the number of frames that FFmpeg decodes, so everything is decoded once.

    Args:
        path: the file.
        max_pixels: frames with more pixels are not decoded.
        decodable: count the frames that decode instead of those that the file lists.
        count: false: don't count; `num_frames` is 0 until `stream` has ended.

    Attributes:
        num_frames: exact number of frames.
        num_lost: further frames that the file lists or has packets of; 0 if unknown.
        num_scaled: frames read so far whose size differs from that of the first one.
        rate: frames per second by the file, 0 if unknown.

    Raises:
        FrameError: the file is missing, corrupt, or has no video.
    """

    def __init__(self, path, *, max_pixels=MAX_PIXELS, decodable=False, count=True):
        self.path = path
        self.num_frames = self.num_lost = self.num_scaled = 0
        self._size = 0, 0
        self._max_pixels = max_pixels
        # Shared by all frames; one per frame takes three times as long.
        self._reformatter = pyav().video.reformatter.VideoReformatter()
        with contextlib.ExitStack() as stack, explained(path):
            check_file(path)
            status = os.stat(path)
            version = path, max_pixels, status.st_mtime_ns, status.st_size
            self._container, self._stream, self._num_streams = stack.enter_context(
                opened(path, max_pixels)
            )
            context = self._stream.codec_context
            self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
            self._packets = read_packets(self._container, self._stream, path)
            self._index: Any = self._packets.index
            if decodable:
                self._index = None
            if count and self._index is None:
                num_frames, num_failed, self._size = _count_frames(*version)
                self._count(num_frames, num_failed)
            elif count:
                # FFmpeg decodes H.264 as it opens a file; other sizes are those of the container.
                is_known = context.name == "h264" and self._packets.begins_with_shown
                self._size = (context.width, context.height) if is_known else _first_size(*version)
                self._count(len(self._index.times) if all(self._size) else 0, 0)
            self._open = stack.pop_all()

    def __exit__(self, *_):
        self._open.close()

    def _count(self, num_frames, num_failed):
        if not num_frames:
            raise FrameError(f"{self.path} has no frames that can be decoded")
        self.num_frames = num_frames
        if num_failed or not self._packets.is_whole:
            self.num_lost = max(self._packets.num_listed - num_frames, 0)

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
    def notes(self):
        """See `Video.notes`."""
        notes = [self.loss] if self.loss else []
        if self._num_streams > 1:
            notes.append(
                f"{self.path} has {self._num_streams} video streams; stream {self._stream.index} "
                "is used"
            )
        if self.num_scaled:
            width, height = self._size
            notes.append(
                f"{self.path} changes its frame size; {self.num_scaled} frames are scaled to "
                f"{width} x {height}, the size of the first one"
            )
        return tuple(notes)

    def times(self, indices):
        """Times of some frames in seconds from the first frame, or `None` if they are unknown.

        They come from the time stamps, or from the frame rate where only decoding counts frames.
        """
        if self._index is not None and self._stream.time_base:
            start, unit = self._index.times[0], float(self._stream.time_base)
            return [(self._index.times[number] - start) * unit for number in indices]
        return [number / self.rate for number in indices] if self.rate else None

    def group(self, number):
        """The group of pictures of a frame, a `range` of frames."""
        if self._index is None:
            return range(number, number + 1)
        keys = self._index.keys
        after = bisect.bisect_right(keys, number)
        first = keys[after - 1] if after else 0
        return range(first, keys[after] if after < len(keys) else self.num_frames)

    def stream(self):
        """Decode the whole video once.

        Yields:
            Pairs of a frame, uint8 `[height, width, 3]` in RGB, and its time in seconds or `None`.

        Raises:
            FrameError: no frame decodes.
        """
        num_frames, failed = 0, list[Exception]()
        with explained(self.path), opened(self.path, self._max_pixels) as (container, stream, _):
            for num_frames, frame in enumerate(decodable(container, stream, failed), start=1):
                if num_frames == 1:
                    self._size = frame.width, frame.height
                pixels = self._pixels(frame)
                check_shape(pixels, f"frame {num_frames} of {self.path}")
                yield pixels, frame.time
        self._count(num_frames, len(failed))

    def _decode(self, wanted, memory, draft):
        """Decode the frames `wanted`, each from the key frame before it, or all in order."""
        outside = [number for number in wanted if not 0 <= number < self.num_frames]
        if outside:
            raise FrameError(
                f"{self.path} ends before frame {outside[0]}: it has {self.num_frames} frames"
            )
        found = -1
        try:
            decoded = self._read_in_order(wanted) if self._index is None else self._seek(wanted)
            for found, frame in decoded:
                yield found, self._pixels(frame)
        except pyav().FFmpegError:
            raise self._corrupt(found, wanted) from None
        if found != wanted[-1]:
            raise self._corrupt(found, wanted)

    def _corrupt(self, found, wanted):
        """The error for a frame that is not where the index has it."""
        missing = wanted[bisect.bisect_right(wanted, found)]
        message = f"frame {missing} of {self.num_frames} of {self.path} doesn't decode"
        if self._index is None:
            return FrameError(f"{message}; the file changed while it was read")
        again = functools.partial(VideoFile, self.path, max_pixels=self._max_pixels, decodable=True)
        return CorruptVideo(message, again)

    def _seek(self, wanted):
        """Decode the frames `wanted`, seeking to the key frames that they need."""
        index, position = self._index, None
        times = {index.times[number] for number in wanted}
        decoded: Iterator = iter(())
        for rank, number in enumerate(wanted):
            before = bisect.bisect_right(index.keys, number) - 1
            key = index.keys[before] if before >= 0 else 0
            if position is None or key > position:
                self._container.seek(index.times[key], stream=self._stream)
                decoded = self._decode_only(times)
            for frame in decoded:
                # After a seek, frames before the key frame may come first.
                position = index.numbers.get(frame.pts, -1)
                if frame.is_corrupt and position >= key:
                    # The decoder fills lost parts from earlier frames, so those are needed, too.
                    return
                if position >= number:
                    break
            if position != number:
                # In streams without an index, a seek may end behind its target.
                for found, frame in self._read_in_order(wanted[rank:]):
                    if frame.pts != index.times[found]:
                        return  # frames are lost, so the numbers of the others are wrong
                    yield found, frame
                return
            yield number, frame

    def _decode_only(self, times):
        """Decode from here on, without frames that are neither at `times` nor references."""
        for packet in self._container.demux(self._stream):
            # FFmpeg decodes no other frame from a non-reference one, so it may be skipped.
            shown = packet.pts in times
            self._stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
            yield from packet.decode()

    def _read_in_order(self, wanted):
        """Decode the frames `wanted`, starting at the first frame of the video."""
        last, wanted = wanted[-1], set(wanted)
        with opened(self.path, self._max_pixels) as (container, stream, _):
            for number, frame in enumerate(decodable(container, stream, [])):
                if number in wanted:
                    yield number, frame
                if number == last:
                    break

    def _pixels(self, frame):
        """A frame as it is shown, uint8 `[height, width, 3]` in RGB."""
        scaled = {}
        if (frame.width, frame.height) != self._size:
            self.num_scaled += 1
            width, height = self._size
            scaled = dict(width=width, height=height, interpolation="BICUBIC")
        rgb = self._reformatter.reformat(frame, format="rgb24", **scaled)
        return oriented(rgb.to_ndarray(), *symmetry(display_matrix(frame)))


@functools.lru_cache(maxsize=100_000)
def _count_frames(path, max_pixels, _modified, _size):
    """Decode a file: number of frames, number of errors, size of the first frame."""
    failed: list[Exception] = []
    count, size = 0, (0, 0)
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for count, frame in enumerate(decodable(container, stream, failed), start=1):
            size = size if count > 1 else (frame.width, frame.height)
    return count, len(failed), size


@functools.lru_cache(maxsize=100_000)
def _first_size(path, max_pixels, _modified, _size):
    """Width and height of the first frame of a file."""
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for frame in decodable(container, stream, []):
            return frame.width, frame.height
    return 0, 0
