"""Lists of labelled videos."""

import dataclasses
import os
import re
from typing import NamedTuple

import numpy as np

from trn_jax.data import videos
from trn_jax.data.parts import decimal, is_interval
from trn_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One labelled video, or a part of one.

    Attributes:
        index: its position in the list, from 0.
        path: folder of its frames, or video file.
        num_frames: number of frames, at least 1; 0 for a video file, which has the number.
        label: class number, from 0; of multi-label lists a tuple of all labels, each once.
        start: of a part of a video file, in seconds from its first frame; `None`: all of the file.
        end: the end of that part, see `parts.frames_between`.
        offset: of a part of a folder, the number of frames before it; `None`: all of the folder.
    """

    index: int
    path: str
    num_frames: int
    label: int | tuple[int, ...]
    start: float | None = None
    end: float | None = None
    offset: int | None = None

    def named(self, root=""):
        """Name in lists of results: the path below `root`, and which part it is.

        Such as `"a.mp4 [12.500-17.250]"` (seconds) or `"a [12:175]"` (frames).
        """
        name = self.path.removeprefix(os.path.join(root, "")) if root else self.path
        if self.start is not None and self.end is not None:
            return f"{name} [{decimal(self.start)}-{decimal(self.end)}]"
        if self.offset is not None:
            return f"{name} [{self.offset}:{self.offset + self.num_frames}]"
        return name

    def part_called(self, name):
        """The part of this whole video that a name of `named` has at its end."""
        found = _PART.search(name)
        if found is None:
            return self
        if found["start"] is None:
            offset = int(found["first"])
            count = max(int(found["last"]) - offset, 1)
            return dataclasses.replace(self, offset=offset, num_frames=count)
        start, end = float(found["start"]), float(found["end"])
        return dataclasses.replace(self, start=start, end=end) if is_interval(start, end) else self


def without_part(name):
    """A name of `Record.named` without the part at its end."""
    return _PART.sub("", name)


_PART = re.compile(
    r" \[(?:(?P<start>\d+\.\d{3})-(?P<end>\d+\.\d{3})|(?P<first>\d+):(?P<last>\d+))\]$"
)

# Names of video files may have spaces; only numbers follow them. Times have a point, labels none.
_ENDS = "|".join(map(re.escape, videos.EXTENSIONS))
_FILE = re.compile(rf"(.*(?:{_ENDS}))(?:\s+(\d+\.\d+)\s+(\d+\.\d+))?((?:\s+\d+)+)", re.IGNORECASE)
_FILE_AND_NUMBERS = re.compile(
    rf".*(?:{_ENDS})(?:\s+[-+]?(?:[.\d][-+.:,\de]*|nan|inf))+", re.IGNORECASE
)
_ONE = "<folder> <num_frames> <label>"
_SEVERAL = "<folder> <num_frames> <label> <label> ..."


def read_list(path, *, frames_root, num_classes, multi_label=False, with_offset=False):
    """Read lines `<folder> <num_frames> <label>`, the format of mmaction2 and TRN-pytorch.

    Video files need no number of frames: `<file> <label>`. Parts of them have times in seconds with
    a decimal point: `<file> <start> <end> <label>`. Lines that start with `#` are comments.

    Args:
        path: the list.
        frames_root: folder that relative paths in the list start from.
        num_classes: labels must be below this.
        multi_label: lines may have several labels; folder names can't have spaces then.
        with_offset: lines of folders are `<folder> <offset> <num_frames> <label>`, parts of them.

    Returns:
        A list of `Record`.

    Raises:
        UserError: the list is missing or empty, has malformed lines (all are reported), or one
            label per video instead of several or the reverse.
    """
    expected = _expected(multi_label, with_offset)
    lines = numbered_lines(path, frames_root)
    records: list[Record] = []
    max_labels = 0  # of a line
    problems = []
    for number, line in lines:
        record, found = parse_line(
            line,
            index=len(records),
            frames_root=frames_root,
            num_classes=num_classes,
            multi_label=multi_label,
            with_offset=with_offset,
        )
        problems += [f"line {number}: {problem}" for problem in found]
        if record:
            records.append(record)
            max_labels = max(max_labels, len(record.label) if multi_label else 1)
    if problems:
        raise UserError(f"{path}, {len(problems)} of its lines are wrong:{listed(problems)}")
    if not records:
        raise UserError(f"{path} is empty; expected lines '{expected}'")
    if multi_label and max_labels == 1:
        number, line = lines[0]
        raise UserError(
            f"{path} has one label per video in all of its {len(records)} lines (line {number}: "
            f"{line!r}), but data.multi_label=True expects several, '{expected}'; set "
            "data.multi_label=False, or use a list with all labels"
        )
    return records


def _expected(multi_label, with_offset):
    line = _SEVERAL if multi_label else _ONE
    return line.replace("<num_frames>", "<offset> <num_frames>") if with_offset else line


def parse_line(line, *, index, frames_root, num_classes, multi_label=False, with_offset=False):
    """Read one line of a list; arguments as in `read_list`.

    Returns:
        A `Record` (`None` if the line is malformed), and a list of problems.
    """
    try:
        found = _fields(line, frames_root, multi_label, with_offset)
    except ValueError as error:
        # The line is clearer than the message of int().
        malformed = f"{line!r} is not '{_expected(multi_label, with_offset)}'"
        return None, [str(error) if isinstance(error, UserError) else malformed]
    path, start, end = found.path, found.start, found.end
    if start is not None and not is_interval(start, end):
        return None, [
            f"{line!r} has a part from {start} to {end} seconds; expected an end after the start"
        ]
    problems = []
    if found.num_frames < 1 and not videos.is_video(path):
        problems.append(f"{path} has {found.num_frames} frames, expected at least 1")
    if found.offset is not None and found.offset < 0:
        problems.append(f"{path} has the offset {found.offset}, expected at least 0")
    label = found.labels if multi_label else found.labels[0]
    problems += label_problems(label, path, num_classes)
    path = os.path.join(frames_root, path)
    if "\\" in path and not os.path.lexists(path):  # a list from Windows
        path = path.replace("\\", "/")
    return Record(index, path, found.num_frames, label, start, end, found.offset), problems


def label_problems(label, name, num_classes):
    """Problems of the label, or the tuple of labels, of the video `name`."""
    return [
        f"label {one} of {name} is not in 0..{num_classes - 1} (num_classes is {num_classes})"
        for one in (label if isinstance(label, tuple) else (label,))
        if not 0 <= one < num_classes
    ]


def numbered_lines(path, root):
    """Pairs `(number from 1, line)` of a list, without blank lines and comments.

    Lines that start with `#` are comments, unless they name a video in `root`.
    """
    lines = enumerate(read_lines(path, "list of videos"), start=1)
    return [pair for pair in lines if pair[1].strip() and not _is_comment(pair[1], root)]


def _is_comment(line, root):
    if not line.lstrip().startswith("#"):
        return False
    try:
        name = _fields(line, root, multi_label=True).path
    except ValueError:
        return True
    return not os.path.exists(os.path.join(root, name))


def lists_videos(path):
    """Whether the first entry of a list is a video file.

    Lines that start with `#` count only where there are no others: most of them are comments.
    """
    lines = [line.strip() for line in read_lines(path, "list of videos") if line.strip()]
    entries = [line for line in lines if not line.startswith("#")] or lines
    return bool(entries) and _FILE.fullmatch(entries[0]) is not None


class _Fields(NamedTuple):
    """The fields of a line, see `Record`; all labels."""

    path: str
    num_frames: int
    labels: tuple[int, ...]
    start: float | None = None
    end: float | None = None
    offset: int | None = None


def _fields(line, frames_root, multi_label, with_offset=False):
    """The `_Fields` of a line; raises `ValueError` if it is malformed."""
    line = line.strip()
    if file := _FILE.fullmatch(line):
        return _fields_of_file(line, file, multi_label)
    if _FILE_AND_NUMBERS.fullmatch(line):
        raise UserError(
            f"{line!r} is neither '<file> <label>' nor '<file> <start> <end> <label>', with times "
            "in seconds and a decimal point, such as 12.500"
        )
    num_counts = 2 if with_offset else 1
    if multi_label:
        folder, *numbers = line.split()
        if len(numbers) == num_counts:
            raise UserError(f"{folder} has no label; leave out videos without one")
    else:
        folder, *numbers = line.rsplit(None, num_counts + 1)
    if len(numbers) <= num_counts:
        raise ValueError(line)
    *offsets, count = map(int, numbers[:num_counts])
    labels = tuple(dict.fromkeys(map(int, numbers[num_counts:])))
    found = _Fields(folder, count, labels, None, None, *offsets)
    if multi_label:
        return found
    _, *middle = folder.split()
    # "a 12 3 4" is a video "a" with two labels, or one that is named "a 12": check the disk.
    several = middle and all(field.isdecimal() for field in middle)
    if several and not os.path.isdir(os.path.join(frames_root, folder)):
        raise UserError(
            f"{line!r} has several labels, expected '{_expected(False, with_offset)}'; for videos "
            "with several labels each set data.multi_label=True; for lines "
            f"'{_expected(False, True)}' data.with_offset=True"
        )
    return found


def _fields_of_file(line, file, multi_label):
    """The `_Fields` of a line of a video file."""
    path, start, end, numbers = file.groups()
    labels = tuple(map(int, numbers.split()))
    times = () if start is None else (float(start), float(end))
    if multi_label:
        return _Fields(path, 0, tuple(dict.fromkeys(labels)), *times)
    if len(labels) == 2 and not times:  # the file has the number of frames
        labels = labels[1:]
    if len(labels) > 1:
        raise UserError(
            f"{line!r} has several labels, expected '<file> <label>'; for videos with several "
            "labels each set data.multi_label=True"
        )
    return _Fields(path, 0, labels, *times)


def multi_hot(labels, num_classes):
    """Multi-hot labels, float32 `[videos, classes]`.

    Raises:
        UserError: a label is not an integer in `0..num_classes - 1`.
    """
    rows = np.zeros((len(labels), num_classes), np.float32)
    for number, (row, found) in enumerate(zip(rows, labels, strict=True)):
        for label in found:
            whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
            if not whole or not 0 <= label < num_classes:  # -1 would be the last class
                raise UserError(
                    f"video {number} (from 0) has the label {label!r}, expected an integer in "
                    f"0..{num_classes - 1}"
                )
        row[list(found)] = 1
    return rows


def read_lines(path, what):
    """The lines of a text file, with any line ends, with or without a byte order mark.

    `what` is its name in messages.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().split("\n")
    except FileNotFoundError:
        raise UserError(
            f"{what} not found: {path}; check data_dir and the files that config.data names"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the {what} {path}: {error}") from None
