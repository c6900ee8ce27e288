"""Frames of video files, through PyAV (FFmpeg): exact counts, no more decoding than is needed."""

import bisect
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator

from trn_jax.data.containers import (
    check_file,
    decodable,
    explained,
    fits,
    is_cut_avi,
    length_size,
    opened,
    pyav,
)
from trn_jax.data.decode import (
    MAX_PIXELS,
    DamagedVideo,
    FrameError,
    Video,
    check_shape,
    read_video,
)
from trn_jax.data.orientation import display_matrix, oriented, symmetry

EXTENSIONS = (
    *(".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp"),
    *(".mts", ".m2ts", ".ts", ".ogv", ".vob", ".gif", ".3g2", ".asf", ".divx", ".dv", ".f4v"),
    *(".m2v", ".mxf"),
)
# AVI has no time stamps of its own, and frames that are packed together or left out: there, only
# decoding tells how many frames there are.
_UNTIMED = ("avi",)


def is_video(path):
    """Whether a file is a video by its name; hidden ones, such as macOS's `._clip.mp4`, are not."""
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
        """Look whether the file is there.

        Raises:
            FrameError: it is not; the message says what is there.
        """
        check_file(record.path)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What decoding parts of a video file tells.

    Attributes:
        num_frames: number of its frames.
        size: width and height of its frames in pixels.
        notes: what is unusual about it, for people.
    """

    num_frames: int
    size: tuple[int, int]
    notes: tuple[str, ...]


def probe(path, *, max_pixels=MAX_PIXELS):
    """Decode the first, the middle and the last group of pictures of a video file.

    Returns:
        A `Probe`.

    Raises:
        FrameError: the file cannot be read.
    """

    def look(video):
        last = video.num_frames - 1
        size = 0, 0
        for _, frame in video.frames({n for m in (0, last // 2, last) for n in video.group(m)}):
            size = frame.shape[1], frame.shape[0]
        return Probe(video.num_frames, size, video.notes)

    return read_video(lambda: VideoFile(path, max_pixels=max_pixels), look)


class VideoFile(Video):
    """A video file; frames are counted in the order in which they are shown.

    Frames that are not shown, such as those cut off by an edit list, do not count; every frame of a
    variable rate counts once. The display matrix is applied, so that videos stand upright and front
    cameras do not mirror. Frames of another size than the first one are scaled to that.

    The count comes from the packets, which are not decoded; where these are visibly corrupt, and
    with `decodable`, it is that of the frames that FFmpeg decodes, and everything is decoded once
    to find it.

    Args:
        path: the file.
        max_pixels: frames with more pixels are not decoded.
        decodable: count the frames that can be decoded, not those that the file lists.
        count: do not decode anything to count; `num_frames` is 0 until `stream` has ended.

    Attributes:
        num_frames: how many frames there are, exactly.
        num_lost: how many more the file lists or has packets of; 0 where that is unknown.
        num_scaled: of the frames that were read, how many had another size than the first one.
        rate: frames per second as the file says, 0 if it does not.

    Raises:
        FrameError: the file is missing, broken, or has no video.
    """

    def __init__(self, path, *, max_pixels=MAX_PIXELS, decodable=False, count=True):
        self.path = path
        self.num_frames = self.num_lost = self.num_scaled = 0
        self._size = 0, 0
        self._max_pixels = max_pixels
        # One for all frames; each frame's own takes three times as long.
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
            self._index, self._num_listed, self._is_whole = self._read_index()
            if decodable:
                self._index = None
            if count and self._index is None:
                num_frames, num_failed, self._size = _count_frames(*version)
                self._count(num_frames, num_failed)
            elif count:
                # FFmpeg decodes H.264 when it opens a file; of others it knows what the file says.
                is_known = context.name == "h264" and self._begins_with_shown
                self._size = (context.width, context.height) if is_known else _first_size(*version)
                self._count(len(self._index.times) if all(self._size) else 0, 0)
            self._open = stack.pop_all()

    def __exit__(self, *_):
        self._open.close()

    def _count(self, num_frames, num_failed):
        if not num_frames:
            raise FrameError(f"{self.path} has no frames that can be decoded")
        self.num_frames = num_frames
        if num_failed or not self._is_whole:
            self.num_lost = max(self._num_listed - num_frames, 0)

    @property
    def loss(self):
        """See `Video.loss`."""
        if not self.num_lost:
            return ""
        return (
            f"{self.path}: {self.num_lost} of {self.num_frames + self.num_lost} frames are missing "
            f"or do not decode; the other {self.num_frames} are used"
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
                f"{self.path} changes its frame size; {self.num_scaled} frames that were read are "
                f"scaled to the {width} x {height} of the first one"
            )
        return tuple(notes)

    def group(self, number):
        """The frames, a `range`, of the group of pictures that has a frame."""
        if self._index is None:
            return range(number, number + 1)
        keys = self._index.keys
        after = bisect.bisect_right(keys, number)
        first = keys[after - 1] if after else 0
        return range(first, keys[after] if after < len(keys) else self.num_frames)

    def stream(self):
        """Decode the whole video once.

        Yields:
            Pairs of a frame, uint8 `[height, width, 3]` in RGB, and its time in seconds, `None`
            where the file has none.

        Raises:
            FrameError: no frame can be decoded.
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
        """The frames `wanted`, from the key frame before each or one after the other."""
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
            raise self._damaged(found, wanted) from None
        if found != wanted[-1]:
            raise self._damaged(found, wanted)

    def _damaged(self, found, wanted):
        """The error for a frame that is not where the index has it."""
        missing = wanted[bisect.bisect_right(wanted, found)]
        message = f"frame {missing} of {self.num_frames} of {self.path} does not decode"
        if self._index is None:
            return FrameError(f"{message}; the file has changed while it was read")
        again = functools.partial(VideoFile, self.path, max_pixels=self._max_pixels, decodable=True)
        return DamagedVideo(message, again)

    def _read_index(self):
        """Read all packets, which are not decoded.

        Returns:
            The `_Index`, or `None` where packets do not tell the frames; the number of frames that
            the file lists; and whether it has all of them, as far as packets tell.
        """
        times: list[int | None] = []
        keys, num_packets, is_whole, is_timed = [], 0, True, False
        self._begins_with_shown = True
        context = self._stream.codec_context
        unit = length_size(context)
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:
                    continue
                num_packets += 1
                is_whole = is_whole and not packet.is_corrupt and (not unit or fits(packet, unit))
                is_timed = is_timed or packet.pts != packet.dts
                if packet.is_discard:
                    self._begins_with_shown &= bool(times)
                else:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except pyav().FFmpegError:
            is_whole = False
        in_order = sorted({time for time in times if time is not None})
        listed, index = len(times), None
        # Frames that are shown in another order than they are stored in need times of their own;
        # files that were joined without decoding may have lost those.
        is_timed = is_timed or not context.has_b_frames
        is_timed &= len(in_order) == listed and self._container.format.name not in _UNTIMED
        if is_whole and is_timed:
            numbers = {time: number for number, time in enumerate(in_order)}
            index = _Index(in_order, numbers, sorted(numbers[time] for time in keys))
        # Only MP4 lists all frames; those of a file that is cut off at a frame's end are whole.
        entries = self._stream.index_entries
        if len(entries) > num_packets or (not is_whole and len(entries) == num_packets):
            listed = max(sum(not entry.is_discard for entry in entries), listed)
            is_whole = False
        if self._container.format.name == "avi" and is_cut_avi(self.path):
            listed, is_whole = max(self._stream.frames, listed), False
        return index, listed, is_whole

    def _seek(self, wanted):
        """Decode the frames `wanted`, skipping what lies before the key frames that they need."""
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
                # What comes before the key frame after a seek belongs to the frames before it.
                position = index.numbers.get(frame.pts, -1)
                if frame.is_corrupt and position >= key:
                    # What stands for lost parts depends on the frames before, so decode those, too.
                    return
                if position >= number:
                    break
            if position != number:
                # In streams without an index of their own, a search may end behind its goal.
                for found, frame in self._read_in_order(wanted[rank:]):
                    if frame.pts != index.times[found]:
                        return  # Frames are lost, so that the others have other numbers.
                    yield found, frame
                return
            yield number, frame

    def _decode_only(self, times):
        """The frames from here on, but for those that neither are shown at `times` nor needed."""
        for packet in self._container.demux(self._stream):
            # No frame is decoded from one that FFmpeg calls "no reference", so it may be left out.
            shown = packet.pts in times
            self._stream.codec_context.skip_frame = "DEFAULT" if shown else "NONREF"
            yield from packet.decode()

    def _read_in_order(self, wanted):
        """Decode the frames `wanted` from the first one of the video on."""
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


@dataclasses.dataclass(frozen=True)
class _Index:
    """The frames of a video in the order in which they are shown.

    Attributes:
        times: when, in units of the stream.
        numbers: `{time: number of the frame}`.
        keys: numbers of the key frames.
    """

    times: list[int]
    numbers: dict[int, int]
    keys: list[int]


# All frames, as FFmpeg's own program gives them --------------------------------------------------


@functools.lru_cache(maxsize=100_000)
def _count_frames(path, max_pixels, _modified, _size):
    """Decode a file as it is now: the number of frames and of errors, the size of the first one."""
    failed: list[Exception] = []
    count, size = 0, (0, 0)
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for count, frame in enumerate(decodable(container, stream, failed), start=1):
            size = size if count > 1 else (frame.width, frame.height)
    return count, len(failed), size


@functools.lru_cache(maxsize=100_000)
def _first_size(path, max_pixels, _modified, _size):
    """Width and height of the first frame of a file as it is now."""
    with explained(path), opened(path, max_pixels) as (container, stream, _):
        for frame in decodable(container, stream, []):
            return frame.width, frame.height
    return 0, 0
