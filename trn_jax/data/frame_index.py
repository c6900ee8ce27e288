"""Numbers and times of the frames of a video stream: from its packets, or by decoding all."""

import array
import bisect
import collections
import dataclasses
import functools
import math
import os
import threading

import numpy as np

from trn_jax.data.containers import decodable, explained, opened, pyav

# AVI has no time stamps, and its frames may be packed together or left out: only decoding counts.
_UNTIMED = ("avi",)
# A stream whose time stamps jump forward by more than this, in seconds, has new ones: FFmpeg's own
# program takes it so, too. It is at least the time of so many frames.
_LONGEST_GAP, _FRAMES_OF_GAP = 10.0, 10


@dataclasses.dataclass(frozen=True)
class FrameIndex:
    """The frames of a video in display order.

    Attributes:
        times: display times, ascending, in units of the stream.
        keys: numbers of the key frames, ascending.
    """

    times: array.array
    keys: array.array

    def number_of(self, time):
        """Number of the frame at a display time; -1: there is none."""
        if time is None:
            return -1
        place = bisect.bisect_left(self.times, time)
        return place if place < len(self.times) and self.times[place] == time else -1

    @functools.cached_property
    def stamps(self):
        """The times as float64 `[frames]`."""
        return np.array(self.times, np.float64)

    def group(self, number):
        """The group of pictures of a frame, a `range` of frames from a key frame on."""
        after = bisect.bisect_right(self.keys, number)
        first = self.keys[after - 1] if after else 0
        return range(first, self.keys[after] if after < len(self.keys) else len(self.times))


@dataclasses.dataclass(frozen=True)
class Packets:
    """What the packets of a video stream show.

    Attributes:
        index: the `FrameIndex`, or `None` if only decoding can number the frames.
        num_listed: number of frames that the file lists.
        is_whole: no packet is visibly corrupt or missing.
        begins_with_shown: the first packet is not discarded by an edit list.
        num_present: number of packets that are there, without those that an edit list discards.
    """

    index: FrameIndex | None
    num_listed: int
    is_whole: bool
    begins_with_shown: bool
    num_present: int = 0


class KeptPackets:
    """The `Packets` of the files that were read last, for those that are opened again and again.

    Args:
        max_frames: largest number of frames of all kept files together.
        max_files: largest number of kept files.
    """

    def __init__(self, max_frames, max_files=100_000):
        self._max_frames, self._max_files = max_frames, max_files
        self._num_frames = 0
        self._kept: collections.OrderedDict[tuple, Packets] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, version, read):
        """The `Packets` of a file, from `read()` if they aren't kept.

        Args:
            version: of the file: its path and what changes with its content.
            read: function without arguments.
        """
        with self._lock:
            if version in self._kept:
                self._kept.move_to_end(version)
                return self._kept[version]
        packets = read()
        with self._lock:
            if version not in self._kept:  # another thread may have read it, too
                self._kept[version] = packets
                self._num_frames += packets.num_listed
            while self._num_frames > self._max_frames or len(self._kept) > self._max_files:
                _, oldest = self._kept.popitem(last=False)
                self._num_frames -= oldest.num_listed
        return packets


def read_packets(container, stream, path):
    """Read all packets of a video stream, without decoding: the `Packets`."""
    times: list[int | None] = []
    keys, num_packets, is_whole, is_timed, begins_with_shown = [], 0, True, False, True
    context = stream.codec_context
    unit = _length_size(context)
    try:
        for packet in container.demux(stream):
            if not packet.size:
                continue
            num_packets += 1
            is_whole = is_whole and not packet.is_corrupt and (not unit or _fits(packet, unit))
            is_timed = is_timed or packet.pts != packet.dts
            if packet.is_discard:
                begins_with_shown &= bool(times)
            else:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    except pyav().FFmpegError:
        is_whole = False
    in_order = sorted({time for time in times if time is not None})
    num_listed, index = len(times), None
    # Frames whose display order is not the stored one need display times, which files that were
    # joined without decoding may have lost.
    is_timed = is_timed or not context.has_b_frames
    is_timed &= len(in_order) == num_listed and container.format.name not in _UNTIMED
    if is_whole and is_timed:
        numbers = sorted(bisect.bisect_left(in_order, time) for time in keys)
        index = FrameIndex(array.array("q", in_order), array.array("q", numbers))
    # Only MP4 lists all frames; one that is truncated at the end of a frame has only whole packets.
    entries = stream.index_entries
    if len(entries) > num_packets or (not is_whole and len(entries) == num_packets):
        num_listed = max(sum(not entry.is_discard for entry in entries), num_listed)
        is_whole = False
    if container.format.name == "avi" and _is_truncated_avi(path):
        num_listed, is_whole = max(stream.frames, num_listed), False
    return Packets(index, num_listed, is_whole, begins_with_shown, len(times))


def _length_size(context):
    """Bytes of the length fields before the NAL units of H.264 and HEVC packets; 0: none."""
    place = {"h264": 4, "hevc": 21}.get(context.name)
    header = context.extradata or b""
    return (header[place] & 3) + 1 if place and len(header) > place and header[0] == 1 else 0


def _fits(packet, length_size):
    """Whether the NAL units of a packet fill it exactly, unlike those of most corrupt ones."""
    data, position, size = memoryview(packet), 0, packet.size
    while position < size:
        length = int.from_bytes(data[position : position + length_size], "big")
        if not length:
            return False
        position += length_size + length
    return position == size


def _is_truncated_avi(path):
    """Whether an AVI is shorter than its header says."""
    with open(path, "rb") as file:
        head = file.read(8)
    return int.from_bytes(head[4:], "little") + len(head) > os.path.getsize(path)


# By decoding


@functools.lru_cache(maxsize=100_000)
def count_frames(path, max_pixels, _modified, _size):
    """Decode a file: number of frames, number of errors, size of the first frame."""
    failed: list[Exception] = []
    count, size = 0, (0, 0)
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for count, frame in enumerate(decodable(container, stream, failed), start=1):
            size = size if count > 1 else (frame.width, frame.height)
    return count, len(failed), size


@functools.lru_cache(maxsize=1000)
def time_frames(path, max_pixels, _modified, _size):
    """As `count_frames`, and the time stamps of the frames, float64 `[frames]`; NaN: none."""
    failed: list[Exception] = []
    stamps: list[int | None] = []
    size = 0, 0
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for frame in decodable(container, stream, failed):
            size = size if stamps else (frame.width, frame.height)
            stamps.append(frame.pts)
    return len(stamps), len(failed), size, np.array(stamps, np.float64)


def shown_in_order(decoded, times, step):
    """The frames that are shown at some times.

    Args:
        decoded: pairs of a frame and the time from which it is shown, in order.
        times: an iterator of ascending times.
        step: for how long the last frame is shown.

    Yields:
        Pairs of a time and a frame, until the last frame; all are decoded, whatever is wanted.
    """
    wanted, shown, start = next(times, None), None, 0.0
    for frame, start in decoded:
        while wanted is not None and shown is not None and wanted < start:
            yield wanted, shown
            wanted = next(times, None)
        shown = frame
    while shown is not None and wanted is not None and wanted < start + step:
        yield wanted, shown
        wanted = next(times, None)


class AscendingClock:
    """Times of frames where each unknown, earlier or much later one follows the one before.

    Args:
        rate: frames per second, by which it follows.
        trusted: later ones are right, however much later they are.

    Attributes:
        jumps: number of jumps to much later time stamps.
    """

    def __init__(self, rate, *, trusted=False):
        self.jumps = 0
        self._rate = rate
        self._longest = math.inf if trusted else max(_LONGEST_GAP, _FRAMES_OF_GAP / rate)
        self._known, self._steps = 0.0, 0  # the last known time, and frames since then
        self._last = -math.inf
        self._shift = 0.0  # sum of the jumps
        self._first_jump = 0.0, 0.0  # its time and its length

    def time(self, stamp):
        """The time of the next frame, in seconds.

        Args:
            stamp: its time, if it were right; NaN: unknown.
        """
        stamp -= self._shift
        following = self._known + self._steps / self._rate
        if math.isfinite(self._last) and stamp - following > self._longest:
            if not self.jumps:
                self._first_jump = following, stamp - following
            self.jumps += 1
            self._shift += stamp - following
            stamp = following
        if stamp >= self._last:
            self._known, self._steps = stamp, 0
        self._last = self._known + self._steps / self._rate
        self._steps += 1
        return self._last

    def note(self, path):
        """A message about the jumps in the time stamps of a file."""
        time, seconds = self._first_jump
        more = f", {self.jumps} times in all" if self.jumps > 1 else ""
        return (
            f"the time stamps of {path} jump forward by {seconds:.1f} s at {time:.1f} s{more}; the "
            "frames after a jump follow at once, and times are counted so"
        )


@functools.lru_cache(maxsize=100_000)
def first_size(path, max_pixels, _modified, _size):
    """Width and height of the first frame of a file."""
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for frame in decodable(container, stream, []):
            return frame.width, frame.height
    return 0, 0
