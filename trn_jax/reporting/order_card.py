"""The order card: accuracy per class with frames in order, reversed, shuffled and frozen."""

import dataclasses
import json
import math

from trn_jax.errors import UserError
from trn_jax.files import reading
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import name, tag
from trn_jax.pages.page import note

FILE = "order.json"  # in the folder of results
ORDERS = ("forward", "reversed", "shuffled", "frozen")
_MAX_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class OrderCard:
    """Accuracies of each class by the order of the frames, what `order.json` holds.

    Attributes:
        classes: names.
        forward: fraction of the videos of each class that are recognised with their frames in
            order; `None`: the class has no videos.
        reversed: the same with the frames in reverse.
        shuffled: the same in random order, the mean over several.
        frozen: the same with one frame in place of all.
        num_videos: of each class.
        protocol: name of the protocol.
        chance: accuracy of a guess.
        checkpoint: path of the checkpoint, from the folder that it was measured in; "" if unknown.
        step: training steps of the checkpoint; `None` if unknown.

    Raises:
        UserError: lists have different lengths, or a value is out of range.
    """

    classes: list[str]
    forward: list
    reversed: list
    shuffled: list
    frozen: list
    num_videos: list[int]
    protocol: str
    chance: float
    checkpoint: str = ""
    step: int | None = None

    def __post_init__(self):
        for field in ("classes", *ORDERS, "num_videos"):
            values = getattr(self, field)
            if not isinstance(values, list) or not len(values) == len(self.classes) > 0:
                raise UserError(f"{field} is no list with an entry for each of the classes")
        checks = dict.fromkeys(ORDERS, _is_fraction)
        checks |= {"classes": lambda v: isinstance(v, str), "num_videos": _is_count}
        for field, allowed in checks.items():
            wrong = [value for value in getattr(self, field) if not allowed(value)]
            if wrong:
                raise UserError(f"{field} has {wrong[0]!r:.80}")
        if self.chance is None or not _is_fraction(self.chance):
            raise UserError(f"chance={self.chance!r:.80}: expected a fraction")
        for field in ("protocol", "checkpoint"):
            if not isinstance(value := getattr(self, field), str):
                raise UserError(f"{field}={value!r:.80}: expected text")
        if self.step is not None and not _is_count(self.step):
            raise UserError(f"step={self.step!r:.80}: expected a number")

    def mean(self, order):
        """Mean over the videos with frames in this order; `None` without videos."""
        pairs = zip(getattr(self, order), self.num_videos, strict=True)
        known = [(value, count) for value, count in pairs if value is not None and count]
        total = sum(count for _, count in known)
        return sum(value * count for value, count in known) / total if total else None


def read_order_card(path):
    """Read an `OrderCard` from JSON.

    Raises:
        UserError: the file is missing or malformed.
    """
    with reading(path, "an order card"):
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"it has more than {_MAX_BYTES:,} bytes")
        values = json.loads(content)
        return OrderCard(
            **{
                each.name: values[each.name]
                for each in dataclasses.fields(OrderCard)
                if each.name in values or each.default is dataclasses.MISSING
            }
        )


def order_section(card):
    """The content of a section on an `OrderCard`: means, a chart, and a table of the classes."""
    means = {order: card.mean(order) for order in ORDERS}
    cards = [
        tag("li", tag("b", _percent(mean)), tag("span", order)) for order, mean in means.items()
    ]
    return [
        tag("ul", cards, class_="cards"),
        note(
            f"Accuracy by the order of the frames, protocol {card.protocol}; chance "
            f"{_percent(card.chance)}. A class that loses nothing when its frames are reversed, "
            "shuffled or all the same needs no time."
        ),
        _table(card),
    ]


def origin_note(card, result):
    """A note on the checkpoint of a card, and whether a `runs.Result` is of another one.

    Returns:
        The note; `None` if the card doesn't name its checkpoint.
    """
    if not card.checkpoint:
        return None
    text = ["Measured with ", *_checkpoint(card.checkpoint, card.step), "."]
    path, step = result.text("checkpoint"), result.about.get("step")
    if not _is_same(card.checkpoint, path) or not _is_same(card.step, step):
        text += [" The results of this report are of another checkpoint, "]
        text += [*_checkpoint(path, step), "; trn-jax explain --dataset measures that one."]
    return note(*text)


def _checkpoint(path, step):
    return name(path) if path else "", f" (step {step:,})" if _is_count(step) else ""


def _is_same(one, other):
    """Whether two steps or two paths are of one checkpoint, as far as both are known.

    Paths count from the folder in which a program ran, so one may be the end of the other.
    """
    if "" in (one, other) or None in (one, other):
        return True
    if not isinstance(one, str):
        return one == other
    short, long = sorted((_names(one), _names(other)), key=len)
    return long[len(long) - len(short) :] == short


def _names(path):
    """The names in a path, without those that lead up."""
    return [each for each in path.replace("\\", "/").split("/") if each not in ("", ".", "..")]


def _table(card):
    columns = [
        tables.Column("class"),
        tables.Column("videos", is_number=True),
        *(tables.Column(f"{order} %", is_number=True) for order in ORDERS),
        tables.Column("lost without order", is_number=True),
    ]
    rows = []
    for number, label in enumerate(card.classes):
        values = [getattr(card, order)[number] for order in ORDERS]
        lost = None if None in (values[0], values[2]) else values[0] - values[2]
        shown = tables.percent(lost)
        picture = lost is not None and charts.bar(lost, color=1, width=64)
        rows.append(
            [
                tables.Cell(name(label), label[:200]),
                card.num_videos[number],
                *map(tables.percent, values),
                tables.Cell([shown.content, " ", picture or None], shown.value),
            ]
        )
    caption = "What the order of the frames is worth: forward minus shuffled, percentage points"
    return tables.table(caption, columns, rows, compact=len(rows) > 30)


def _percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _is_fraction(value):
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and _in_unit(value)
    )


def _in_unit(value):
    return math.isfinite(value) and 0 <= value <= 1


def _is_count(value):
    return type(value) is int and value >= 0
