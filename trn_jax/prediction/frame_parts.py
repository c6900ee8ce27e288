"""Folders of frames as videos, and the parts of them that lists name by frames."""

import dataclasses
import os
import re

import numpy as np

from trn_jax.data.decode import FrameError
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.parts import decimal, frames_between, milliseconds
from trn_jax.prepare.frame_folders import frame_folder
from trn_jax.prepare.table_rows import normalized

_COUNTS = ("num_frames", "total_frames", "frame_count", "frames")  # headers, beside "offset"
_BETWEEN = re.compile(r"[\s,;|]+")


@dataclasses.dataclass(frozen=True)
class Folders:
    """Folders of frames as a source of videos, each with its own names of frames.

    Attributes:
        frame_rate: of all of them, per second; `None` if unknown.
        max_pixels: larger images are unreadable.
    """

    frame_rate: float | None
    max_pixels: int

    def open(self, record):
        """The folder of a `Record`, or the part of it, as a video; use it in a `with`.

        Raises:
            FrameError: it has no frames, or the part has none.
        """
        try:
            found = frame_folder(os.listdir(record.path))
        except OSError as error:
            raise FrameError(f"can't read {record.path}: {error.strerror}") from None
        if isinstance(found, str):
            raise FrameError(f"{record.path} is unreadable: {found}")
        source = FrameFolders(
            pattern=found.pattern,
            first_frame=found.first_frame,
            max_pixels=self.max_pixels,
            frame_rate=self.frame_rate,
        )
        if record.start is not None:
            frames, note = self._between(record, found.num_frames)
        else:
            frames, note = _listed(record, found.num_frames)
        video = source.open(
            dataclasses.replace(record, num_frames=len(frames), offset=frames.start)
        )
        video.notes = (note,) if note else ()
        return video

    def _between(self, record, total):
        """The frames of a part in seconds of a folder of `total` frames, and a note on its end."""
        if not self.frame_rate:
            raise FrameError(
                f"the frame rate of {record.path} is unknown, so parts of it can't be found; give "
                "it, such as --frame-rate=12"
            )
        frames = frames_between(np.arange(total) / self.frame_rate, record.start, record.end)
        if not frames:
            raise FrameError(
                f"{record.named()} has no frame: that video has {total} frames, "
                f"{self.frame_rate:g} per second"
            )
        length = total / self.frame_rate
        if milliseconds(record.end) <= milliseconds(length):
            return frames, ""
        return frames, f"{record.named()} ends after that video, which lasts {decimal(length)} s"


def _listed(record, total):
    """The frames that a list gives a folder of `total` frames, and a note if they are fewer."""
    first = record.offset or 0
    end = first + record.num_frames if record.num_frames else total
    if first >= total:
        raise FrameError(f"{record.named()} has no frame: that video has {total} frames")
    note = f"{record.named()} ends after that video, which has {total} frames"
    if end > total and record.offset is None:
        note = f"{record.path} has {total} frames, but {end} in the list"
    return range(first, min(end, total)), note if end > total else ""


def frame_columns(table):
    """Indices of the columns of a `Table` with the offset and the number of frames, or `()`."""
    names = [normalized(name) for name in table.header or ()]
    count = next((names.index(name) for name in _COUNTS if name in names), None)
    return (names.index("offset"), count) if "offset" in names and count is not None else ()


def numbers_in(row, name, table, columns):
    """The numbers that a row of a list has behind a folder, or in `frame_columns`.

    Args:
        row: the `Row`.
        name: the folder, as in the row.
        table: the `Table`.
        columns: its `frame_columns`.
    """
    if table.header is None:
        cells = _BETWEEN.split(row.text.strip().replace('"', "").removeprefix(name).strip(" ,;|\t"))
    else:
        cells = [row.cells[i].strip() if i < len(row.cells) else "" for i in columns]
    return list(map(int, cells)) if all(re.fullmatch(r"\d{1,9}", each) for each in cells) else []


def have_offsets(rows):
    """Whether the lines of a list are `<folder> <offset> <num_frames> <label>`.

    Lines `<folder> <num_frames> <label> <label>` are as long, but begin with the number of frames
    that the folder has, at which no part of it begins.

    Args:
        rows: pairs of a folder and the numbers behind it.
    """
    longer = [(path, numbers) for path, numbers in rows if len(numbers) > 2]
    # Each folder is listed once, however many parts of it there are.
    totals = {path: _num_frames(path) for path in dict.fromkeys(path for path, _ in longer)}
    return 2 * sum(totals[path] == numbers[0] for path, numbers in longer) < len(longer)


def _num_frames(path):
    """The number of frames in a folder; 0 if it can't be read."""
    try:
        found = frame_folder(os.listdir(path))
    except OSError:
        return 0
    return 0 if isinstance(found, str) else found.num_frames


def with_frames(record, numbers, *, with_offset):
    """A `Record` of a folder with the frames that the numbers in a row of a list name.

    Raises:
        ValueError: there are none.
    """
    if len(numbers) < 2:  # a label
        return record
    offset, count = numbers[:2] if with_offset else (None, numbers[0])
    if not count:
        raise ValueError("has 0 frames; expected at least 1")
    return dataclasses.replace(record, num_frames=count, offset=offset)
