"""The section on the difference to a second run."""

from trn_jax.errors import escaped
from trn_jax.evaluation import tables as text_tables
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import name, tag
from trn_jax.pages.page import note
from trn_jax.reporting.difference import CONFIDENCE

LEVEL = 0.05  # of significance
_INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
_MOST_PRINTED = 20  # classes


def difference_section(found, first, second, limit):
    """What the first run does better or worse than the second one.

    Args:
        found: a `Difference`.
        first: what the first run is called.
        second: the same of the second one.
        limit: classes in the table, at most.

    Returns:
        A list of `Markup`.
    """
    cards = [
        tag(
            "li",
            tag("b", _points(each.difference), class_=_kind(each, each.p)),
            tag("span", f"{each.name}: {_percent(each.first)} against {_percent(each.second)}"),
            tag("br"),
            tag("span", _interval(each), None if each.p is None else f" points, p {_p(each.p)}"),
        )
        for each in found.metrics
    ]
    known = [each for each in found.classes if each.difference is not None]
    better = sum(_is_significant(each, each.p_holm) and each.difference > 0 for each in known)
    worse = sum(_is_significant(each, each.p_holm) and each.difference < 0 for each in known)
    return [
        tag("p", name(first), " minus ", name(second), ". ", _videos(found)),
        tag("ul", cards, class_="cards wide"),
        tag("p", _count(better, worse)),
        _table(found, known, limit),
        note(_method(found)),
    ]


def difference_table(found, second):
    """The difference as text: the metrics, and the classes that differ significantly.

    Args:
        found: a `Difference`.
        second: what the second run is called.
    """
    sure = [each for each in found.classes if _is_significant(each, each.p_holm)]
    sure.sort(key=lambda each: each.p_holm)
    rows = [(each, each.p) for each in found.metrics]
    rows += [(each, each.p_holm) for each in sure[:_MOST_PRINTED]]
    lines = [["difference", "first", "second", "points", _INTERVAL, "p"]]
    for each, p in rows:
        values = [_percent(each.first), _percent(each.second), _points(each.difference)]
        lines.append([each.name, *values, _interval(each), "-" if p is None else _p(p, "")])
    better = sum(each.difference > 0 for each in sure)
    count = _count(better, len(sure) - better)
    about = f"against {escaped(second)}: {_videos(found)} {count}"
    return f"{text_tables.aligned(lines, 'lrrrrr')}\n{about}"


def _count(better, worse):
    if not better and not worse:
        return "No class differs significantly."
    return f"Significantly better classes: {better}; worse: {worse}."


def _videos(found):
    if found.num_common == found.num_first == found.num_second:
        same = " of the same list" if found.same_list else ""
        return f"Both have the same {found.num_common:,} videos{same}."
    return (
        f"Only the {found.num_common:,} videos that both have are compared, of {found.num_first:,} "
        f"and {found.num_second:,}."
    )


def _table(found, known, limit):
    kind = "average precision" if found.multi_label else "accuracy"
    ordered = sorted(
        known, key=lambda c: (c.p_holm if c.p_holm is not None else 2, -abs(c.difference))
    )
    largest = max((abs(each.difference) for each in known), default=1) or 1
    columns = [
        tables.Column("class"),
        tables.Column("videos", is_number=True),
        tables.Column("first %", is_number=True),
        tables.Column("second %", is_number=True),
        tables.Column("difference", is_number=True, help="percentage points"),
        tables.Column(_INTERVAL),
        tables.Column("p (Holm)", is_number=True),
    ]
    rows = []
    for each in ordered[:limit]:
        color = 2 if each.difference > 0 else 1
        bar = charts.bar(each.difference, low=-largest, high=largest, color=color, width=72)
        text = tag(
            "span", _points(each.difference), class_=_kind(each, each.p_holm), title=_word(each)
        )
        rows.append(
            [
                tables.Cell(name(each.name), escaped(each.name)[:200]),
                each.videos,
                tables.percent(each.first),
                tables.percent(each.second),
                tables.Cell([text, " ", bar], round(each.difference, 6)),
                tables.Cell(_interval(each), each.low),
                tables.Cell("-" if each.p_holm is None else _p(each.p_holm, ""), each.p_holm),
            ]
        )
    caption = f"Difference of {kind} by class, the surest first"
    if len(ordered) > limit:
        caption += f" ({limit} of {len(ordered):,})"
    return tables.table(caption, columns, rows, compact=len(rows) > 30)


def _method(found):
    if not found.num_samples:
        return "There are too many videos and classes to test the differences."
    tested = sum(each.p is not None for each in found.classes)
    sampled = f"Paired bootstrap over the videos ({found.num_samples:,} samples, seeded): "
    how = (
        "intervals and p-values are those of a normal distribution with the standard error of the "
        "samples"
        if found.multi_label
        else "intervals are of samples of the videos; a p-value is the probability that such a "
        "sample differs at least as much if the two runs are exchanged at random in each video"
    )
    return (
        f"{sampled}{how}. The p-values of the {tested} classes are corrected for their number by "
        f"Holm's method, significant means below {LEVEL:g}; those of the metrics are not corrected."
    )


def _is_significant(change, p):
    return p is not None and p < LEVEL and change.difference != 0


def _kind(change, p):
    if not _is_significant(change, p):
        return None
    return "good" if change.difference > 0 else "bad"


def _word(change):
    return "significant" if _is_significant(change, change.p_holm) else "not significant"


def _points(value):
    return "-" if value is None else f"{100 * value:+.1f}"


def _percent(value):
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(change):
    if change.low is None:
        return "-"
    return f"{100 * change.low:+.1f} to {100 * change.high:+.1f}"


def _p(value, equals="= "):
    return "< 0.0001" if value < 0.0001 else f"{equals}{value:.2g}"
