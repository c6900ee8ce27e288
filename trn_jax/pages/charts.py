"""Charts as inline SVG: lines over an axis, columns, and small bars for tables."""

import math
from typing import Any

import numpy as np

from trn_jax.pages.markup import tag

NUM_COLORS = 6  # classes s0..s5 of style.css
_MOST_POINTS = 400  # of a line
_MOST_MARKED = 24  # points of a line that has a dot at each
_WIDTH, _HEIGHT = 420, 250  # units of a chart, pixels where there is room
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 16, 38


class Axes:
    """The plane of a chart, from values to places.

    Args:
        x: `(lowest, highest)` value on the horizontal axis.
        y: the same on the vertical one.
        size: `(width, height)` of the chart.
    """

    def __init__(self, x, y, size=(_WIDTH, _HEIGHT)):
        self.width, self.height = size
        self.x, self.y = x, y

    def place(self, x, y):
        """Where a value is, `(x, y)` from the upper left corner."""
        return (
            round(_LEFT + (self.width - _LEFT - _RIGHT) * _share(x, self.x), 1),
            round(self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * _share(y, self.y), 1),
        )

    def grid(self, x_title, y_title, *, x_percent=False, y_percent=False, x_ticks=True):
        """Lines, numbers and titles of the axes, a list of `Markup`."""
        left, bottom = self.place(self.x[0], self.y[0])
        right, top = self.place(self.x[1], self.y[1])
        parts = []
        for value in ticks(*self.y):
            _, y = self.place(self.x[0], value)
            parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            text = _number(value, y_percent)
            parts.append(tag("text", text, x=left - 6, y=y + 4, class_="end"))
        for value in ticks(*self.x) if x_ticks else []:
            x, _ = self.place(value, self.y[0])
            parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
            text = _number(value, x_percent)
            parts.append(tag("text", text, x=x, y=bottom + 16, class_="middle"))
        parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        middle = (left + right) / 2
        parts.append(tag("text", x_title, x=middle, y=self.height - 4, class_="middle axis-title"))
        if y_title:
            parts.append(tag("text", y_title, x=left, y=top - 4, class_="axis-title"))
        return parts

    def draw(self, title, description, *parts, legend=()):
        """The figure with everything that is drawn.

        Args:
            title: of the chart.
            description: what it shows, for those who don't see it.
            *parts: `Markup` of SVG.
            legend: pairs of the number of a colour and a text or `Markup`.
        """
        image = tag(
            "svg",
            tag("title", title),
            tag("desc", description),
            parts,
            viewBox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=f"{title}. {description}",
        )
        keys = [
            tag("li", _swatch(color), text, class_="key") for color, text in legend
        ]  # read in the order of the drawing
        caption = tag("figcaption", tag("b", title, dir="auto"), tag("ul", keys) if keys else None)
        return tag("figure", caption, image, class_="chart")


def line_chart(
    title,
    series,
    *,
    x,
    y="",
    percent=False,
    x_percent=False,
    x_range=None,
    y_range=None,
    colors=None,
    description=None,
):
    """Draw lines.

    Args:
        title: of the chart.
        series: `(name, xs, ys)` per line; the first `NUM_COLORS` have colours of their own.
        x: title of the horizontal axis.
        y: title of the vertical one.
        percent: values are fractions.
        x_percent: places on the horizontal axis are fractions.
        x_range: of the horizontal axis; by default that of the lines.
        y_range: of the vertical axis; by default from 0 (or the lowest value, if that is negative)
            to the highest value.
        colors: numbers of the colours of the lines; by default in order.
        description: what it shows, for those who don't see it; by default the first and the last
            value of each line.

    Returns:
        The `Markup` of a figure.
    """
    drawn = _finite_lines(series, colors or range(len(series)))
    if not drawn:
        return tag("p", f"{title}: no values", class_="note")
    every_x = np.concatenate([xs for _, _, xs, _ in drawn])
    every_y = np.concatenate([ys for _, _, _, ys in drawn])
    axes = Axes(
        x_range or _range(every_x.min(), every_x.max()),
        y_range or _round_range(min(every_y.min(), 0), 1 if percent else every_y.max()),
    )
    parts = axes.grid(x, y, x_percent=x_percent, y_percent=percent)
    for color, _, xs, ys in drawn:
        parts += _line([axes.place(*point) for point in zip(xs, ys, strict=True)], color)
    if description is None:
        description = "; ".join(
            f"{name}: from {_number(ys[0], percent)} to {_number(ys[-1], percent)}"
            for _, name, _, ys in drawn
        )
    legend = [(color, name) for color, name, _, _ in drawn]
    return axes.draw(title, description, parts, legend=legend)


def _finite_lines(series, colors):
    """Lines that have values: `(number of the colour, name, xs, ys)`, thinned."""
    found: list[tuple[int, Any, np.ndarray, np.ndarray]] = []
    for color, (name, xs, ys) in zip(colors, series, strict=True):
        xs, ys = np.asarray(xs, float), np.asarray(ys, float)
        finite = np.isfinite(xs) & np.isfinite(ys)
        if finite.any():
            found.append((color % NUM_COLORS, name, *thinned(xs[finite], ys[finite])))
    return found


def _line(points, color):
    """A line through points in pixels; those of a short line are marked."""
    path = " ".join(f"{px},{py}" for px, py in points)
    parts = [tag("polyline", points=path, class_=f"line s{color}")]
    if len(points) <= _MOST_MARKED:
        parts += [tag("circle", cx=px, cy=py, r=2.5, class_=f"dot s{color}") for px, py in points]
    return parts


def column_chart(title, values, labels, *, errors=None, y="", description, marked=()):
    """Draw a column per value, up from 0 or down.

    Args:
        title: of the chart.
        values: `[n]`.
        labels: texts of a few characters below the columns.
        errors: half the length of their error bars, `[n]`, or `None`.
        y: title of the vertical axis.
        description: what it shows, for those who don't see it.
        marked: numbers of columns in another colour.

    Returns:
        The `Markup` of a figure.
    """
    values = np.nan_to_num(np.asarray(values, float))
    errors = np.zeros(len(values)) if errors is None else np.nan_to_num(np.asarray(errors, float))
    low, high = np.min(values - errors, initial=0), np.max(values + errors, initial=0)
    axes = Axes((0, max(len(values), 1)), _round_range(low, high))
    parts = axes.grid("", y, x_ticks=False)
    _, zero = axes.place(0, 0)
    for number, (value, error, label) in enumerate(zip(values, errors, labels, strict=True)):
        left, end = axes.place(number + 0.15, value)
        right, _ = axes.place(number + 0.85, value)
        kind = "s1" if number in marked else "s0"
        height = round(max(abs(end - zero), 0.5), 1)
        shape = dict(x=left, y=min(end, zero), width=round(right - left, 1), height=height)
        tip = tag("title", f"{label}: {value:.3g}" + (f" ± {error:.2g}" if error else ""))
        parts.append(tag("rect", tip, class_=f"fill {kind}", **shape))
        middle = round((left + right) / 2, 1)
        if error:
            _, upper = axes.place(0, value + error)
            _, lower = axes.place(0, value - error)
            parts.append(tag("line", x1=middle, x2=middle, y1=upper, y2=lower, class_="error"))
        parts.append(tag("text", label, x=middle, y=axes.height - _BOTTOM + 16, class_="middle"))
    parts.append(tag("line", x1=_LEFT, x2=axes.width - _RIGHT, y1=zero, y2=zero, class_="axis"))
    return axes.draw(title, description, parts)


def bar(value, *, low=0.0, high=1.0, error=None, title=None, color=0, width=96):
    """A small horizontal bar, for a table or a caption.

    Args:
        value: a number; the bar begins at 0, or at `low` if that is higher.
        low: at the left end.
        high: at the right end.
        error: half the length of an error bar, or `None`.
        title: a text that the pointer shows; without it the bar is an ornament, for a number beside
            it.
        color: 0..5.
        width: pixels.
    """
    low, high = (low, high) if high > low else (low, low + 1)
    value = value if math.isfinite(value) else 0.0

    def place(number):
        return round(width * min(max((number - low) / (high - low), 0), 1), 1)

    zero, end = place(max(low, 0)), place(value)
    parts = [
        tag("rect", x=0, y=3, width=width, height=8, rx=2, class_="track"),
        tag("rect", x=min(zero, end), y=3, width=round(abs(end - zero), 1), height=8, rx=2,
            class_=f"fill s{color}"),
    ]  # fmt: skip
    if low < 0:
        parts.append(tag("line", x1=zero, x2=zero, y1=0, y2=14, class_="axis"))
    if error:
        ends = place(value - error), place(value + error)
        parts.append(tag("line", x1=ends[0], x2=ends[1], y1=7, y2=7, class_="error"))
    about = dict(role="img", aria_label=title) if title else dict(aria_hidden="true")
    parts = [tag("title", title), *parts] if title else parts
    return tag(
        "svg", parts, viewBox=f"0 0 {width} 14", width=width, height=14, class_="bar", **about
    )


def _swatch(color):
    shape = tag("rect", x=0, y=3, width=14, height=6, rx=2, class_=f"fill s{color}")
    return tag("svg", shape, viewBox="0 0 14 12", width=14, height=12, aria_hidden="true")


def thinned(xs, ys, most=_MOST_POINTS):
    """Points of a line, of many only the lowest and highest of each part, in their order."""
    if len(xs) <= most:
        return xs, ys
    kept = {0, len(xs) - 1}
    for part in np.array_split(np.arange(len(xs)), most // 2 - 1):
        kept |= {int(part[np.argmin(ys[part])]), int(part[np.argmax(ys[part])])}
    order = sorted(kept)
    return xs[order], ys[order]


def ticks(low, high, most=5):
    """Round numbers from `low` to `high`, about `most` of them."""
    step = round_part((high - low) / most)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [step * number for number in range(first, last + 1)]


def round_part(value):
    """The next of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ..., for a positive value."""
    scale = 10.0 ** math.floor(math.log10(value))
    # A hair below, as powers of ten are rounded.
    return next(scale * unit for unit in (1, 2, 5, 10) if scale * unit >= value * (1 - 1e-9))


def _range(low, high):
    low, high = float(low), float(high)
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))


def _round_range(low, high, most=5):
    """Ends of an axis at round numbers."""
    low, high = _range(low, high)
    step = round_part((high - low) / most)
    return step * math.floor(low / step + 1e-6), step * math.ceil(high / step - 1e-6)


def _share(value, ends):
    return min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)


def _number(value, percent=False):
    if percent:
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value + 0.0:.4g}"
