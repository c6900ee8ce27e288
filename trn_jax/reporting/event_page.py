"""The page of predicted events: metrics, classes, confusions by time, and timelines."""

import collections

import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation import tables as text_tables
from trn_jax.evaluation.event_metrics import temporal_iou
from trn_jax.evaluation.events import NOTHING
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import join, middle_cut, name, tag
from trn_jax.pages.page import MAX_BYTES, contents, note, page, section
from trn_jax.reporting.confusion_section import confusions_table
from trn_jax.reporting.run_sections import card, percent

_LIMITS = (1000, 200, 40)  # rows of tables: the first with which the page is small enough
_MOST_VIDEOS = 12  # with a timeline
_MOST_EVENTS = 400  # in one
_IOU = 0.5  # of an event that is found
_WIDTH, _TRACK = 420, 16  # of a timeline


def event_page(title, result, truth, predictions, remarks):
    """Make the page of predicted events.

    Args:
        title: of the predictions.
        result: see `event_report.evaluate_events`.
        truth: true events.
        predictions: predicted ones, with the names that the truth has for their videos.
        remarks: texts on what didn't match.

    Returns:
        The HTML, of at most 10 MB.
    """
    for limit in _LIMITS:
        sections = _sections(result, truth, predictions, remarks, limit)
        top = [_headline(result), contents([each[:2] for each in sections])]
        bodies = [section(*each) for each in sections]
        lead = "Predicted events, compared with the true ones"
        text = page(f"Report on {escaped(title)}", top, bodies, lead=lead, scripts=("sorting",))
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _headline(result):
    cards = [
        card(percent(value), text_tables.title_of(key))
        for key, value in result["metrics"].items()
        if value is not None and not key.startswith("map_at")
    ]
    total = result["total"]
    cards.append(card(f"{result['videos']:,}", "videos"))
    cards.append(card(f"{total['num_matched']:,} of {total['num_true']:,}", "true events found"))
    return tag("ul", cards, class_="cards")


def _sections(result, truth, predictions, remarks, limit):
    confusions = _confusions(result)
    sections = [
        ("classes", "Classes", _classes(result, limit)),
        ("confusions", "Confusions by time", confusions),
        ("timelines", "Timelines", _timelines(truth, predictions)),
    ]
    if remarks:
        listed = [tag("p", join(remark.split("\n"), tag("br"))) for remark in remarks]
        sections.append(("remarks", "Remarks", listed))
    return sections


def _classes(result, limit):
    thresholds = result["thresholds"] if "map" in result["metrics"] else []
    columns = [
        tables.Column("class"),
        *(tables.Column(each, is_number=True) for each in ("true", "predicted", "matched")),
        *(tables.Column(f"{each} %", is_number=True) for each in ("F1", "precision", "recall")),
        *(tables.Column(f"AP@{each:g} %", is_number=True) for each in thresholds),
    ]
    rows = []
    for row in sorted(result["per_class"], key=lambda row: (row["f1"], row["name"]))[:limit]:
        precisions = row["average_precision"] or [None] * len(thresholds)
        shown = tables.percent(row["f1"])
        bar = charts.bar(row["f1"], width=64)
        rows.append(
            [
                tables.Cell(name(row["name"]), escaped(row["name"])[:200]),
                *(row[key] for key in ("num_true", "num_predicted", "num_matched")),
                tables.Cell([shown.content, " ", bar], shown.value),
                *(tables.percent(row[key]) for key in ("precision", "recall")),
                *map(tables.percent, precisions),
            ]
        )
    caption = f"F1 of events at temporal IoU {_IOU:g} of each class, worst first"
    parts = [tables.table(caption, columns, rows, compact=len(rows) > 30)]
    if len(result["per_class"]) > limit:
        parts.append(note(f"The {limit} worst of {len(result['per_class']):,} classes."))
    return parts


def _confusions(result):
    whole: collections.Counter[str] = collections.Counter()
    for true, _, seconds in result["confusion"]:
        whole[true] += seconds
    wrong = [each for each in result["confusion"] if each[0] != each[1]]
    longest = sorted(wrong, key=lambda each: -each[2])[: text_tables.NUM_PAIRS]
    if not longest:
        return tag("p", "No time has a wrong label.")
    rows = [
        (true, taken, tables.Cell(f"{seconds:,.1f}", seconds), seconds / whole[true])
        for true, taken, seconds in longest
    ]
    return confusions_table("The longest confusions", "seconds", rows)


def _timelines(truth, predictions):
    """Timelines of the videos with the most mistakes."""
    by_video: dict[str, tuple[list, list]] = {}
    for number, events in enumerate((truth, predictions)):
        for event in events:
            pair = by_video.setdefault(event.video, ([], []))
            if event.label != NOTHING:
                pair[number].append(event)
    drawn = []
    for video, (true, found) in by_video.items():
        right, hit = _found(true, found), _found(found, true)
        mistakes = right.count(False) + hit.count(False)
        drawn.append((mistakes, video, true, right, found, hit))
    drawn.sort(key=lambda each: -each[0])
    text = (
        f"The videos with the most mistakes. Above: true events, blue if they are found; below: "
        f"predicted events, blue if they are right (same class, temporal IoU of at least {_IOU:g})."
    )
    figures = [_timeline(*each[1:]) for each in drawn[:_MOST_VIDEOS] if each[2] or each[4]]
    return [note(text), tag("div", figures, class_="charts")]


def _found(events, others):
    """Whether each event has one of the same class among others."""
    times = collections.defaultdict(list)
    for other in others:
        times[other.label].append((other.start, other.end))
    return [
        event.label in times
        and bool((temporal_iou(event, np.array(times[event.label])) >= _IOU - 1e-9).any())
        for event in events
    ]


def _timeline(video, true, right, found, hit):
    end = max(event.end for event in [*true, *found])
    axes = charts.Axes((0, end), (0, 1), (_WIDTH, 2 * (_TRACK + 6) + 34))
    parts = []
    for row, (events, marks) in enumerate(((true, right), (found, hit))):
        top = 14 + row * (_TRACK + 6)
        left, right_end = axes.place(0, 0)[0], axes.place(end, 0)[0]
        track = dict(x=left, y=top, width=round(right_end - left, 1), height=_TRACK)
        parts.append(tag("rect", rx=3, class_="track", **track))
        parts.append(tag("text", ("true", "found")[row], x=left - 6, y=top + 12, class_="end"))
        for event, mark in list(zip(events, marks, strict=True))[:_MOST_EVENTS]:
            begin, stop = axes.place(event.start, 0)[0], axes.place(event.end, 0)[0]
            times = f"{event.start:.1f} - {event.end:.1f} s"
            tip = tag("title", f"{escaped(event.label)[:120]}, {times}")
            shape = dict(x=begin, y=top, width=max(round(stop - begin, 1), 1), height=_TRACK)
            parts.append(tag("rect", tip, class_=f"fill s{0 if mark else 1}", rx=2, **shape))
    bottom = 14 + 2 * (_TRACK + 6) + 12
    for value in charts.ticks(0, end):
        x = axes.place(value, 0)[0]
        parts.append(tag("text", f"{value:g} s", x=x, y=bottom, class_="middle"))
    missed, wrong = right.count(False), hit.count(False)
    description = f"{missed} of {len(true)} true events missed, {wrong} of {len(found)} wrong"
    legend = [(0, "right"), (1, "missed or wrong")]
    return axes.draw(middle_cut(escaped(video), 120), description, parts, legend=legend)
