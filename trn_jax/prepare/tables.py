"""Labelled videos from tables and lists.

    .csv .tsv      a video and its class per row, separated by commas, semicolons, tabs or bars,
                   with or without a header; perhaps columns with the split, and with start and end
                   of the part of the video (see `times`); others are ignored
    .txt           lines `<video> <class>`, `<folder> <number of frames> <class>` (mmaction2), or
                   any of the above
    .json .jsonl   a list of objects with such keys, or an object per line

Lines that begin with `#` are comments. Row numbers in messages are line numbers of the file.
"""

import collections
import dataclasses

from trn_jax.errors import UserError, listed
from trn_jax.prepare.examples import Example, Part, split_called
from trn_jax.prepare.table_rows import HEADERS, known_columns, normalized, read_rows
from trn_jax.prepare.times import is_time, parse_seconds, time_columns
from trn_jax.prepare.video_paths import PathResolver

_EXPECTED = "a video, its class and perhaps 'train', 'val' or 'test'"
_EXPECTED_PART = "video,start,end,label, with times in seconds or h:mm:ss"
_EXPECTED_LINE = "'<video> <class>'"


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes:
        columns: `{"path", "label", "split", "start" or "end": header, or number from 1}` of columns
            without a known name.
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
        UserError: the file is not a table, its columns are unknown, or rows are malformed; all of
            them are reported.
    """
    resolver = PathResolver(root)
    table = read_rows(path, resolver, multi_label=options.multi_label)
    columns = _find_columns(path, table, options) if table.rows or table.header else {}
    if not table.rows:
        raise UserError(f"{path} is empty; expected a video and its class per line")
    examples, unlabelled, refused, lost = [], [], [], []
    for row in table.rows:
        try:
            example = _example(row, columns, options)
            part = _part(row, columns) if example else None
        except _MalformedRow as error:
            refused.append((row, str(error)))
            continue
        if example is None:
            unlabelled.append(row.text)
        elif part and not part.is_interval:
            lost.append(f"{row.place}, {example.path} [{part}]")
            refused.append((row, f"where {part} doesn't end after its start, or begins before 0"))
        else:
            place = resolver.resolve(example.path)
            examples.append(dataclasses.replace(example, path=place, part=part))
    if len(refused) > len(lost):  # parts that are none are left out, but corrected with the others
        raise _malformed(path, table, columns, refused)
    writer.skip("test videos without a class", unlabelled)
    writer.lose("parts that don't end after their start, or begin before their video", lost)
    if not examples and lost:
        raise UserError(f"no part in {path} ends after its start, such as {lost[0]}")
    if resolver.num_foreign:
        writer.note(
            f"{resolver.num_foreign:,} absolute paths don't exist here; their ends do, in {root}"
        )
    _check_labels(path, examples)
    return examples


class _MalformedRow(Exception):
    """What is wrong with a row."""


def _malformed(path, table, columns, refused):
    """The error for rows that can't be used, pairs of a `Row` and the reason."""
    expected = _EXPECTED_LINE if refused[0][0].place.startswith("line") else _EXPECTED
    if "start" in columns and table.header is not None:
        expected = _EXPECTED_PART
    if len(refused) == 1:
        row, reason = refused[0]
        return UserError(f"{row.place} of {path} is {row.text!r}, {reason}; expected {expected}")
    lines = [f"{row.place} is {row.text!r}, {reason}" for row, reason in refused]
    return UserError(
        f"{path} has {len(refused):,} rows that can't be used; expected {expected}{listed(lines)}"
    )


def _part(row, columns):
    """The `Part` of a row, `None` without times; `_MalformedRow` if they are none."""
    if "start" not in columns:
        return None
    cells = [_cell(row, columns, name) for name in ("start", "end")]
    if not any(str(cell).strip() for cell in cells):
        return None
    try:
        return Part(*map(parse_seconds, cells))
    except ValueError as error:
        raise _MalformedRow(f"where {error}") from None


def _cell(row, columns, column):
    """The value of a row in a column; "" if there is none."""
    index = columns.get(column)
    return row.cells[index] if index is not None and index < len(row.cells) else ""


def _example(row, columns, options):
    """The `Example` of a row, or `None` for a test video without a class.

    Raises:
        _MalformedRow: it has no video or class, an unknown split or too many labels.
    """
    name, split, group = (
        (value if isinstance(value, str) else ";".join(value)).strip()
        for value in (_cell(row, columns, column) for column in ("path", "split", "group"))
    )
    labels = _cell(row, columns, "label")
    if isinstance(labels, str):
        labels = labels.split(";") if options.multi_label else [labels]
    labels = tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))
    known = split_called(split) if split else ""
    if name and not labels and known == "test":
        return None
    if not name or not labels:
        raise _MalformedRow(f"without a {'class' if name else 'video'}")
    if known is None:
        raise _MalformedRow(f"where {split!r} is not 'train', 'val' or 'test'")
    if len(labels) > 1 and not options.multi_label:
        raise _MalformedRow(f"with {len(labels)} labels, not one or --multi-label")
    return Example(name, labels, known, group)


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
        columns |= table.times
        columns.setdefault("path", table.path_column)
        for column in ("label", "split"):
            left = (index for index in range(width) if index not in columns.values())
            columns.setdefault(column, next(left, width))
    _check_columns(path, header, columns)
    if options.columns.keys() - {"split"} == {"path", "label"}:
        return columns  # each file is one part already
    return columns | _time_columns(path, header, columns)


def _check_columns(path, header, columns):
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        shown = ", ".join(map(repr, header))
        known = "; ".join(f"{column}: {', '.join(HEADERS[column])}" for column in missing)
        raise UserError(
            f"the first row of {path} is {shown}, neither an existing video nor a known header; "
            f"known are {known}. Name the columns: --columns=path=...,label=..."
        )


def _time_columns(path, header, columns):
    """`{"start": index, "end": index}` of the columns of parts, if there are any."""
    given = {name: columns[name] for name in ("start", "end") if name in columns}
    if len(given) == 1:
        raise UserError("--columns names start or end of parts; name both: start=...,end=...")
    names = [normalized(cell) for cell in header]
    found = given or time_columns(names)
    others = [cell for cell, name in zip(header, names, strict=True) if is_time(name)]
    if others and not found:
        raise UserError(
            f"{path} has columns with times, {', '.join(others)}, but not start and end of parts "
            "in seconds. Name these columns: --columns=start=...,end=...; or, if each file is one "
            "part already, name the others: "
            f"--columns=path={header[columns['path']]},label={header[columns['label']]}"
        )
    return found


def _find_column(path, header, flag, name):
    names = [normalized(cell) for cell in header]
    if normalized(name) in names:
        return names.index(normalized(name))
    if name.isdecimal() and 1 <= int(name) <= len(header):
        return int(name) - 1
    raise UserError(f"{flag}: {path} has no such column; it has {', '.join(map(str, header))}")
