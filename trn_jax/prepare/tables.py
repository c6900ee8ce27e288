"""Labelled videos from tables and lists, in the forms in which people keep them.

    .csv .tsv      a video and its class per row, separated by commas, semicolons, tabs or bars,
                   with or without a header; perhaps a column with the split, others are ignored
    .txt           lines `<video> <class>`, `<folder> <number of frames> <class>` (mmaction2), or
                   any of the above
    .json .jsonl   a list of objects with such keys, or an object per line

Lines that begin with `#` are comments. Numbers of rows are those of the lines in an editor.
"""

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
from trn_jax.prepare.examples import Example, split_called
from trn_jax.prepare.video_paths import Resolver

EXTENSIONS_OF_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl")
# What columns are called, best first: names are better than numbers.
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
_TIMES = {
    *("start", "end", "start_time", "end_time", "time_start", "time_end", "begin", "stop"),
    *("start_frame", "end_frame", "start_sec", "end_sec", "t_start", "t_end", "begin_time"),
}
_FILE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, EXTENSIONS))}))\"?\s+(.*)", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"]*)"\s+(.*)')
_BEHIND = re.compile(rf"(?:{'|'.join(map(re.escape, EXTENSIONS))})\"?\s*[,;|]", re.IGNORECASE)
_MARKS = ",;\t|"
_EXPECTED = "a video, its class and perhaps 'train', 'val' or 'test'"
_EXPECTED_LINE = "'<video> <class>'"


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """How a table is read.

    Attributes:
        columns: `{"path" | "label" | "split": header or number from 1}` of those that aren't found
            by their names.
        group_by: name of a column whose values are the groups of the videos; "" for none.
        multi_label: whether cells can have several labels, separated by `;`.
    """

    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    group_by: str = ""
    multi_label: bool = False


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row: its place for messages, its text, and its cells: strings, or lists of labels."""

    place: str
    text: str
    cells: list


@dataclasses.dataclass(frozen=True)
class _Table:
    """The rows of a table, and its header; without one, which column has the videos."""

    rows: list[_Row]
    header: list[str] | None = None
    path_column: int = 0


def read_table(writer, path, root, options):
    """Read a table or a list.

    Args:
        writer: the `DatasetWriter` that what is passed over is reported to.
        path: the table.
        root: the folder that paths in it are relative to.
        options: `TableOptions`.

    Returns:
        A list of `Example`, with paths as they are on the disk.

    Raises:
        UserError: the file is no table, its columns aren't known, or rows are malformed.
    """
    resolver = Resolver(root)
    text = read_text(path)
    extension = os.path.splitext(path)[1].lower()
    if extension in (".json", ".jsonl"):
        table = _json_table(path, text, extension)
    else:
        table = _text_table(path, text, extension, resolver, options.multi_label)
    columns = _columns(path, table, options) if table.rows or table.header else {}
    if not table.rows:
        raise UserError(f"{path} is empty; expected a video and its class per line")
    items, unlabelled = [], []
    for row in table.rows:
        item = _item(path, row, columns, options)
        if item is None:
            unlabelled.append(row.text)
        else:
            items.append(dataclasses.replace(item, path=resolver.resolve(item.path)))
    writer.skip("test videos without a class", unlabelled)
    if resolver.from_elsewhere:
        writer.note(
            f"{resolver.from_elsewhere:,} absolute paths don't exist here; their ends do, in {root}"
        )
    _check_labels(path, items)
    return items


def _item(path, row, columns, options):
    """The `Example` of a row, or `None` for a test video without a class."""

    def cell(what):
        index = columns.get(what)
        return row.cells[index] if index is not None and index < len(row.cells) else ""

    name, split, group = (
        (value if isinstance(value, str) else ";".join(value)).strip()
        for value in map(cell, ("path", "split", "group"))
    )
    labels = cell("label")
    if isinstance(labels, str):
        labels = labels.split(";") if options.multi_label else [labels]
    labels = tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))
    split = split_called(split) if split else ""
    if name and not labels and split == "test":
        return None
    if not name or not labels or split is None:
        expected = _EXPECTED_LINE if row.place.startswith("line") else _EXPECTED
        raise UserError(f"{row.place} of {path} is {row.text!r}; expected {expected}")
    if len(labels) > 1 and not options.multi_label:
        raise UserError(
            f"{row.place} of {path} is {row.text!r}, with {len(labels)} labels; expected one per "
            "video, or --multi-label"
        )
    return Example(name, labels, split, group)


def _check_labels(path, items):
    """Refuse cells like "run;jump" where "run" is a class of other rows, or part of other cells."""
    counts: dict[str, int] = {}
    for label in {label for item in items for label in item.labels}:
        for part in {part.strip() for part in label.split(";")}:
            counts[part] = counts.get(part, 0) + 1
    several = sorted(
        label
        for label in {label for item in items for label in item.labels}
        if ";" in label and any(counts[part.strip()] > 1 for part in label.split(";"))
    )
    if several:
        raise UserError(
            f"{path} has several labels in one cell, such as {several[0]!r}; give --multi-label to "
            "train on all of them, or keep one per video"
        )


# Columns -----------------------------------------------------------------------------------------


def _plain(name):
    """A header for comparisons: "Video File" is "video_file"."""
    return re.sub(r"[\W_]+", "_", str(name).strip().lower()).strip("_")


def _known(header):
    """`{what: index}` of the columns that are known by their names, the best name of each."""
    names = [_plain(cell) for cell in header]
    found = {}
    for what, known in HEADERS.items():
        best = next((name for name in known if name in names), None)
        if best is not None:
            found[what] = names.index(best)
    return found


def _columns(path, table, options):
    """`{what: index}` of all columns that are read."""
    header = table.header
    if header is None:
        width = len(table.rows[0].cells)
        header = [str(number) for number in range(1, width + 1)]
    columns = _known(header)
    for what, name in options.columns.items():
        columns[what] = _find_column(path, header, f"--columns={what}={name}", name)
    if options.group_by:
        flag = f"--group-by={options.group_by}"
        columns["group"] = _find_column(path, header, flag, options.group_by)
    if table.header is None:  # the video, its class, its split, in the columns that are left
        columns.setdefault("path", table.path_column)
        for what in ("label", "split"):
            left = (index for index in range(width) if index not in columns.values())
            columns.setdefault(what, next(left, width))
    _check_columns(path, header, columns, options)
    return columns


def _check_columns(path, header, columns, options):
    missing = [what for what in ("path", "label") if what not in columns]
    if missing:
        shown = ", ".join(map(repr, header))
        known = "; ".join(f"{what}: {', '.join(HEADERS[what])}" for what in missing)
        raise UserError(
            f"the first row of {path} is {shown}, which is neither a video that is there nor a "
            f"known header; known are {known}. Name the columns: --columns=path=...,label=..."
        )
    times = [cell for cell in header if _plain(cell) in _TIMES]
    if times and not options.columns:
        raise UserError(
            f"{path} has columns with times, {', '.join(times)}, but segments of videos aren't "
            "supported: cut the videos first. If each file is one segment already, name the "
            f"columns: --columns=path={header[columns['path']]},label={header[columns['label']]}"
        )


def _find_column(path, header, flag, name):
    names = [_plain(cell) for cell in header]
    if _plain(name) in names:
        return names.index(_plain(name))
    if name.isdecimal() and 1 <= int(name) <= len(header):
        return int(name) - 1
    raise UserError(f"{flag}: {path} has no such column; it has {', '.join(map(str, header))}")


# Text --------------------------------------------------------------------------------------------


def _text_table(path, text, extension, resolver, multi_label):
    lines = text.split("\n")
    # Comments become blank lines, so that the numbers of the others stay.
    lines = ["" if _is_comment(line, resolver) else line for line in lines]
    filled = [line for line in lines if line.strip()]
    if not filled:
        return _Table([])
    mark = "\t" if extension == ".tsv" else _mark(filled[:100], extension)
    if mark is None:
        what = "line" if extension == ".txt" else "row"
        return _Table(_list_rows(lines, what, resolver, multi_label))
    rows = _split_rows(path, lines, mark)
    header = rows[0].cells
    videos = [i for i, cell in enumerate(header) if _names_video(cell, resolver)]
    if {"path", "label"} <= _known(header).keys() or not videos:
        return _Table(rows[1:], header)
    return _Table(rows, path_column=videos[0])


def _names_video(cell, resolver):
    return is_video(cell) or (_plain(cell) not in HEADERS["path"] and resolver.exists(cell))


def _is_comment(line, resolver):
    """Whether a line begins with `#`, and neither names columns nor a video that is called so."""
    line = line.strip()
    if not line.startswith("#"):
        return False
    cells = re.split(rf"[{_MARKS}]", line)
    names_columns = {"path", "label"} <= _known(cells).keys()
    return not (names_columns or resolver.exists(cells[0]) or resolver.exists(line.split()[0]))


def _mark(lines, extension):
    """The mark between cells: that which gives most lines as many cells as the first; or `None`."""
    if (
        extension == ".txt"
        and not {"path", "label"} <= _known(re.split("[,;\t|]", lines[0])).keys()
    ):
        # In a list, marks can be parts of names, but for tabs, or one behind every video.
        if all("\t" in line for line in lines):
            return "\t"
        if not all(map(_BEHIND.search, lines)):
            return None

    def share(mark):
        widths = [len(row) for row in csv.reader(lines, delimiter=mark) if row]
        return sum(width == widths[0] > 1 for width in widths) / len(widths)

    try:
        best = max(_MARKS, key=share)
        return best if share(best) else None
    except csv.Error:  # which reading the whole table reports
        return next((mark for mark in _MARKS if mark in lines[0]), ",")


def _split_rows(path, lines, mark):
    """The rows of a table, numbered like the lines that they begin in."""
    table = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=mark)
    rows: list[_Row] = []
    number = 1
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                number = next(n for n in itertools.count(number) if lines[n - 1].strip())
                rows.append(_Row(f"row {number}", mark.join(cells), cells))
            number = table.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} is no table: {error} (row {number})") from None
    return rows


def _list_rows(lines, what, resolver, multi_label):
    """The rows of a list whose lines are `<video> <class>` or `<folder> <frames> <class>`."""
    rows: list[_Row] = []
    for number, line in enumerate(lines, start=1):
        words = [_plain(word) for word in line.split()]
        is_header = words and words[0] in HEADERS["path"] and words[-1] in HEADERS["label"]
        if words and (rows or not is_header):
            cells = _split_line(line.strip(), resolver, multi_label)
            rows.append(_Row(f"{what} {number}", line, list(cells)))
    return rows


def _split_line(line, resolver, multi_label):
    """The video of a line, and its class: a string, or a list of numbers."""
    if found := _QUOTED.fullmatch(line) or _FILE.fullmatch(line):
        name, rest = found[1].strip('"'), found[2]
    else:
        name, rest = _split_at_existing(line, resolver)
    if len(rest) > 1 and rest[0] == rest[-1] == '"':
        return name, rest[1:-1]
    numbers = rest.split()
    if len(numbers) < 2 or not all(map(str.isdecimal, numbers)):
        return name, rest
    counts_frames = not is_video(name) or (len(numbers) == 2 and not multi_label)
    return name, numbers[1:] if counts_frames else numbers


def _split_at_existing(line, resolver):
    """Names of folders can have spaces, so the longest beginning that is on the disk is taken."""
    spaces = [match.start() for match in re.finditer(r"\s+", line)]
    for end in reversed(spaces):
        if resolver.exists(line[:end]):
            return line[:end], line[end:].strip()
    numbers = re.fullmatch(r"(.*\S)\s+(\d+\s+\d+)", line)
    if numbers:
        return numbers[1], numbers[2]
    name, _, label = line.rpartition(" ")
    return name.strip(), label


# JSON --------------------------------------------------------------------------------------------


def _json_table(path, text, extension):
    """A list of objects as a table, whose header has the keys of all of them."""
    try:
        if extension == ".jsonl":
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or not all of it: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"{path} is not as expected, a list of objects such as "
            '{"video": "a.mp4", "label": "Walking"}'
        )
    header = list(dict.fromkeys(key for entry in entries for key in entry))
    rows = [
        _Row(f"entry {number}", json.dumps(entry), [_json_cell(k, entry.get(k)) for k in header])
        for number, entry in enumerate(entries, start=1)
    ]
    return _Table(rows, header)


def _json_cell(key, value):
    """A value as a cell: text, or a list of labels."""
    if isinstance(value, list):
        return [str(each) for each in value] if _plain(key) in HEADERS["label"] else ""
    text = "" if value is None or isinstance(value, dict) else str(value)
    # Something-Something has brackets around the things of its templates.
    return text.replace("[", "").replace("]", "") if _plain(key) == "template" else text
