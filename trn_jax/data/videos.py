"""Frames of video files, through PyAV (FFmpeg): exact counts, no more decoding than is needed."""

import bisect
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from trn_jax.data.decode import FrameError, Video
from trn_jax.errors import UserError

EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv")
# AVI has no time stamps of its own, and frames that are packed together or left out: there, only
# decoding tells how many frames there are.
_UNTIMED = ("avi",)


def is_video(path):
    """Whether a file is a video by its name."""
    return path.lower().endswith(EXTENSIONS)


@dataclasses.dataclass(frozen=True)
class VideoFiles:
    """Video files as a source of videos, see `decode.FrameFolders`.

    Raises:
        UserError: PyAV is not installed.
    """

    def __post_init__(self):
        _av()

    def open(self, record):
        """The file of a `Record` as a video; use it in a `with`."""
        return VideoFile(record.path)

    def check(self, record):
        """Look whether the file is there.

        Raises:
            FrameError: it is not; the message says what is there.
        """
        _check_file(record.path)


class VideoFile(Video):
    """A video file; frames are counted in the order in which they are shown.

    Frames that are not shown, such as those cut off by an edit list, do not count; every frame of a
    variable rate counts once. Videos that were recorded upright are turned upright.

    Args:
        path: the file.

    Attributes:
        num_frames: how many frames there are, exactly.

    Raises:
        FrameError: the file is missing, broken, or has no video.
    """

    def __init__(self, path):
        self.path = path
        _check_file(path)
        with contextlib.ExitStack() as stack, _explained(path):
            self._container, self._stream = stack.enter_context(_opened(path))
            self._index = self._read_index()
            if self._index is None:
                status = os.stat(path)
                self.num_frames = _count_frames(path, status.st_mtime_ns, status.st_size)
            else:
                self.num_frames = len(self._index.times)
            if not self.num_frames:
                raise FrameError(f"{path} has no frames")
            self._open = stack.pop_all()

    def __exit__(self, *_):
        self._open.close()

    def _decode(self, wanted, memory, draft):
        """The frames `wanted`, from the key frame before each or one after the other."""
        found = -1
        with _explained(self.path):
            decoded = self._read_in_order(wanted) if self._index is None else self._seek(wanted)
            for found, frame in decoded:
                yield found, frame
        if found != wanted[-1]:
            missing = wanted[bisect.bisect_right(wanted, found)]
            raise FrameError(
                f"{self.path} ends before frame {missing} of {self.num_frames}: it is cut off "
                "or damaged; fetch it again"
            )

    def _read_index(self):
        """Times and key frames of all frames, from their packets, which are not decoded."""
        if self._container.format.name in _UNTIMED:
            return None
        packets = [
            (packet.pts, packet.is_keyframe)
            for packet in self._container.demux(self._stream)
            if packet.size and not packet.is_discard
        ]
        times = sorted({time for time, _ in packets if time is not None})
        if len(times) != len(packets):
            return None
        numbers = {time: number for number, time in enumerate(times)}
        return _Index(times, numbers, sorted(numbers[time] for time, key in packets if key))

    def _seek(self, wanted):
        """Decode the frames `wanted`, skipping what lies before the key frames that they need."""
        index, position = self._index, None
        times = {index.times[number] for number in wanted if number < self.num_frames}
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
                if position >= number:
                    break
            if position != number:
                # In streams without an index of their own, a search may end behind its goal.
                yield from self._read_in_order(wanted[rank:])
                return
            yield number, _pixels(frame)

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
        with _opened(self.path) as (container, stream):
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    yield number, _pixels(frame)
                if number == last:
                    break


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


@contextlib.contextmanager
def _explained(path):
    """Turns errors of FFmpeg into ones that name the file."""
    try:
        yield
    except _av().FFmpegError as error:
        message = error.strerror or error
        raise FrameError(f"cannot read {path}: {message}; is it a whole video?") from None


@functools.lru_cache(maxsize=100_000)
def _count_frames(path, _modified, _size):
    """The number of frames of a file as it is now, by decoding them."""
    with _explained(path), _opened(path) as (container, stream):
        return sum(1 for _ in container.decode(stream))


@contextlib.contextmanager
def _opened(path):
    """A file and its video stream."""
    av = _av()
    try:
        # Titles in unknown encodings are of no interest.
        opened = av.open(path, metadata_errors="ignore")
    except TypeError:  # PyAV 19 knows that by itself
        opened = av.open(path)
    with opened as container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams}))
            raise FrameError(f"{path} has no video, only {kinds or 'nothing'}")
        stream = container.streams.video[0]
        # Videos are read side by side, so one thread for each is best.
        stream.thread_type = "NONE"
        yield container, stream


def _pixels(frame):
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _check_file(path):
    if os.path.isfile(path):
        if not os.path.getsize(path):
            raise FrameError(f"{path} is empty (0 bytes); fetch this video again")
        return
    if os.path.isdir(path):
        raise FrameError(
            f"{path} is a folder, but video files are expected; lists name one or the other "
            "throughout, as data.source says"
        )
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FrameError(
            f"folder {folder} not found; check data_dir and data.frames, or the first column of "
            "the list"
        )
    stem = os.path.splitext(name)[0]
    near = sorted(other for other in os.listdir(folder) if os.path.splitext(other)[0] == stem)
    hint = f" (found {near[0]!r})" if near else ""
    raise FrameError(f"video {name!r} not found in {folder}{hint}")


def _av():
    try:
        import av
    except ImportError:
        raise UserError(
            "reading video files needs PyAV: pip install 'trn_jax[video]'; or turn the videos into "
            "folders of frames"
        ) from None
    return av
