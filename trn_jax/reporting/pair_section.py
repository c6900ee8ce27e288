"""The section on classes that are each other backwards, which only order tells apart."""

import dataclasses

import numpy as np

from trn_jax.errors import UserError, escaped
from trn_jax.pages import charts, pictures, tables
from trn_jax.pages.markup import middle_cut, name, tag
from trn_jax.pages.page import note
from trn_jax.reporting.confused_frames import NoVideos, open_videos

_MOST_PAIRS = 200  # in the table
_SIDE = 96  # pixels of a frame
_WIDTH = 420  # of a bar, pixels
_MOST_OF_REASON = 1_000  # characters


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


def pair_section(runs, workdir):
    """What runs make of classes that are each other backwards, with frames of one pair.

    Args:
        runs: pairs of what a run is called and its `runs.Result`, of one run or two.
        workdir: of the first run, where its synthetic data set is.

    Returns:
        A list of `Markup`; empty without such classes or the scores of the first run.
    """
    found = runs[0][1].scores
    if found is None or found.multi_label or not measured_pairs(found):
        return []
    measured = [
        (title, measured_pairs(result.scores))
        for title, result in runs
        if result.scores is not None and not result.scores.multi_label
    ]
    text = (
        "Each of these classes shows another one backwards. A model that averages over the frames "
        "sees the same in both, and can only guess between them: 50 %."
    )
    items = [
        tag("li", tag("span", name(title)), charts.bar(each, width=_WIDTH, color=number), tag("b",
            f"{100 * each:.1f} %"))
        for number, (title, each) in enumerate((title, _mean(pairs)) for title, pairs in measured)
        if each is not None
    ]  # fmt: skip
    accuracy = tag("ul", items, class_="bars", aria_label="accuracy on the videos of these pairs")
    first = measured[0][1]
    seconds = {each.labels: each for each in measured[1][1]} if len(measured) > 1 else {}
    shown = max(first, key=lambda each: _distance(each, seconds.get(each.labels)))
    return [
        tag("p", text),
        _figures(found, runs[0][1], workdir, shown.labels),
        tag("h3", "Accuracy on the videos of all pairs"),
        accuracy,
        _table(found, first, [title for title, _ in measured], seconds),
    ]


def _mean(pairs):
    """Fraction of the videos of all pairs that are recognised; `None` without pairs."""
    total = sum(each.num_videos for each in pairs)
    return sum(each.right * each.num_videos for each in pairs) / total if total else None


def _distance(pair, second):
    """How far a second run is behind, for the order of the pairs."""
    return pair.right - (second.right if second else pair.backwards)


def _figures(found, result, workdir, labels):
    """The surest video of each of some classes, as strips."""
    videos = open_videos(result, workdir) if found.videos else NoVideos("they have no names")
    if isinstance(videos, NoVideos):
        reason = middle_cut(escaped(videos.reason), _MOST_OF_REASON)
        return note(f"Their frames can't be shown: {reason}")
    return tag("div", [_strip(found, videos, label) for label in labels], class_="pair")


def _strip(found, videos, label):
    rows = np.flatnonzero((found.labels == label) & ~found.is_missing)
    caption = tag("figcaption", name(found.class_name(label)))
    if not len(rows):
        return tag("figure", caption, note("No video can be read."))
    video = found.videos[rows[np.argmax(found.scores[rows, label])]]
    try:
        frames = videos.strip(video)
    except UserError as error:
        reason = middle_cut(escaped(error), _MOST_OF_REASON)
        return tag("figure", caption, note(f"The video can't be shown: {reason}"))
    about = f"{len(frames)} frames of a video of {escaped(found.class_name(label))[:200]}, in order"
    return tag("figure", caption, pictures.strip(frames, label=about, side=_SIDE))


def _table(found, pairs, titles, seconds):
    columns = [
        tables.Column("class"),
        tables.Column("backwards"),
        tables.Column("videos", is_number=True),
        tables.Column("accuracy %", is_number=True),
        tables.Column("confused %", is_number=True, help="taken for the other class of the pair"),
    ]
    if len(titles) > 1:
        columns.append(tables.Column("second run %", is_number=True, help=titles[1]))
    rows = []
    for each in sorted(pairs, key=lambda each: each.right)[:_MOST_PAIRS]:
        names = [found.class_name(label) for label in each.labels]
        shown = tables.percent(each.right)
        right = tables.Cell([shown.content, " ", charts.bar(each.right, width=72)], shown.value)
        cells = [tables.Cell(name(text), escaped(text)[:200]) for text in names]
        row = [*cells, each.num_videos, right, tables.percent(each.backwards)]
        if len(titles) > 1:
            second = seconds.get(each.labels)
            row.append(tables.percent(second and second.right))
        rows.append(row)
    return tables.table("Accuracy on the videos of each pair, worst first", columns, rows)
