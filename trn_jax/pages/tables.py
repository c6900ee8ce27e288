"""Tables of a page, with caption and scopes; a script makes them sortable."""

import dataclasses
import math
from typing import Any

from trn_jax.pages.markup import Markup, join, tag


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that shows one thing and is sorted by another.

    Attributes:
        content: a text, a number or `Markup`.
        value: a number or text; `None`: sorted last.
    """

    content: Any
    value: Any = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: a text.
        is_number: numbers stand on the right, and are sorted as numbers, largest first.
        help: what it means, in a sentence, shown when the pointer rests on the title.
    """

    title: str
    is_number: bool = False
    help: str | None = None


def table(caption, columns, rows, *, sortable=True, compact=False):
    """Build a table.

    Args:
        caption: a text or `Markup`.
        columns: `Column`s; the first cell of each row is its heading.
        rows: lists of cells: texts, numbers, `Markup` or `Cell`.
        sortable: whether the script makes its headings buttons that sort.
        compact: low rows.

    Returns:
        The `Markup`: the table in a region that scrolls, also by keyboard.
    """
    heads = [
        tag("th", each.title, scope="col", class_=_class(each), title=each.help) for each in columns
    ]
    body = [
        tag("tr", [_cell(cell, *each) for cell, each in zip(row, enumerate(columns), strict=True)])
        for row in rows
    ]
    found = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", heads)),
        tag("tbody", join(body, Markup("\n"))),
        class_="compact" if compact else None,
        data_sortable=sortable and len(rows) > 1,
    )
    label = "table, scrolls" if isinstance(caption, Markup) else caption
    return tag("div", found, class_="scroll", tabindex="0", role="region", aria_label=label)


def _class(column):
    return "number" if column.is_number else None


def _cell(cell, number, column):
    content, value = (cell.content, cell.value) if isinstance(cell, Cell) else (cell, None)
    if value is None and not isinstance(cell, Cell) and column.is_number:
        value = cell
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    kind = dict(class_=_class(column), data_value=value)
    return tag("td", content, **kind) if number else tag("th", content, scope="row", **kind)


def percent(fraction, digits=1):
    """A cell with a fraction in per cent; "-" for `None`."""
    if fraction is None or not math.isfinite(fraction):
        return Cell("-")
    return Cell(f"{100 * fraction:.{digits}f}", round(float(fraction), 6))
