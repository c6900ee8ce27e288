"""Rows of tables and lists: CSV, TSV, text and JSON, with or without a header."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re

from trn_jax.data.videos import EXTENSIONS, is_video
from trn_jax.errors import UserError
from trn_jax.files import read_text

TABLE_EXTENSIONS = (".csv", ".tsv", ".txt", ".json", ".jsonl")
# Names of columns, best first: names of classes before their numbers.
HEADERS = {
    "path": (
        *("path", "video_path", "videopath", "file_path", "filepath", "clip_path", "frame_dir"),
        *("frames_path", "video", "file", "filename", "file_name", "video_file", "video_name"),
        *("clip", "clip_name", "video_id", "videoid", "youtube_id", "ytid", "clip_id", "vid"),
        *("folder", "directory", "dir", "url", "uri", "src", "name", "id"),
    ),
    "label": (
        *("template", "class_name", "classname", "label_name", "action_name", "gloss", "label"),
        *("labels", "class", "classes", "category", "categories", "action", "actions", "activity"),
        *("gesture", "sign", "word", "verb", "target", "tag", "tags", "class_id", "label_id"),
        *("class_index", "label_index"),
    ),
    "split": ("split", "subset", "set", "partition", "phase", "usage"),
}
_VIDEO_END = rf"(?:{'|'.join(map(re.escape, EXTENSIONS))})"
_FILE_FIRST = re.compile(rf"(.*{_VIDEO_END})\"?\s+(.*)", re.IGNORECASE)
_QUOTED_FIRST = re.compile(r'"([^"]*)"\s+(.*)')
_FILE_AND_MARK = re.compile(rf"{_VIDEO_END}\"?\s*[,;|]", re.IGNORECASE)
_DECIMAL = re.compile(r"\d+\.\d+", re.ASCII)
_TIMES_FIRST = re.compile(rf"({_DECIMAL.pattern})\s+({_DECIMAL.pattern})\s+(\S.*)", re.ASCII)
_TIMES = ("start", "end")
_SEPARATORS = ",;\t|"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        place: for messages, such as "row 3".
        text: the row itself.
        cells: strings, or lists of labels.
    """

    place: str
    text: str
    cells: list


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a table.

    Attributes:
        rows: a list of `Row`.
        header: names of the columns; `None` if there is no header.
        path_column: index of the column of the videos if there is no header.
        times: `{"start": index, "end": index}` of the times of parts if there is no header.
    """

    rows: list[Row]
    header: list[str] | None = None
    path_column: int = 0
    times: dict[str, int] = dataclasses.field(default_factory=dict)


def read_rows(path, resolver, *, multi_label):
    """Read a `Table` from a file of one of `TABLE_EXTENSIONS`.

    The `PathResolver` recognizes videos. With `multi_label`, lines of a list can have
    several labels.

    Raises:
        UserError: it is malformed.
    """
    text = read_text(path)
    extension = os.path.splitext(path)[1].lower()
    if extension in (".json", ".jsonl"):
        return _json_table(path, text, extension)
    # Comments become blank lines, which keeps the line numbers.
    lines = ["" if _is_comment(line, resolver) else line for line in text.split("\n")]
    filled = [line for line in lines if line.strip()]
    if not filled:
        return Table([])
    separator = "\t" if extension == ".tsv" else _separator(filled[:100], extension)
    if separator is None:
        what = "line" if extension == ".txt" else "row"
        rows = _list_rows(lines, what, resolver, multi_label)
        timed = any(len(row.cells) > 2 for row in rows)
        return Table(rows, times={"start": 2, "end": 3} if timed else {})
    rows = _split_rows(path, lines, separator)
    first = rows[0].cells
    videos = [i for i, cell in enumerate(first) if _names_video(cell, resolver)]
    if _names_columns(first) or not videos:
        return Table(rows[1:], first)
    times = [i for i, cell in enumerate(first) if _DECIMAL.fullmatch(cell.strip())]
    is_timed = len(times) == 2 and len(first) > 3
    return Table(
        rows, path_column=videos[0], times=dict(zip(_TIMES, times, strict=True)) if is_timed else {}
    )


def normalized(name):
    """A header for comparisons: "Video File" is "video_file"."""
    return re.sub(r"[\W_]+", "_", str(name).strip().lower()).strip("_")


def known_columns(header):
    """`{"path", "label" or "split": index}` of the columns with known names."""
    names = [normalized(cell) for cell in header]
    found = {}
    for column, known in HEADERS.items():
        best = next((name for name in known if name in names), None)
        if best is not None:
            found[column] = names.index(best)
    return found


def _names_columns(cells):
    return {"path", "label"} <= known_columns(cells).keys()


def _names_video(cell, resolver):
    return is_video(cell) or (normalized(cell) not in HEADERS["path"] and resolver.exists(cell))


# CSV, TSV and text


def _is_comment(line, resolver):
    """Whether a line begins with `#`, and is neither a header nor begins with a video."""
    line = line.strip()
    if not line.startswith("#"):
        return False
    cells = re.split(rf"[{_SEPARATORS}]", line)
    is_row = resolver.exists(cells[0]) or resolver.exists(line.split()[0])
    return not (_names_columns(cells) or is_row)


def _separator(lines, extension):
    """The separator that splits most lines into as many cells as the first; `None` for a list."""
    if extension == ".txt" and not _names_columns(re.split(rf"[{_SEPARATORS}]", lines[0])):
        # In a list, separators can be parts of names, except tabs, or one behind every video.
        if all("\t" in line for line in lines):
            return "\t"
        if not all(map(_FILE_AND_MARK.search, lines)):
            return None

    def share(separator):
        widths = [len(row) for row in csv.reader(lines, delimiter=separator) if row]
        return sum(width == widths[0] > 1 for width in widths) / len(widths)

    try:
        best = max(_SEPARATORS, key=share)
        return best if share(best) else None
    except csv.Error:  # `_split_rows` reports it
        return next((each for each in _SEPARATORS if each in lines[0]), ",")


def _split_rows(path, lines, separator):
    """The rows of a table, numbered like the lines that they begin in."""
    table = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator)
    rows: list[Row] = []
    number = 1
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                number = next(n for n in itertools.count(number) if lines[n - 1].strip())
                rows.append(Row(f"row {number}", separator.join(cells), cells))
            number = table.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error} (row {number})") from None
    return rows


def _list_rows(lines, what, resolver, multi_label):
    """The rows of a list of lines `<video> <class>` or `<folder> <frames> <class>`."""
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        words = [normalized(word) for word in line.split()]
        is_header = words and words[0] in HEADERS["path"] and words[-1] in HEADERS["label"]
        if words and (rows or not is_header):
            cells = _split_line(line.strip(), resolver, multi_label)
            rows.append(Row(f"{what} {number}", line, list(cells)))
    return rows


def _split_line(line, resolver, multi_label):
    """The cells of a line: its video, its class (text or a list of numbers), times of a part."""
    if found := _QUOTED_FIRST.fullmatch(line) or _FILE_FIRST.fullmatch(line):
        name, rest = found[1].strip('"'), found[2]
    else:
        name, rest = _split_at_existing(line, resolver)
    if is_video(name) and (timed := _TIMES_FIRST.fullmatch(rest)):
        start, end, rest = timed.groups()
        numbers = rest.split()
        several = multi_label and all(map(str.isdecimal, numbers))
        return name, numbers if several else rest.strip('"'), start, end
    if len(rest) > 1 and rest[0] == rest[-1] == '"':
        return name, rest[1:-1]
    numbers = rest.split()
    if len(numbers) < 2 or not all(map(str.isdecimal, numbers)):
        count, _, label = rest.partition(" ")
        counts_frames = count.isdecimal() and count == str(resolver.num_files(name))
        return name, label.strip() if counts_frames and label else rest
    counts_frames = not is_video(name) or (len(numbers) == 2 and not multi_label)
    return name, numbers[1:] if counts_frames else numbers


def _split_at_existing(line, resolver):
    """Split behind the longest existing path, as names of folders can have spaces."""
    spaces = [match.start() for match in re.finditer(r"\s+", line)]
    for end in reversed(spaces):
        if resolver.exists(line[:end]):
            return line[:end], line[end:].strip()
    if numbers := re.fullmatch(r"(.*\S)\s+(\d+\s+\d+)", line):
        return numbers[1], numbers[2]
    name, _, label = line.rpartition(" ")
    return name.strip(), label


# JSON


def _json_table(path, text, extension):
    """A list of objects as a table, whose header has the keys of all objects."""
    try:
        if extension == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not complete JSON: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f'{path} is not a list of objects, such as {{"video": "a.mp4", "label": "Walking"}}'
        )
    header = list(dict.fromkeys(key for entry in entries for key in entry))
    rows = [
        Row(f"entry {number}", json.dumps(entry), [_json_cell(k, entry.get(k)) for k in header])
        for number, entry in enumerate(entries, start=1)
    ]
    return Table(rows, header)


def _json_cell(key, value):
    """A value as a cell: text, or a list of labels."""
    if isinstance(value, list):
        return [str(each) for each in value] if normalized(key) in HEADERS["label"] else ""
    text = "" if value is None or isinstance(value, dict) else str(value)
    # Templates of Something-Something have brackets around objects.
    return text.replace("[", "").replace("]", "") if normalized(key) == "template" else text
