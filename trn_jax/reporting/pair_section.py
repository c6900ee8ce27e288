"""The section on classes that are each other backwards, which only order tells apart."""

import dataclasses

import numpy as np

from trn_jax.errors import escaped
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import name, tag
from trn_jax.reporting.evaluated_videos import NoVideos, video_figure

_MOST_PAIRS = 200  # in the table
_WIDTH = 420  # of a bar, pixels


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a run makes of two classes that are each other backwards.

    Attributes:
        labels: the two classes.
        num_videos: of both.
        right: fraction of the videos that are recognised.
        backwards: fraction of which the prediction is the other class of the pair.
    """

    labels: tuple[int, int]
    num_videos: int
    right: float
    backwards: float


def measured_pairs(found):
    """The `Pair`s of `Scores` of one label per video, of which both classes have videos."""
    guesses = np.where(found.is_missing, -1, np.argmax(found.scores, axis=1))
    pairs = []
    for label, other in sorted(found.reversed_class.items()):
        rows = np.isin(found.labels, (label, other))
        both = {label, other} <= set(found.labels[rows].tolist())
        # Of a malformed table, in which a class has two partners, each pair counts once.
        if label >= other or found.reversed_class.get(other) != label or not both:
            continue
        taken, true = guesses[rows], found.labels[rows]
        swapped = np.where(true == label, other, label)
        pairs.append(
            Pair(
                (label, other),
                int(rows.sum()),
                float(np.mean(taken == true)),
                float(np.mean(taken == swapped)),
            )
        )
    return pairs


def pair_section(runs, videos):
    """What runs make of classes that are each other backwards, with frames of one pair.

    Args:
        runs: pairs of what a run is called and its `Scores` of one label per video, of one run or
            two, which are of the same videos and classes, see `matching.aligned`.
        videos: function that opens the videos, see `evaluated_videos.open_videos`.

    Returns:
        A list of `Markup`; empty without such classes.
    """
    titles, scores = zip(*runs, strict=True)
    found = scores[0]
    measured = list(map(measured_pairs, scores))
    if not measured[0]:
        return []
    text = (
        "Each of these classes shows another one backwards. A model that averages over the frames "
        "sees the same in both, and can only guess between them: 50 %."
    )
    items = [
        tag("li", tag("span", name(title)), charts.bar(mean, width=_WIDTH, color=number),
            tag("b", f"{100 * mean:.1f} %"))
        for number, (title, mean) in enumerate(zip(titles, map(_mean, measured), strict=True))
    ]  # fmt: skip
    shown, *_ = max(zip(*measured, strict=True), key=_lead)
    return [
        tag("p", text),
        _figures(found, videos(), shown.labels),
        tag("h3", "Accuracy on the videos of all pairs"),
        tag("ul", items, class_="bars", aria_label="accuracy on the videos of these pairs"),
        _table(found, measured, titles),
    ]


def _lead(pair):
    """How far the first run is ahead of the second one, if there is one."""
    first, *second = pair
    return first.right - sum(each.right for each in second)


def _mean(pairs):
    """Fraction of the videos of all pairs that are recognised."""
    return sum(each.right * each.num_videos for each in pairs) / sum(p.num_videos for p in pairs)


def _figures(found, videos, labels):
    """The surest video of each of some classes, as strips."""
    if isinstance(videos, NoVideos):
        return videos.note()
    figures = []
    for label in labels:
        rows = np.flatnonzero((found.labels == label) & ~found.is_missing)
        if len(rows):
            video = found.videos[rows[np.argmax(found.scores[rows, label])]]
            called = found.class_name(label)
            about = f"a video of {escaped(called)[:200]}"
            figures.append(video_figure(videos, video, name(called), about))
    return tag("div", figures, class_="pair")


def _table(found, measured, titles):
    columns = [
        tables.Column("class"),
        tables.Column("backwards"),
        tables.Column("videos", is_number=True),
        tables.Column("accuracy %", is_number=True),
        tables.Column("confused %", is_number=True, help="taken for the other class of the pair"),
        *(tables.Column("second run %", is_number=True, help=title) for title in titles[1:]),
    ]
    rows = []
    for each, *others in sorted(zip(*measured, strict=True), key=lambda pair: pair[0].right):
        names = [found.class_name(label) for label in each.labels]
        shown = tables.percent(each.right)
        right = tables.Cell([shown.content, " ", charts.bar(each.right, width=72)], shown.value)
        cells = [tables.Cell(name(text), escaped(text)[:200]) for text in names]
        second = [tables.percent(other.right) for other in others]
        rows.append([*cells, each.num_videos, right, tables.percent(each.backwards), *second])
    caption = "Accuracy on the videos of each pair, worst first"
    return tables.table(caption, columns, rows[:_MOST_PAIRS])
