"""Labelled videos from tables and lists.

    .csv .tsv      a video and its class per row, separated by commas, semicolons, tabs or bars,
                   with or without a header; perhaps a column with the split; others are ignored
    .txt           lines `<video> <class>`, `<folder> <number of frames> <class>` (mmaction2), or
                   any of the above
    .json .jsonl   a list of objects with such keys, or an object per line

Lines that begin with `#` are comments. Row numbers in messages are line numbers of the file.
"""

import collections
import dataclasses

from trn_jax.errors import UserError
from trn_jax.prepare.examples import Example, split_called
from trn_jax.prepare.table_rows import HEADERS, known_columns, normalized, read_rows
from trn_jax.prepare.video_paths import PathResolver

_TIMES = {
    *("start", "end", "start_time", "end_time", "time_start", "time_end", "begin", "stop"),
    *("start_frame", "end_frame", "start_sec", "end_sec", "t_start", "t_end", "begin_time"),
}
_EXPECTED = "a video, its class and perhaps 'train', 'val' or 'test'"
_EXPECTED_LINE = "'<video> <class>'"


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes:
        columns: `{"path", "label" or "split": header, or number from 1}` of columns without a known
            name.
        group_by: column of the groups of the videos; "" for none.
        multi_label: whether cells can have several labels, separated by `;`.
    """

    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    group_by: str = ""
    multi_label: bool = False


def read_table(writer, path, root, options):
    """Read a table or a list: `Example`s with paths as they are on the disk.

    Args:
        writer: the `DatasetWriter` that notes what is skipped.
        path: the table.
        root: folder that paths in it are relative to.
        options: `TableOptions`.

    Raises:
        UserError: the file is not a table, its columns are unknown, or rows are malformed.
    """
    resolver = PathResolver(root)
    table = read_rows(path, resolver, multi_label=options.multi_label)
    columns = _find_columns(path, table, options) if table.rows or table.header else {}
    if not table.rows:
        raise UserError(f"{path} is empty; expected a video and its class per line")
    examples, unlabelled = [], []
    for row in table.rows:
        example = _example(path, row, columns, options)
        if example is None:
            unlabelled.append(row.text)
        else:
            examples.append(dataclasses.replace(example, path=resolver.resolve(example.path)))
    writer.skip("test videos without a class", unlabelled)
    if resolver.num_foreign:
        writer.note(
            f"{resolver.num_foreign:,} absolute paths don't exist here; their ends do, in {root}"
        )
    _check_labels(path, examples)
    return examples


def _example(path, row, columns, options):
    """The `Example` of a row, or `None` for a test video without a class."""

    def cell(column):
        index = columns.get(column)
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


def _check_labels(path, examples):
    """Reject cells like "run;jump" if "run" is also a class or part of another cell."""
    labels = {label for example in examples for label in example.labels}
    parts = {label: {part.strip() for part in label.split(";")} for label in labels}
    counts = collections.Counter(part for each in parts.values() for part in each)
    several = sorted(
        label for label in labels if ";" in label and any(counts[part] > 1 for part in parts[label])
    )
    if several:
        raise UserError(
            f"{path} has several labels in one cell, such as {several[0]!r}; give --multi-label to "
            "train on all of them, or keep one per video"
        )


def _find_columns(path, table, options):
    """`{"path", "label", "split" or "group": index}`."""
    header = table.header
    if header is None:
        width = len(table.rows[0].cells)
        header = [str(number) for number in range(1, width + 1)]
    columns = known_columns(header)
    for column, name in options.columns.items():
        columns[column] = _find_column(path, header, f"--columns={column}={name}", name)
    if options.group_by:
        flag = f"--group-by={options.group_by}"
        columns["group"] = _find_column(path, header, flag, options.group_by)
    if table.header is None:  # the video, its class, its split, in the remaining columns
        columns.setdefault("path", table.path_column)
        for column in ("label", "split"):
            left = (index for index in range(width) if index not in columns.values())
            columns.setdefault(column, next(left, width))
    _check_columns(path, header, columns, options)
    return columns


def _check_columns(path, header, columns, options):
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        shown = ", ".join(map(repr, header))
        known = "; ".join(f"{column}: {', '.join(HEADERS[column])}" for column in missing)
        raise UserError(
            f"the first row of {path} is {shown}, neither an existing video nor a known header; "
            f"known are {known}. Name the columns: --columns=path=...,label=..."
        )
    times = [cell for cell in header if normalized(cell) in _TIMES]
    if times and not options.columns:
        raise UserError(
            f"{path} has columns with times, {', '.join(times)}, but segments of videos aren't "
            "supported: cut the videos first. If each file is one segment already, name the "
            f"columns: --columns=path={header[columns['path']]},label={header[columns['label']]}"
        )


def _find_column(path, header, flag, name):
    names = [normalized(cell) for cell in header]
    if normalized(name) in names:
        return names.index(normalized(name))
    if name.isdecimal() and 1 <= int(name) <= len(header):
        return int(name) - 1
    raise UserError(f"{flag}: {path} has no such column; it has {', '.join(map(str, header))}")
