"""Sections on scores: how reliable they are, and what a threshold does."""

import dataclasses
import json

import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation import calibration, metrics
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import middle_cut, tag
from trn_jax.pages.page import note

NUM_STEPS = 100  # thresholds are 0, 0.01, ..., 1
_MOST_CLASSES = 500  # that can be chosen
_MEASURES = (
    ("precision", "fraction of the answers that is right"),
    ("recall", "fraction of the true classes that is found"),
    ("F1", "harmonic mean of precision and recall"),
    ("coverage", "fraction of the videos with an answer"),
)


def reliability_section(found, calibrated=None, temperature=None):
    """How often scores are right, before and after calibration.

    Args:
        found: `Scores` that are probabilities.
        calibrated: those of its readable videos, `[videos, classes]`; `None`: there are none.
        temperature: of the calibration.

    Returns:
        A list of `Markup`.
    """
    read = ~found.is_missing
    labels = found.labels[read]
    series = [("scores", found.scores[read])]
    if calibrated is not None:
        series.append((f"at temperature {temperature:.3g}", calibrated))
    axes = charts.Axes((0, 1), (0, 1), (420, 340))
    parts = axes.grid("mean score", "fraction that is right", x_percent=True, y_percent=True)
    ends = axes.place(0, 0), axes.place(1, 1)
    line = dict(x1=ends[0][0], y1=ends[0][1], x2=ends[1][0], y2=ends[1][1])
    parts.append(tag("line", class_="guide", **line))
    rows, legend = [], []
    for number, (title, scores) in enumerate(series):
        color = 1 - number if len(series) > 1 else 0
        parts.append(_reliability_line(axes, scores, labels, color))
        legend.append((color, title))
        measured = calibration.reliability(scores, labels)
        rows.append([title, tables.percent(measured["ece"], 2), f"{measured['nll']:.4f}"])
    description = "; ".join(f"{r[0]}: expected calibration error {r[1].content} %" for r in rows)
    figure = axes.draw("Reliability", description, parts, legend=legend)
    columns = [
        tables.Column("scores"),
        tables.Column("ECE %", is_number=True),
        tables.Column("NLL", is_number=True),
    ]
    lines = [[row[0], row[1], tables.Cell(row[2], float(row[2]))] for row in rows]
    text = (
        "Scores mean what they say where the line is the dashed one: of the decisions with a score "
        "of 80 %, 80 % are right. The area of a point is the share of decisions."
    )
    caption = "Expected calibration error (ECE) and negative log likelihood (NLL)"
    table = tables.table(caption, columns, lines, sortable=False)
    return tag("div", figure, tag("div", note(text), table), class_="charts")


def _reliability_line(axes, scores, labels, color):
    counts, sums, right = metrics.reliability_bins(scores, labels)
    used = counts > 0
    counts, sums, right = counts[used], sums[used], right[used]
    points = [axes.place(*each) for each in zip(sums / counts, right / counts, strict=True)]
    path = " ".join(f"{x},{y}" for x, y in points)
    drawn = [tag("polyline", points=path, class_=f"line s{color}")]
    places = zip(points, counts, counts / counts.sum(), strict=True)
    for (x, y), count, share in places:
        tip = tag("title", f"{int(count):,} decisions")
        radius = round(2 + 11 * float(np.sqrt(share)), 1)
        drawn.append(tag("circle", tip, cx=x, cy=y, r=radius, class_=f"point s{color}"))
    return drawn


# Thresholds


@dataclasses.dataclass(frozen=True)
class Counts:
    """Decisions by threshold, int arrays.

    Attributes:
        named: how often a class is named, `[classes, NUM_STEPS + 1]`.
        right: how often it is right, the same.
        true: how often it should be, `[classes]`.
        covered: videos that are named anything, `[NUM_STEPS + 1]`.
        num_videos: all videos.
    """

    named: np.ndarray
    right: np.ndarray
    true: np.ndarray
    covered: np.ndarray
    num_videos: int


def threshold_counts(found, scores):
    """Count the decisions at each threshold.

    With one label per video, its best class is named if its score reaches the threshold; with
    several, each class whose score does.

    Args:
        found: the `Scores`, whose unreadable videos are never named anything.
        scores: of its readable videos, probabilities `[videos, classes]`.

    Returns:
        The `Counts`.
    """
    labels = found.labels[~found.is_missing]
    num_classes = found.scores.shape[1]
    steps = np.minimum(np.floor(scores * NUM_STEPS + 1e-4).astype(int), NUM_STEPS)
    best = np.argmax(scores, axis=1) if len(scores) else np.zeros(0, int)
    top = steps[np.arange(len(steps)), best]
    if found.multi_label:
        places = (steps + (NUM_STEPS + 1) * np.arange(num_classes)).ravel()
        is_right = (labels > 0).ravel()
        true = (found.labels > 0).sum(axis=0)
    else:
        places = top + (NUM_STEPS + 1) * best
        is_right = best == labels
        true = np.bincount(found.labels, minlength=num_classes)
    return Counts(
        named=_reached(places, num_classes),
        right=_reached(places[is_right], num_classes),
        true=true,
        covered=_reached(top, 1)[0],
        num_videos=len(found.scores),
    )


def _reached(places, num_classes):
    size = NUM_STEPS + 1
    found = np.bincount(places, minlength=num_classes * size).reshape(num_classes, size)
    return found[:, ::-1].cumsum(axis=1)[:, ::-1]


def measures(named, right, true, covered, num_videos):
    """Fractions by threshold: `{"precision", "recall", "F1", "coverage": [n]}`, NaN for none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / np.where(named > 0, named, np.nan),
            "recall": right / (true or np.nan),
            "F1": 2 * right / np.where(named + true > 0, named + true, np.nan),
            "coverage": covered / num_videos,
        }


def threshold_section(found, scores):
    """What remains of the answers above a threshold, with a slider.

    Args:
        found: the `Scores`.
        scores: see `threshold_counts`.

    Returns:
        A list of `Markup`; the script `thresholds` makes the slider work.
    """
    counts = threshold_counts(found, scores)
    named, right = counts.named.sum(axis=0), counts.right.sum(axis=0)
    true = int(counts.true.sum())
    curves = measures(named, right, true, counts.covered, counts.num_videos)
    thresholds = np.arange(NUM_STEPS + 1) / NUM_STEPS
    best = int(np.nanargmax(np.nan_to_num(curves["F1"])))
    chart = charts.line_chart(
        "By threshold",
        [(key, thresholds, values) for key, values in curves.items()],
        x="threshold",
        percent=True,
        y_range=(0, 1),
        description=f"F1 is highest at {thresholds[best]:.2f}",
    )
    labels = range(len(counts.true)) if len(counts.true) <= _MOST_CLASSES else ()
    cards = [
        tag(
            "li", tag("b", _text(curves[key][best]), data_measure=key), tag("span", key, ": ", help)
        )
        for key, help in _MEASURES
    ]
    text = "The answers for a video are " + (
        "all classes whose scores reach the threshold."
        if found.multi_label
        else "its best class, or none if the score of that is below the threshold."
    )
    return tag(
        "div",
        note(text),
        _controls([found.class_name(label) for label in labels], best),
        tag("ul", cards, class_="cards"),
        tag("div", chart, _threshold_table(curves, thresholds), class_="charts"),
        class_="thresholds",
        data_thresholds=json.dumps(_stored(counts, labels), separators=(",", ":")),
    )


def _controls(class_names, best):
    """The slider of the threshold, at step `best`, and the choice of a class."""
    options = [tag("option", "all classes", value="all")]
    options += [
        tag("option", middle_cut(escaped(name), 60), value=label, dir="auto")
        for label, name in enumerate(class_names)
    ]
    return tag(
        "div",
        tag("label", "threshold ", tag("output", f"{best / NUM_STEPS:.2f}"), for_="threshold"),
        tag("input", type="range", id="threshold", min=0, max=NUM_STEPS, step=1, value=best),
        tag("label", "class", for_="threshold-class"),
        tag("select", options, id="threshold-class"),
        class_="controls",
        hidden=True,
    )


_PLANE = charts.Axes((0, 1), (0, 1))  # of `charts.line_chart`


def _stored(counts, labels):
    """What the script `thresholds` computes with: counts by threshold, of all classes and each."""
    named, right = counts.named.sum(axis=0), counts.right.sum(axis=0)
    return {
        "videos": counts.num_videos,
        "corners": [*_PLANE.place(0, 0), *_PLANE.place(1, 1)],
        "all": [named.tolist(), right.tolist(), int(counts.true.sum()), counts.covered.tolist()],
        "classes": [
            [counts.named[label].tolist(), counts.right[label].tolist(), int(counts.true[label])]
            for label in labels
        ],
    }


def _text(value):
    return "-" if np.isnan(value) else f"{100 * value:.1f} %"


def _threshold_table(curves, thresholds):
    columns = [tables.Column("threshold", is_number=True)]
    columns += [tables.Column(f"{key} %", is_number=True, help=help) for key, help in _MEASURES]
    rows = []
    for step in range(0, NUM_STEPS, NUM_STEPS // 10):
        values = [tables.percent(float(each[step])) for each in curves.values()]
        rows.append([f"{thresholds[step]:.1f}", *values])
    return tables.table("All classes together", columns, rows, sortable=False, compact=True)
