"""Frames of video files by PyAV (FFmpeg): exact frame counts, and no more decoding than needed."""

import bisect
import contextlib
import dataclasses
import functools
import os

import numpy as np

from trn_jax.data.containers import check_file, explained, opened, pyav
from trn_jax.data.decode import MAX_PIXELS, CorruptVideo, FrameError
from trn_jax.data.frame_index import (
    AscendingClock,
    KeptPackets,
    count_frames,
    first_size,
    read_packets,
    time_frames,
)
from trn_jax.data.ordered_videos import OrderedVideo, rate_of
from trn_jax.data.parts import VideoPart
from trn_jax.data.seeking import decode_from_keys

EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp"),
    *(".mts", ".m2ts", ".ts", ".ogv", ".vob", ".gif", ".3g2", ".asf", ".divx", ".dv", ".f4v"),
    *(".m2v", ".mxf", ".h264", ".h265", ".hevc"),
)  # not .264 and .265, as lists have times such as 1.264
# Files are opened in every epoch, and for every part of them. Reading all packets each time takes a
# good part of the time, and these containers can be read at any place without it.
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_kept_packets = KeptPackets(10_000_000)  # frames, of 8 bytes each; a file takes 1 kB besides


def is_video(path):
    """Whether a file name is that of a video; hidden files (macOS's `._clip.mp4`) are not."""
    return path.lower().endswith(EXTENSIONS) and not os.path.basename(path).startswith(".")


@dataclasses.dataclass(frozen=True)
class VideoFiles:
    """Video files as a source of videos, see `frame_folders.FrameFolders`.

    Attributes:
        max_pixels: frames with more pixels are unreadable.

    Raises:
        UserError: PyAV is not installed.
    """

    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        pyav()

    def open(self, record, *, decodable=False):
        """The file of a `Record`, or the part of it, as a video; use it in a `with`.

        For `decodable`, see `VideoFile`.
        """
        opening = functools.partial(
            VideoFile, record.path, max_pixels=self.max_pixels, decodable=decodable
        )
        if record.start is None:
            return opening()
        return VideoPart(functools.partial(opening, timed=True), record.start, record.end)

    def check(self, record):
        """Check that the file exists.

        Raises:
            FrameError: it doesn't; the message names what is there instead.
        """
        check_file(record.path)


class VideoFile(OrderedVideo):
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
        timed: `times` will be read: where frames are decoded to count them, this notes their times,
            too.
        count: false: decode nothing to count frames; without an index, `num_frames` is 0 until
            `count` was called, or `stream` or `shown_at` has ended.

    Attributes:
        num_frames: exact number of frames.
        num_lost: further frames that the file lists or has packets of; 0 if unknown.

    Raises:
        FrameError: the file is missing, corrupt, or has no video.
    """

    def __init__(self, path, *, max_pixels=MAX_PIXELS, decodable=False, count=True, timed=False):
        super().__init__(path, max_pixels=max_pixels)
        self._timed = timed
        with contextlib.ExitStack() as stack, explained(path):
            check_file(path)
            status = os.stat(path)
            self._version = version = path, max_pixels, status.st_mtime_ns, status.st_size
            self._container, self._stream, self._num_streams = stack.enter_context(
                opened(path, max_pixels)
            )
            context = self._stream.codec_context
            self.rate = rate_of(self._stream)
            read = functools.partial(read_packets, self._container, self._stream, path)
            keep = self._container.format.name in _SEEKABLE
            self._packets = _kept_packets.get(version, read) if keep else read()
            self._index = self._packets.index
            if decodable:
                self._index = None
            if count:
                self.count()
            if self._index is not None:
                # FFmpeg decodes H.264 as it opens a file; other sizes are those of the container.
                is_known = context.name == "h264" and self._packets.begins_with_shown
                self._size = (context.width, context.height) if is_known else first_size(*version)
                self._count(len(self._index.times) if all(self._size) else 0, 0)
            self._open = stack.pop_all()

    def __exit__(self, *_):
        self._open.close()

    def count(self):
        """See `Video.count`."""
        if self._index is None and not self.num_frames:
            decode = time_frames if self._timed else count_frames
            num_frames, num_failed, self._size, *_ = decode(*self._version)
            self._count(num_frames, num_failed)

    def _count(self, num_frames, num_failed):
        if not num_frames:
            raise FrameError(f"{self.path} has no frames that can be decoded")
        self.num_frames = num_frames
        if num_failed or not self._packets.is_whole:
            self.num_lost = max(self._packets.num_listed - num_frames, 0)

    @property
    def listed_times(self):
        """See `Video.listed_times`."""
        return self.times if self._index is not None else None

    @functools.cached_property
    def times(self):
        """Display times of all frames in seconds, 0 for the first one, float64 `[num_frames]`.

        They are those of the packets, or of the decoded frames where only decoding can number them.
        A frame without a time stamp, or with an earlier one than the frame before it, follows that
        one by the rate of the file; and, without an index, one with a much later time stamp.

        Raises:
            FrameError: there is neither a time stamp nor a rate.
        """
        index = self._packets.index
        if self._index is not None:
            stamps = self._index.stamps
        else:
            *_, stamps = time_frames(*self._version)
        # If the first frame doesn't decode, the times of the others stay.
        first = index.times[0] if index else stamps[0]
        base = self._stream.time_base
        times = (stamps - first) * base.numerator / base.denominator if base else stamps * np.nan
        is_known = np.isfinite(times[0]) and np.all(np.diff(times) >= 0)  # false for NaN
        if is_known and (index or not self.rate):
            return times
        if not self.rate:
            raise FrameError(
                f"{self.path} has frames without time stamps, and no frame rate, so parts of it "
                "can't be found; convert it to MP4, or extract its frames"
            )
        self._clock = AscendingClock(self.rate, trusted=index is not None)
        return np.array([self._clock.time(time) for time in times.tolist()])

    @property
    def seconds(self):
        """See `Video.seconds`; the last frame has the mean length.

        Where only decoding gives the times, and they are not known yet, it is the number of frames
        by the rate of the file.
        """
        if self._index is None and "times" not in self.__dict__:
            return super().seconds
        first, last = float(self.times[0]), float(self.times[-1])
        if last > first:
            return last + (last - first) / (len(self.times) - 1)
        return last + (1 / self.rate if self.rate else 0.0)

    @property
    def listed_seconds(self):
        """See `Video.listed_seconds`; without an index, by the number of its packets."""
        if self._index is not None or self.num_frames:
            return self.seconds
        if self.rate:
            return self._packets.num_present / self.rate
        duration = self._container.duration
        return duration / pyav().time_base if duration else None

    def group(self, number):
        """The group of pictures of a frame, a `range` of frames."""
        if self._index is None:
            return range(number, number + 1)
        return self._index.group(number)

    def _decode(self, wanted, memory, draft):
        """Decode the frames `wanted`, each from the key frame before it, or all in order."""
        self._check_within(wanted)
        found = -1
        try:
            for found, frame in self._find(wanted):
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
        again = functools.partial(
            VideoFile, self.path, max_pixels=self._max_pixels, decodable=True, timed=self._timed
        )
        return CorruptVideo(message, again)

    def _find(self, wanted):
        """Pairs of a number and its frame; ends early where one is lost."""
        if self._index is None:
            return self._read_in_order(wanted)
        found = self._container, self._stream, self._index
        return decode_from_keys(*found, wanted, in_order=self._read_in_order)

    def _reopened(self):
        return opened(self.path, self._max_pixels)
