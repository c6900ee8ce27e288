"""BORIS's exported events (.csv, .tsv), with or without lines about the observation above them.

Aggregated events have a row per part, with `Start (s)` and `Stop (s)`; tabular events have a row
for its beginning and one for its end, of a subject and a behavior. Point events have no length.
"""

import csv
import io
import re

from trn_jax.data.videos import is_video
from trn_jax.errors import UserError
from trn_jax.files import read_text
from trn_jax.prepare.annotated_parts import Annotation, AnnotationFile
from trn_jax.prepare.examples import Part
from trn_jax.prepare.table_rows import normalized
from trn_jax.prepare.times import parse_seconds

EXTENSIONS = (".csv", ".tsv")
_MAX_PREAMBLE = 100  # lines
_BEHAVIOR = ("behavior", "behaviour")
_KIND = ("behavior_type", "behaviour_type", "event_type", "status")
_MEDIA = ("media_file", "media_file_name", "media_file_path", "media_file_s", "source")
_PLAYER = re.compile(r"^(player )?#?\d{1,2}:\s*", re.IGNORECASE)


def is_file(path):
    """Whether a table has the columns of BORIS."""
    return _header(read_text(path)) is not None


def read(path):
    """Read an `AnnotationFile`; `UserError` if times are malformed or no video is named."""
    text = read_text(path)
    number, separator, names = _header(text)
    lines = text.split("\n")
    preamble = "\n".join(lines[: number - 1])
    columns = {name: index for index, name in reversed(list(enumerate(names)))}
    rows = csv.reader(io.StringIO("\n".join(lines[number:]), newline=""), delimiter=separator)
    found = AnnotationFile()
    open_parts: dict[tuple, tuple] = {}
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                row = _Row(f"row {number + rows.line_num}", cells, columns)
                _add(found, open_parts, row, row.video(preamble, separator))
    except csv.Error as error:
        raise UserError(f"it is not a table: {error} (row {number + rows.line_num})") from None
    for row, _ in open_parts.values():
        found.lost.append(f"{row.place}, {row.behavior!r}, begins and has no end")
    return found


class _Row:
    """A row: its place, and its cells by the names of their columns."""

    def __init__(self, place, cells, columns):
        self.place = place
        self._cells = cells
        self._columns = columns

    def __getitem__(self, names):
        """The cell of the first of some columns that there is, or ""."""
        index = next((self._columns[name] for name in names if name in self._columns), None)
        return self._cells[index].strip() if index is not None and index < len(self._cells) else ""

    @property
    def behavior(self):
        return self[_BEHAVIOR]

    def seconds(self, *names):
        """The time in a column."""
        try:
            return parse_seconds(self[names])
        except ValueError as error:
            raise UserError(f"{self.place}, {names[0]}: {error}") from None

    def video(self, preamble, separator):
        """Names of the video, best first, from the row or from the lines above the table."""
        cells = (self[[name]] for name in _MEDIA)
        names = [_PLAYER.sub("", cell, count=1) for cell in cells if cell]
        if not names:
            cells = (cell.strip() for cell in re.split(rf"[{separator}\n]", preamble))
            names = list(dict.fromkeys(cell for cell in cells if is_video(cell)))
            if len(names) != 1:
                raise UserError(
                    f"{self.place} names no media file, and the lines above the table name "
                    f"{len(names)}; export events with the column 'Media file'"
                )
        return tuple(names)


def _add(found, open_parts, row, videos):
    """Add the part of a row; rows that begin one wait in `open_parts` for the one that ends it."""
    kind = row[_KIND].upper()
    if not row.behavior:
        found.skip("rows without a behavior", row.place)
    elif kind == "POINT":
        found.skip("point events, which have no length,", f"{row.place} ({row.behavior})")
    elif row[["start_s", "start"]] or row[["stop_s", "stop"]]:
        part = Part(row.seconds("start_s", "start"), row.seconds("stop_s", "stop"))
        found.annotations.append(Annotation(videos, (row.behavior,), part, row.place))
    elif kind in ("START", "STOP"):
        key = videos, row[["observation_id"]], row[["subject"]], row.behavior
        time = row.seconds("time", "time_s")
        if kind == "START":
            if key in open_parts:
                before = open_parts[key][0].place
                found.lost.append(f"{before}, {row.behavior!r}, begins again before it ends")
            open_parts[key] = row, time
        elif key not in open_parts:
            found.lost.append(f"{row.place}, {row.behavior!r}, ends and has not begun")
        else:
            part = Part(open_parts.pop(key)[1], time)
            found.annotations.append(Annotation(videos, (row.behavior,), part, row.place))
    else:
        found.skip("rows without times", row.place)


def _header(text):
    """Line number from 1, separator and normalized names of the columns; `None` if it is none."""
    for number, line in enumerate(text.split("\n", _MAX_PREAMBLE)[:_MAX_PREAMBLE], start=1):
        for separator in "\t,;":
            names = [normalized(cell.strip('"')) for cell in line.split(separator)]
            has = set(names).intersection
            aggregated = has({"start_s"}) and has({"stop_s"})
            if has(_BEHAVIOR) and (aggregated or (has({"time", "time_s"}) and has(_KIND))):
                return number, separator, names
    return None
