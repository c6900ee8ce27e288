"""Sections of the page of a run: headline, classes and training curves."""

import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation import tables as text_tables
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import middle_cut, name, tag
from trn_jax.pages.page import facts, note
from trn_jax.reporting.runs import is_count, is_fraction

_PROVENANCE = (
    ("checkpoint", "checkpoint"),
    ("step", "step"),
    ("model", "model"),
    ("split", "split"),
    ("list", "list"),
    ("list SHA-256", "list_sha256"),
    ("recipe SHA-256", "config_sha256"),
    ("evaluated", "time"),
    ("trn_jax", "trn_jax"),
    ("JAX", "jax"),
    ("temperature", "temperature"),
    ("fusion", "fusion"),
)
_MOST_PROTOCOLS = 8  # columns of the table of classes
_MOST_LINES = 12  # in a chart
_HEAD = 40  # characters of a foreign name in the head of a table or a legend


def card(value, title):
    """A large value with its title."""
    return tag("li", tag("b", value), tag("span", title))


def headline(run, result, top_k):
    """Metrics of a result, those of the other protocols, and where they come from."""
    measured = result.metrics(top_k)
    cards = [
        card(percent(value), _cut(text_tables.title_of(key)))
        for key, value in measured.items()
        if is_fraction(value)
    ]
    cards.append(card(f"{result.num_videos:,}", "videos"))
    parts = [tag("ul", cards, class_="cards")]
    unread = unreadable(result)
    if unread:
        parts.append(note(f"{unread:,} videos are unreadable and count as wrong."))
    draws = result.entries.get("num_draws")
    if is_count(draws) and draws > 1 and result.scores:
        parts.append(note(f"This is the first of {draws} draws; {_over_draws(result.entries)}."))
    if len(run.results) > 1:
        parts.append(_protocols(run, top_k))
    return [*parts, provenance(result)]


def _over_draws(entries):
    """Means over draws in words, with their standard deviations."""
    spread = entries.get("spread")
    known = spread if isinstance(spread, dict) else {}
    texts = [
        f"{_cut(text_tables.title_of(key))} {percent(value)}"
        + (f" ± {percent(known[key])}" if is_fraction(known.get(key)) else "")
        for key, value in entries.get("metrics", {}).items()
        if is_fraction(value)
    ]
    return f"over all of them, {', '.join(texts)}" if texts else "their scores differ"


def provenance(result):
    """Where a result comes from."""
    about = result.about
    known = [(title, about.get(key)) for title, key in _PROVENANCE]
    pairs = [
        (title, name(f"{value:.4g}" if isinstance(value, float) else value))
        for title, value in known
        if value not in (None, "")
    ]
    return facts([("protocol", name(result.protocol)), *pairs])


def unreadable(result):
    """Number of unreadable videos."""
    if result.scores is not None:
        return int(result.scores.is_missing.sum())
    count = result.entries.get("num_unreadable")
    return count if type(count) is int else 0


def _protocols(run, top_k):
    found = [(each, each.metrics(top_k)) for each in run.results]
    keys = list(dict.fromkeys(key for _, measured in found for key in measured))
    columns = [tables.Column("protocol"), tables.Column("views", is_number=True)]
    columns += [tables.Column("videos", is_number=True)]
    columns += [
        tables.Column(f"{_cut(text_tables.title_of(key))} %", is_number=True) for key in keys
    ]
    rows = []
    for each, measured in found:
        views = each.entries.get("num_views")
        cells = [
            tables.Cell(name(each.protocol), each.protocol[:200]),
            views if type(views) is int else tables.Cell("-"),
            each.num_videos,
        ]
        rows.append([*cells, *(fraction_cell(measured.get(key)) for key in keys)])
    return tables.table("All protocols of this run", columns, rows)


def class_section(run, result, limit):
    """The table of the classes, worst first, with a column for each protocol."""
    rows = result.per_class
    kind = "accuracy" if rows and "accuracy" in rows[0] else "average_precision"
    title = {"accuracy": "accuracy", "average_precision": "average precision"}[kind]
    others = {
        each.protocol: {row["name"]: row.get(kind) for row in each.per_class}
        for each in run.results
        if each is not result
    }
    others = dict(list(others.items())[: _MOST_PROTOCOLS - 1])
    details = _details(result.scores)
    columns = [
        tables.Column("class"),
        tables.Column("label", is_number=True),
        tables.Column("videos", is_number=True),
        tables.Column(f"{title} %", is_number=True, help=f"of protocol {_cut(result.protocol)}"),
        *([tables.Column("precision %", is_number=True)] if details else []),
        *(tables.Column(f"{_cut(each)} %", is_number=True) for each in others),
        *([tables.Column("most often taken for")] if details else []),
    ]
    ordered = sorted(rows, key=lambda row: -1 if row[kind] is None else row[kind])
    cells = []
    for row in ordered[:limit]:
        value = row[kind]
        precision, taken = details.get(row["label"], (None, ""))
        shown = fraction_cell(value)
        bar = charts.bar(value, width=72) if is_fraction(value) else None
        cells.append(
            [
                tables.Cell(name(row["name"]), str(row["name"])[:200]),
                row["label"],
                row["videos"],
                tables.Cell([shown.content, " ", bar], shown.value),
                *([fraction_cell(precision)] if details else []),
                *(fraction_cell(each.get(row["name"])) for each in others.values()),
                *([taken] if details else []),
            ]
        )
    caption = f"{title.capitalize()} of each class, worst first"
    parts = [tables.table(caption, columns, cells, compact=len(cells) > 30)]
    if len(ordered) > limit:
        parts.append(note(f"The {limit} worst of {len(ordered):,} classes."))
    return parts


def _details(found):
    """`{label: (precision, what its videos are most often taken for)}` of single labels."""
    if found is None or found.multi_label:
        return {}
    confusion = found.confusion()
    predicted = confusion.sum(axis=0)
    wrong = confusion - np.diag(np.diag(confusion))
    details = {}
    for label, row in enumerate(wrong):
        most = int(np.argmax(row))
        taken = [name(found.class_name(most)), f" ({int(row[most]):,})"] if row[most] else "-"
        right = confusion[label, label]
        precision = float(right / predicted[label]) if predicted[label] else None
        details[label] = (precision, tables.Cell(taken, escaped(found.class_name(most))[:200]))
    return details


def training_section(run):
    """Charts of the training: loss, learning rate, and each metric of training and validation."""
    curves = run.curves()
    panels: dict[str, list] = {}
    for panel, lines in curves.items():
        for title, steps, values in _in_steps(lines):
            group, _, metric = title.partition(" ")
            panels.setdefault(metric, []).append((panel, group, steps, values))
    if not panels:
        return None
    groups = list(dict.fromkeys(line[1] for lines in panels.values() for line in lines))
    last = max([1, *(line[2][-1] for lines in panels.values() for line in lines)])
    order = ["loss", "learning rate"]
    figures = []
    for metric in sorted(panels, key=lambda each: order.index(each) if each in order else 2):
        is_share = panels[metric][0][0] == "curves"
        chart = charts.line_chart(
            metric,
            [line[1:] for line in panels[metric][:_MOST_LINES]],
            x="step",
            percent=is_share,
            x_range=(0, last),
            y_range=(0, 1) if is_share else None,
            colors=[groups.index(line[1]) for line in panels[metric][:_MOST_LINES]],
        )
        figures.append(chart)
    return tag("div", figures, class_="charts")


def _in_steps(lines):
    """Lines by ascending step; of a step that was repeated after a stop, the last value."""
    found = []
    for title, (steps, values) in lines.items():
        last = dict(zip(steps, values, strict=True))
        found.append((_cut(title), sorted(last), [last[step] for step in sorted(last)]))
    return found


def early_section(run):
    """How accuracy grows with the frames that are seen, of streamed results."""
    figures = []
    for each in run.results:
        entries = each.entries.get("early_recognition")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            continue
        keys = [key for key in ("top1", "top5", "map") if entries and key in entries[0]]
        lines = []
        for key in keys:
            known = [e for e in entries if is_fraction(e.get("share")) and is_fraction(e.get(key))]
            points = [e["share"] for e in known], [e[key] for e in known]
            lines.append((text_tables.title_of(key), *points))
        title = f"Frames seen, {_cut(each.protocol)}"
        figures.append(
            charts.line_chart(
                title, lines, x="share of the frames", percent=True, y_range=(0, 1), x_percent=True
            )
        )
    return tag("div", figures, class_="charts") if figures else None


def _cut(text):
    return middle_cut(escaped(text), _HEAD)


def fraction_cell(value):
    """A cell with a fraction of a foreign file in per cent; "-" for anything else."""
    return tables.percent(value if is_fraction(value) else None)


def percent(value):
    """A fraction as text."""
    return f"{100 * value:.1f} %"
