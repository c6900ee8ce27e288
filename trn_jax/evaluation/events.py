"""Events, labelled parts of videos with times: the table `video,start,end,label,score`."""

import csv
import dataclasses
import io
import math
import os
import re

from trn_jax.errors import UserError, listed
from trn_jax.files import as_text, read_text, write_bytes

COLUMNS = ("video", "start", "end", "label", "score")
EXTENSIONS = (".csv", ".tsv")
NOTHING = "nothing"  # the label of a time without events, in a table and in confusions
_MAX_SECONDS = 1e9
_SHORTEST = 0.001  # seconds, the resolution of a written table
_SEPARATORS = ",;\t"
_HEADER = "video,start,end,label[,score]"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d*)?)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A labelled part `[start, end)` of a video.

    Attributes:
        video: its path or name.
        start: seconds from the beginning of the video.
        end: seconds, later than `start`.
        label: name of the class.
        score: of a prediction, higher is surer; `None` if it has none.

    Raises:
        UserError: the video or the label is empty, or a time or the score is out of range.
    """

    video: str
    start: float
    end: float
    label: str
    score: float | None = None

    def __post_init__(self):
        for column in ("video", "label"):
            if not getattr(self, column).strip():
                raise UserError(f"the {column} is empty")
        # NaN compares as false.
        if not 0 <= self.start < self.end <= _MAX_SECONDS:
            raise UserError(
                f"start {self.start:g} and end {self.end:g}; expected 0 <= start < end <= "
                f"{_MAX_SECONDS:g} seconds"
            )
        if self.score is not None and not math.isfinite(self.score):
            raise UserError(f"score {self.score}; expected a finite number")


def write_events(path, events):
    """Write a table of events: CSV in UTF-8 with the header `video,start,end,label,score`.

    Times are in seconds with three decimals, scores have six digits, and are empty if `None`. An
    event that rounds to nothing lasts a millisecond. Names are written as they are, quoted where
    CSV needs it, even if a spreadsheet takes them for a formula (`=...`): a mark in front would
    make them other names when the table is read again. Bytes of file names that are not UTF-8
    become escapes, see `files.as_text`, by which the table finds them again as a source.

    Args:
        path: the file, complete or not there whenever the process is killed.
        events: iterable of `Event`, written in this order.

    Raises:
        UserError: it can't be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for event in events:
        start = round(event.start + 0.0, 3)
        end = max(round(event.end, 3), start + _SHORTEST)
        score = "" if event.score is None else f"{event.score:.6g}"
        table.writerow([event.video, f"{start:.3f}", f"{end:.3f}", event.label, score])
    write_bytes(path, as_text(text.getvalue()).encode())


def read_events(path):
    """Read a table of events: CSV or TSV with a header, see `write_events`.

    Columns may have any order, `score` may be missing, others are ignored. Cells are separated by
    commas, semicolons or tabs; with the latter two, numbers may have decimal commas. Times are in
    seconds (`75.5`) or `[hours:]minutes:seconds` (`0:01:15.5`). Spaces around cells are ignored, as
    are rows that begin with `#` and have fewer cells than the header.

    Returns:
        A list of `Event`, in the order of the file.

    Raises:
        UserError: the file is missing, empty or no such table, or has malformed lines or repeats
            one; all of them are reported.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; expected a table {_HEADER}")
    lines = read_text(path).split("\n")
    first = next((n for n, line in enumerate(lines) if line.strip() and line[0] != "#"), None)
    if first is None:
        raise UserError(f"{path} is empty; expected the header {_HEADER} and an event per line")
    separator, header = _read_header(path, lines[first])
    found: dict[Event, int] = {}  # and their lines
    problems = []
    try:
        for number, cells in _rows(lines[first + 1 :], separator, first + 2):
            if len(cells) < len(header) and cells[0].lstrip().startswith("#"):
                continue
            try:
                event = _parse_row(cells, header, decimal_comma=separator != ",")
            except UserError as error:
                problems.append(f"line {number}: {error}")
                continue
            if event in found:
                problems.append(f"line {number} repeats line {found[event]}")
            found.setdefault(event, number)
    except _MalformedCsv as error:
        problems.append(f"line {error.number}: {error}; nothing after it was read")
    if problems:
        raise UserError(
            f"malformed or repeated lines in {path}: {len(problems):,}; expected {_HEADER}, times "
            f"in seconds or h:mm:ss.mmm{listed(problems)}"
        )
    return list(found)


def _read_header(path, line):
    """The separator of a table, and the names of its columns in lower case."""

    def names(separator):
        return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=separator), [])]

    try:
        separator = max(_SEPARATORS, key=lambda each: len(set(COLUMNS) & set(names(each))))
        header = names(separator)
    except csv.Error as error:
        raise UserError(f"{path} is not a table of events: {error}") from None
    needed = [column for column in COLUMNS[:-1] if column not in header]
    if needed:
        raise UserError(
            f"the header of {path} is {line[:200]!r}, without {', '.join(needed)}; expected "
            f"{_HEADER}, in any order"
        )
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        raise UserError(f"the header of {path} has {', '.join(twice)} twice: {line[:200]!r}")
    return separator, header


class _MalformedCsv(ValueError):
    def __init__(self, message, number):
        super().__init__(message)
        self.number = number


def _rows(lines, separator, number):
    """Pairs of the number of a row's first line and its cells; the first line is `number`."""
    # Strict: a quotation mark that is never closed would swallow the rows that follow it.
    table = csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=separator, strict=True)
    first = number
    while True:
        begins = first + table.line_num
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise _MalformedCsv(error, begins) from None
        if any(cell.strip() for cell in cells):
            yield begins, cells


def _parse_row(cells, header, *, decimal_comma):
    """The `Event` of a row."""
    further = [cell for cell in cells[len(header) :] if cell.strip()]
    if len(cells) < len(header) or further:
        raise UserError(
            f"{len(cells)} cells, the header has {len(header)}; names with the separator need "
            "quotation marks"
        )
    row = dict(zip(header, map(str.strip, cells), strict=False))
    score = row.get("score", "")
    return Event(
        video=row["video"],
        start=_parse_time("start", row["start"], decimal_comma),
        end=_parse_time("end", row["end"], decimal_comma),
        label=row["label"],
        score=_parse_number("score", score, decimal_comma) if score else None,
    )


def _parse_time(column, text, decimal_comma):
    """Seconds."""
    clock = _CLOCK.fullmatch(text.replace(",", ".") if decimal_comma else text)
    if clock is None:
        return _parse_number(column, text, decimal_comma)
    hours, minutes, seconds = (float(part or 0) for part in clock.groups())
    if seconds >= 60 or (clock[1] and minutes >= 60):
        raise UserError(f"{column} {text!r} has 60 or more minutes or seconds")
    return 3600 * hours + 60 * minutes + seconds


def _parse_number(column, text, decimal_comma):
    number = text.replace(",", ".") if decimal_comma else text
    if not _NUMBER.fullmatch(number):
        raise UserError(f"{column} {text!r} is not a number")
    return float(number)
