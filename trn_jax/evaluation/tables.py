"""Tables of results as text: metrics, classes, confusions."""

import numpy as np

from trn_jax.errors import escaped

_METRIC_NAMES = {
    "mean_class": "mean class",
    "reversed_class": "reversed class",
    "partner": "reversed class",  # in results of version 0.1
    "map": "mAP",
    "map_by_video": "mAP by video",
    "event_f1": "event F1",
    "frame_accuracy": "frame accuracy",
    "lr": "learning rate",
}
NUM_PAIRS = 20  # confusions in a table


def protocol_table(results):
    """Table of metrics, one line per protocol."""
    return metric_table(
        ["protocol", "views", "videos"],
        [
            ([r["protocol"], str(r["num_views"]), str(r["num_videos"])], r["metrics"])
            for r in results
        ],
    )


def early_table(found):
    """Table of the metrics after each tenth of the frames, of a streamed result."""
    rows = []
    for each in found["early_recognition"]:
        values = {name: value for name, value in each.items() if name != "share"}
        rows.append(([f"{each['share']:.0%}"], values))
    return metric_table(["frames seen"], rows)


def fusion_table(parts):
    """Table of metrics of pairs `(name, Scores)`."""
    rows = [([name, str(len(found.scores))], found.metrics()) for name, found in parts]
    return metric_table(["scores", "videos"], rows)


def class_table(rows):
    """Per-class accuracy table, worst first; see `Scores.per_class`."""
    name = "accuracy" if "accuracy" in rows[0] else "average_precision"
    ordered = sorted(rows, key=lambda row: -1 if row[name] is None else row[name])
    return "\n".join(
        f"{'   none' if row[name] is None else f'{100 * row[name]:6.2f}'} %  "
        f"{row['videos']:6d} videos  {row['label']:4d} {escaped(row['name'])}"
        for row in ordered
    )


def confused_pairs(found, count=NUM_PAIRS):
    """Table of the most frequent confusions, or ""."""
    rows = [
        (str(number), share, found.class_name(true), found.class_name(taken))
        for number, share, true, taken in most_confused(found.confusion(), count)
    ]
    return confusion_table("videos", rows)


def most_confused(confusion, count=NUM_PAIRS):
    """The most frequent confusions: `(number, fraction of the true class, true label, predicted)`.

    Args:
        confusion: counts `[classes, classes]`, a row per true class.
        count: how many, at most.
    """
    videos = confusion.sum(axis=1)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    true, taken = np.nonzero(wrong)
    counts = wrong[true, taken]
    most = np.argsort(-counts, kind="stable")[:count]
    return [
        (int(number), float(number / videos[row]), int(row), int(column))
        for number, row, column in zip(counts[most], true[most], taken[most], strict=True)
    ]


def confusion_table(unit, rows):
    """Table of confusions, or "" if there are none.

    Args:
        unit: what is counted.
        rows: `(count as text, fraction of the true class, true class, predicted class)`.
    """
    lines = [[count, f"{100 * share:.1f} %", *names] for count, share, *names in rows]
    return aligned([[unit, "of class", "true class", "taken for"], *lines], "rrll") if rows else ""


def title_of(metric):
    """The name of a metric in a table: `"top5"` -> `"top-5"`."""
    if metric.startswith("map_at_"):
        return f"mAP@{metric.removeprefix('map_at_')}"
    is_top_k = metric.startswith("top") and metric[3:].isdecimal()
    return f"top-{metric[3:]}" if is_top_k else _METRIC_NAMES.get(metric, metric)


def metric_table(header, rows):
    """Table of rows `(cells, metrics)`, with the names of the columns of `cells` as `header`.

    Metrics are fractions, printed in per cent; `None` is printed as "-".
    """
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    lines = [header + [title_of(name) for name in names]]
    for cells, found in rows:
        values = [percent(found[name]) if name in found else "" for name in names]
        lines.append(cells + values)
    return aligned(lines, "l" + "r" * (len(lines[0]) - 1))


def percent(fraction):
    """A fraction in per cent, with two decimals; "-" for `None`."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def aligned(lines, sides):
    """Table of lines of cells, with a rule below the first.

    Args:
        lines: lists of text, all of the same length.
        sides: "l" or "r" per column.
    """
    lines = [[escaped(cell) for cell in cells] for cells in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(cells, widths, sides, strict=True)
        )
        for cells in lines
    ]
    rule = "-" * max(map(len, texts))
    return "\n".join(text.rstrip() for text in [texts[0], rule, *texts[1:]])
