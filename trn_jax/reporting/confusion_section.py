"""The section on confusions: the matrix, the worst pairs, and frames of confused videos."""

import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation.tables import most_confused
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import middle_cut, name, tag
from trn_jax.pages.page import note
from trn_jax.reporting.evaluated_videos import NoVideos, video_figure

_MOST_IN_MATRIX = 60  # classes
_MOST_NAMED = 20  # classes whose columns have names, and cells numbers
_NUM_PAIRS = 6  # with frames
_PER_PAIR = 2  # videos
_SHADES = 10  # classes m1..m10 of style.css


def confusion_section(found, videos):
    """What classes are taken for.

    Args:
        found: `Scores` of one label per video.
        videos: function that opens the videos, see `evaluated_videos.open_videos`.

    Returns:
        A list of `Markup`.
    """
    confusion = found.confusion()
    pairs = most_confused(confusion)
    if not pairs:
        return [tag("p", "No video is taken for another class.")]
    parts = []
    if len(confusion) <= _MOST_IN_MATRIX:
        parts.append(_matrix(found, confusion))
    else:
        parts.append(note(f"Only the worst pairs of {len(confusion)} classes are shown."))
    parts.append(_pairs_table(found, pairs))
    parts.append(tag("h3", "Confused videos"))
    opened = videos()
    if isinstance(opened, NoVideos):
        return [*parts, opened.note()]
    shown = pairs[:_NUM_PAIRS]
    text = (
        f"Of the {len(shown)} most frequent confusions, the videos with the highest scores of the "
        "wrong class; frames from equal parts of each video, in order."
    )
    return [*parts, note(text), *(_pair_figures(found, opened, *pair[2:]) for pair in shown)]


def _matrix(found, confusion):
    num_classes = len(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    is_small = num_classes <= _MOST_NAMED
    labels = range(num_classes)
    names = [found.class_name(label) for label in labels]
    heads = [
        tag("th", tag("span", name(names[c]) if is_small else c), scope="col",
            title=middle_cut(escaped(names[c]), 120))
        for c in labels
    ]  # fmt: skip
    corner = tag("td", "true class \\ prediction")
    rows = [tag("tr", corner, heads)]
    for label in labels:
        head = tag("th", name(names[label]), None if is_small else f" {label}", scope="row")
        cells = []
        for other in labels:
            share, count = shares[label, other], int(confusion[label, other])
            if not count:
                cells.append(tag("td"))
                continue
            # The square root makes rare confusions visible, too.
            shade = max(1, round(_SHADES * float(np.sqrt(share))))
            text = f"{100 * share:.0f}" if is_small else ""
            kind = "hit" if other == label else "miss"
            title = f"{count:,} videos, {100 * share:.1f} %"
            cells.append(tag("td", text, class_=f"{kind} m{shade}", title=title))
        rows.append(tag("tr", head, cells))
    caption = "Predictions (columns) of the videos of each class (rows), per cent of the row"
    table = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", rows[0]),
        tag("tbody", rows[1:]),
        class_=f"matrix {'small' if is_small else 'large'}",
    )
    return tag("div", table, class_="scroll whole", tabindex="0", role="region", aria_label=caption)


def _pairs_table(found, pairs):
    rows = [
        (found.class_name(true), found.class_name(taken), count, share)
        for count, share, true, taken in pairs
    ]
    return confusions_table("The most frequent confusions", "videos", rows)


def confusions_table(caption, unit, rows):
    """A table of confused classes, with a bar for each share.

    Args:
        caption: of the table.
        unit: what is counted.
        rows: tuples of the true class, the class it is taken for, a number or a `tables.Cell` of
            what is counted, and its fraction of all of the class.

    Returns:
        The `Markup` of the table.
    """
    columns = [
        tables.Column("true class"),
        tables.Column("taken for"),
        tables.Column(unit, is_number=True),
        tables.Column("of the class %", is_number=True),
    ]
    cells = []
    for true, taken, amount, share in rows:
        names = [tables.Cell(name(each), escaped(each)[:200]) for each in (true, taken)]
        shown = tables.percent(share)
        bar = charts.bar(share, color=1, width=72)
        cells.append([*names, amount, tables.Cell([shown.content, " ", bar], shown.value)])
    return tables.table(caption, columns, cells)


def _pair_figures(found, videos, true, taken):
    """The videos of a class that are most surely taken for another one, as strips."""
    guesses = np.argmax(found.scores, axis=1)
    rows = np.flatnonzero((found.labels == true) & (guesses == taken) & ~found.is_missing)
    surest = rows[np.argsort(-found.scores[rows, taken], kind="stable")][:_PER_PAIR]
    names = name(found.class_name(true)), name(found.class_name(taken))
    figures = []
    for row in surest:
        wrong, right = (f" {found.scores[row, label]:.2f}" for label in (taken, true))
        scores = ["; predicted ", names[1], wrong, ", true ", names[0], right]
        caption = ["video ", name(found.videos[row]), scores]
        figures.append(video_figure(videos, found.videos[row], caption, "the video"))
    heading = tag("h4", names[0], " taken for ", names[1])
    return tag("div", heading, figures, class_="pair")
