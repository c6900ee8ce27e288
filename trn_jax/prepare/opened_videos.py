"""Custom videos on the disk: which are readable, and where their parts begin and end."""

import dataclasses
import os
from functools import partial

import numpy as np

from trn_jax.data.datasets import Dataset
from trn_jax.data.decode import FrameError
from trn_jax.data.parts import decimal, frames_between, milliseconds
from trn_jax.data.videos import VideoFiles, is_video
from trn_jax.errors import UserError
from trn_jax.prepare.folders import visible_entries
from trn_jax.prepare.frame_folders import frame_folder
from trn_jax.prepare.left_out import is_line
from trn_jax.prepare.probe import probe
from trn_jax.prepare.worker_pool import CRASHED, Died, for_each
from trn_jax.progress import Progress

_NO_RATE = "no rate"  # the place of a part in seconds of a folder of frames


@dataclasses.dataclass(frozen=True)
class OpenedVideo:
    """A readable video.

    Attributes:
        kind: "video", a file, or "frames", a folder.
        num_frames: number of frames.
        pattern: file name of a frame of a folder.
        first_frame: number of the first frame of a folder.
        notes: messages on anything unusual.
        seconds: of a file, 0 if unknown, and of a folder.
        length: of a file whose parts are wanted, in milliseconds; of a folder, in frames.
        step: longest time from one frame to the next, in the same unit.
        places: `{Part: its Place, or why it has none}`.
    """

    kind: str
    num_frames: int
    pattern: str = ""
    first_frame: int = 1
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    length: int = 0
    step: int = 1
    places: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a part is in its video.

    Attributes:
        first: its beginning, in milliseconds of a file or frames of a folder.
        end: its end, at most that of the video.
        is_cut: whether the source has its end after that of the video.
    """

    first: int
    end: int
    is_cut: bool = False


@dataclasses.dataclass(frozen=True)
class Found:
    """The video of an example.

    Attributes:
        video: the `OpenedVideo`.
        place: the `Place` of the example's part; `None`: all of the video.
    """

    video: OpenedVideo
    place: Place | None = None

    @property
    def seconds(self):
        """How long it lasts; 0 if unknown."""
        if self.place and self.video.kind == "video":
            return (self.place.end - self.place.first) / 1000
        return self.video.seconds

    def line(self, path, labels, *, with_offset):
        """The line of a list, see `annotations.read_list`."""
        numbers: list = list(labels)
        if self.video.kind == "frames":
            place = self.place or Place(0, self.video.num_frames)
            offset = [place.first] if with_offset else []
            numbers = [*offset, place.end - place.first, *labels]
        elif self.place:
            times = self.place.first / 1000, self.place.end / 1000
            numbers = [*map(decimal, times), *labels]
        return " ".join(map(str, [path, *numbers]))


def open_all(writer, root, examples, broken, *, workers, frame_rate=None):
    """Open the videos of examples, each once.

    Args:
        writer: the `DatasetWriter` that notes unreadable videos and parts outside of theirs.
        root: folder that paths are relative to.
        examples: `Example`s.
        broken: pairs `(path, reason)` of unreadable files.
        workers: processes that open videos.
        frame_rate: frames per second of folders of frames, and of parts that are given in frames;
            `None`: folders have no times, and such frames are those of the video.

    Returns:
        `{example: Found}` of the readable ones, in order.

    Raises:
        UserError: none is readable, or a part of a folder is given in seconds.
    """
    if any(is_video(example.path) for example in examples):
        VideoFiles()  # raises if PyAV is missing
    parts: dict[str, list] = {example.path: [] for example in examples}
    for example in examples:
        parts[example.path] += [example.part] if example.part else []
    opened, reasons = {}, dict(broken)
    waiting = [(path, tuple(wanted)) for path, wanted in parts.items()]
    with Progress(f"Opening the videos in {root}", len(waiting), "videos") as progress:
        for (path, _), result in for_each(partial(_open, root, frame_rate), waiting, workers):
            if isinstance(result, OpenedVideo):
                opened[path] = result
            else:
                reasons[path] = CRASHED if isinstance(result, Died) else result
            progress.add(1)
    if not opened:
        path = min(reasons)
        raise UserError(
            f"none of the {len(waiting)} videos in {root} is readable, such as {path} "
            f"({reasons[path]})"
        )
    writer.cannot_read("videos that cannot be read", reasons)
    opened = {path: opened[path] for path in parts if path in opened}
    writer.note_used([note for video in opened.values() for note in video.notes])
    found = _place_all(writer, examples, opened)
    writer.list_left_out()
    return found


def _place_all(writer, examples, opened):
    """`{example: Found}` of those whose part is in its video."""
    found, outside, cut = {}, [], []
    for example in (example for example in examples if example.path in opened):
        video = opened[example.path]
        place = video.places[example.part] if example.part else None
        if place == _NO_RATE:
            raise UserError(
                f"{example.name} is a part of a folder of frames in seconds; give the frames per "
                "second that they were extracted with, such as --frame-rate=25"
            )
        if isinstance(place, str):
            outside.append(f"{example.name} ({place})")
            continue
        found[example] = Found(video, place)
        if place and place.is_cut:
            cut.append(example.name)
    if not found:
        raise UserError(f"none of the {len(outside)} parts is in its video, such as {outside[0]}")
    writer.note_all("parts end after their videos, and are used up to there", cut)
    writer.lose("parts that are not in their videos", outside)
    return found


def _open(root, frame_rate, wanted):
    """Open a video `(path, parts)`: an `OpenedVideo`, or the reason why it is unreadable."""
    name, parts = wanted
    path = os.path.join(root, name)
    if not is_line(name):
        return "its name is not a single line of UTF-8 text, as lists need; rename it"
    try:
        if os.path.isdir(path):
            return _open_folder(path, parts, frame_rate)
        found = probe(path, timed=bool(parts))
    except FrameError as error:
        return str(error)
    video = OpenedVideo("video", found.num_frames, notes=found.notes, seconds=found.seconds)
    if not parts:
        return video
    # A single frame without a rate still lasts a moment.
    length = max(milliseconds(found.seconds), milliseconds(found.times[-1]) + 1)
    gaps = np.diff(np.rint(found.times * 1000), append=length)
    return dataclasses.replace(
        video,
        length=length,
        step=max(int(gaps.max()), 1),
        places={part: _place_in_file(part, found.times, length, frame_rate) for part in parts},
    )


def _open_folder(path, parts, frame_rate):
    frames = frame_folder([entry.name for entry in visible_entries(path)])
    if isinstance(frames, str):
        return frames
    count = frames.num_frames
    places = {part: _place_in_folder(part, count, frame_rate) for part in parts}
    naming = frames.pattern, frames.first_frame
    return OpenedVideo("frames", count, *naming, length=count, places=places)


def _place_in_file(part, times, length, frame_rate):
    """The `Place` of a part in a file of `length` milliseconds, or why it has none."""
    start, end = part.start, part.end
    if part.in_frames and frame_rate:
        start, end = start / frame_rate, end / frame_rate
    elif part.in_frames:
        if start >= len(times):
            return f"the video has {len(times)} frames"
        is_cut = end > len(times)
        last = milliseconds(times[end]) if end < len(times) else length
        return Place(milliseconds(times[start]), last, is_cut)
    if not frames_between(times, start, end):
        return f"no frame is in it; the video has {len(times)} and lasts {length / 1000:.3f} s"
    return Place(milliseconds(start), min(milliseconds(end), length), milliseconds(end) > length)


def _place_in_folder(part, num_frames, frame_rate):
    """The `Place` of a part in a folder, or why it has none."""
    first, end = part.start, part.end
    if not part.in_frames:
        if not frame_rate:
            return _NO_RATE
        # One frame more than there are, to see whether the part ends after the last one.
        frames = frames_between(np.arange(num_frames + 1) / frame_rate, part.start, part.end)
        first, end = frames.start, frames.stop
    if first >= min(end, num_frames):
        return f"no frame is in it; the folder has {num_frames}"
    return Place(first, min(end, num_frames), end > num_frames)


def only_kind(source, found):
    """The kind of all videos of `{example: Found}`, "video" or "frames".

    Raises:
        UserError: there are both.
    """
    kinds = {each.video.kind: example.path for example, each in found.items()}
    if len(kinds) > 1:
        raise UserError(
            f"{source} has both video files and folders of frames, such as {kinds['video']} and "
            f"{kinds['frames']}; keep one kind, or extract the videos with `trn-jax extract`"
        )
    return next(iter(kinds))


def naming_of(found):
    """Fields of `Dataset` for `{example: Found}` where they differ from its defaults.

    Raises:
        UserError: names of frames differ between folders.
    """
    frames = {example: each for example, each in found.items() if each.video.kind == "frames"}
    names = {(each.video.pattern, each.video.first_frame): e for e, each in frames.items()}
    if len(names) > 1:
        shown = "; ".join(
            f"{pattern!r} from {first} on in {example.path}"
            for (pattern, first), example in sorted(names.items(), key=lambda item: item[0])
        )
        raise UserError(f"names of frames differ between folders: {shown}; rename some of them")
    usual = Dataset()
    naming: dict[str, str | int | bool] = {}
    for pattern, first in names:
        if pattern != usual.frame_pattern:
            naming["frame_pattern"] = pattern
        if first != usual.first_frame:
            naming["first_frame"] = first
    if any(each.place for each in frames.values()):
        naming["with_offset"] = True
    return naming
