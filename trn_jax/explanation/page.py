"""The page of explanations: one HTML file with strips of frames, charts and a guide."""

import itertools

import numpy as np

from trn_jax.errors import UserError, escaped
from trn_jax.explanation import summary
from trn_jax.explanation.alignment import align
from trn_jax.explanation.clips import TENTHS
from trn_jax.explanation.order import ORDERS
from trn_jax.pages import charts, tables
from trn_jax.pages.markup import middle_cut, name, tag
from trn_jax.pages.page import MAX_BYTES, contents, facts, note, page, section
from trn_jax.pages.pictures import strip

_SIDE, _SMALL_SIDE = 108, 84  # of frames, in pixels: eight in a row of 1000
_SHOWN_SCALES = 3  # of the representative frames: the smallest ones
_HEAT = np.array([255, 106, 0], np.float32)  # orange, which no colour vision takes for grey
_MOST_ALIGNED = 12  # pairs of videos on a page
_MOST_PROBLEMS = 200  # unreadable videos that a page names
_ROOM, _ROOM_ALIGNED = 0.75 * MAX_BYTES, 0.15 * MAX_BYTES  # bytes of the videos and alignments

_GAMES = {
    "relations": "The value of a frame is its Shapley value: the mean of what it adds to the score "
    "(logit) of the class, over all orders in which the frames could be shown to the model. "
    "All subsets of the frames are scored, by the relations among them.",
    "mean": "The value of a frame is its Shapley value: the mean of what it adds to the score "
    "(logit) of the class, over all orders in which the frames could be shown to the model. This "
    "model averages its frames, so there is a formula.",
    "held": "The value of a frame is its Shapley value: the mean of what it adds to the score "
    "(logit) of the class, over orders in which the frames could be shown to the model. A frame "
    "that is not shown is replaced by the last one before it, as if the video froze.",
}


class ExplanationPage:
    """A page of explanations, which are added one by one; those that would not fit are left out.

    Args:
        explainer: the `Explainer` of the explanations.
        about: pairs of a name and a value, the origin of the model.

    Attributes:
        num_left_out: videos that the page has no room for.
    """

    def __init__(self, explainer, *, about=()):
        self._explainer = explainer
        self._about = about
        self._good: list = []
        self._sections: list = []
        self._problems: list = []
        self._room = _ROOM
        self.num_left_out = 0

    def add(self, explanation):
        """Add an `Explanation`, also of a video that can't be read."""
        if explanation.problem:
            self._problems.append(explanation.problem)
            return
        if not self.num_left_out:
            found = _video(len(self._good), explanation)
            self._room -= len(found.encode())
        if self._good and self._room < 0:
            self.num_left_out += 1
            return
        self._good.append(explanation)
        self._sections.append(found)

    def html(self):
        """The page, a str; "" without a readable video."""
        if not self._good:
            return ""
        sections = []
        if len(self._good) > 1:
            keys = [(f"video{n}", name(each.video)) for n, each in enumerate(self._good)]
            sections.append(contents([*keys, ("reading", "How to read this page")]))
        sections += self._sections
        if self.num_left_out:
            text = f"There is no room for {self.num_left_out:,} more videos on a page of 10 MB."
            sections.append(note(text))
        if aligned := _alignments(self._good):
            sections.append(aligned)
        if problems := self._problems:
            items = [tag("li", name(each)) for each in problems[:_MOST_PROBLEMS]]
            more = len(problems) - _MOST_PROBLEMS
            rest = note(f"and {more:,} more") if more > 0 else None
            sections.append(section("unreadable", "Unreadable videos", tag("ul", items), rest))
        sections.append(_guide(self._explainer, self._about))
        title = (
            f"Why “{middle_cut(escaped(self._good[0].label), 60)}”?"
            if len(self._good) == 1
            else "Why these predictions?"
        )
        return page(title, *sections)


def _video(number, each):
    """The section of a video."""
    parts = [tag("p", " ".join(summary.sentences(each)))]
    parts += [note(text) for text in each.notes]
    if each.values:
        parts += _frames(each, 0)
    if each.maps is not None:
        parts += _where(each, 0)
    if each.scales:
        parts += _representatives(each, 0)
    parts.append(tag("div", _charts(each), class_="charts"))
    if len(each.classes) > 1 and each.values:
        parts += _other_classes(each)
    return section(f"video{number}", name(each.video), *parts)


def _frames(each, row):
    """The strip of the clip, with a bar per frame."""
    values, errors = each.values.values[row], each.values.errors[row]
    low, high = min((values - errors).min(), 0), max((values + errors).max(), 0)
    marked = set(each.deciding(min(3, int((values > 0).sum())), row=row).tolist())
    captions = []
    for position, (value, error) in enumerate(zip(values, errors, strict=True)):
        shown = f"{value:+.2f}" + (f" ± {error:.2f}" if error else "")
        bar = charts.bar(
            value, low=low, high=high, error=error or None, color=0 if value >= 0 else 3
        )
        captions.append([summary.time_of(each, position), tag("br"), bar, tag("br"), shown])
    sign = " Bars to the left count against it." if (values < 0).any() else ""
    return [
        tag("h3", "Which frames decide"),
        note(
            "The frames that the model saw, in order. A bar is how much a frame supports ",
            name(each.label),
            f"; the highest ones are framed.{sign}",
        ),
        strip(each.pixels, captions, label="frames with their values", side=_SIDE, marked=marked),
        note(
            f"Together {values.sum():+.2f}, from {each.values.none[row]:.2f} without any frame to "
            f"the score of {each.values.all[row]:.2f} (logits, {each.values.method})."
        ),
    ]


def _where(each, row):
    return [
        tag("h3", "Where it looks"),
        note(
            "Orange is what supports ",
            name(each.label),
            "; how strongly can be compared between the frames.",
        ),
        strip(
            heated(each.pixels, each.maps[row]),
            label="frames with maps",
            side=_SIDE,
        ),
    ]


def heated(pixels, maps):
    """Paint class activation maps over frames.

    Args:
        pixels: uint8 `[frames, height, width, 3]`.
        maps: `[frames, height', width']`, not negative.

    Returns:
        uint8, the frames in grey, with the maps in orange.
    """
    import cv2

    height, width = pixels.shape[1:3]
    most = max(float(maps.max()), 1e-12)
    grey = pixels.mean(axis=-1, keepdims=True) * 0.85 + 0.15 * pixels
    large = [
        cv2.resize(each / most, (width, height), interpolation=cv2.INTER_LINEAR) for each in maps
    ]
    strength = 0.8 * np.clip(np.stack(large), 0, 1)[..., None] ** 0.7
    return (grey * (1 - strength) + _HEAT * strength).clip(0, 255).astype(np.uint8)


def _representatives(each, row):
    """The frames of the best relation of each of the small scales."""
    parts = [
        tag("h3", "Representative frames"),
        note(
            "Of all pairs, triples, … of frames, in their order, that with the highest score for ",
            name(each.label),
            ".",
        ),
    ]
    for found in each.scales[:_SHOWN_SCALES]:
        chosen = found.best[row]
        captions = [summary.time_of(each, position) for position in chosen]
        parts.append(
            strip(each.pixels[chosen], captions, label=f"best {found.scale}", side=_SMALL_SIDE)
        )
    return parts


def _charts(each):
    """Order, early recognition and scales."""
    found = []
    label = each.classes[0]
    if each.order:
        scores = [float(each.order[order][label]) for order in ORDERS]
        found.append(
            charts.column_chart(
                "Score by the order of the frames",
                scores,
                list(ORDERS),
                y="score",
                description=", ".join(
                    f"{order} {score:.2f}" for order, score in zip(ORDERS, scores, strict=True)
                ),
                marked=(0,),
            )
        )
        shares = [10 * tenths for tenths in TENTHS]
        lines = [
            (name(each.class_names[other]), shares, each.early[:, other])
            for other in each.classes[: charts.NUM_COLORS]
        ]
        found.append(
            charts.line_chart(
                "How early it is recognised",
                lines,
                x="seen of the video, %",
                y="score",
                y_range=(0, 1),
            )
        )
    if each.scales:
        values = [float(scale.scores[0]) for scale in each.scales]
        found.append(
            charts.column_chart(
                "Score by number of frames that are compared",
                values,
                [str(scale.scale) for scale in each.scales],
                y="logit",
                description="what relations of so many frames add to the score",
            )
        )
    return found


def _other_classes(each):
    """A table of the values of the frames for all explained classes."""
    columns = [tables.Column("frame")]
    columns += [tables.Column(each.class_names[label], is_number=True) for label in each.classes]
    rows = [
        [
            summary.time_of(each, position),
            *(
                tables.Cell(f"{value:+.2f}", float(value))
                for value in each.values.values[:, position]
            ),
        ]
        for position in range(len(each.frames))
    ]
    return [
        tag("h3", "Against other classes"),
        tables.table("How much each frame supports each class, logits", columns, rows),
    ]


def _alignments(explanations):
    """A section of pairs of videos of one class, or `None`."""
    parts: list = []
    room = _ROOM_ALIGNED
    for first, second in itertools.combinations(explanations, 2):
        if len(parts) >= _MOST_ALIGNED:
            break
        if first.classes[0] != second.classes[0]:
            continue
        try:
            found = align(first, second)
        except UserError:  # a model without features of single frames
            continue
        rows = [tag("h3", name(first.label))]
        for each, positions in zip((first, second), found.pairs.T, strict=True):
            captions = [summary.time_of(each, position) for position in positions]
            shown = strip(
                each.pixels[positions], captions, label="aligned frames", side=_SMALL_SIDE
            )
            rows.append(tag("div", note(name(each.video)), shown))
        room -= sum(map(len, rows))
        if room < 0:
            break
        parts.append(rows)
    if not parts:
        return None
    lead = note(
        "Frames of two videos of a class, one below the other, that play the same part in it."
    )
    return section("aligned", "Aligned videos", lead, *parts)


def _guide(explainer, about):
    """How to read the page."""
    view = explainer.contract.view
    texts = [
        _GAMES[explainer.game],
        "The map of where the model looks is the gradient of the score, through everything that "
        "exchanges features between frames, times the features of a layer (Grad-CAM of the whole "
        "clip).",
        "Shuffled is the mean over random orders; frozen the mean over clips in which one frame is "
        "repeated. Recognised early means: the model is given only the beginning of the video, and "
        "chooses its frames from that.",
    ]
    pairs = [
        *about,
        ("protocol", explainer.contract.protocol),
        ("frames", f"{view.num_segments} of {view.crop_size} x {view.crop_size} pixels"),
    ]
    return section(
        "reading", "How to read this page", *(tag("p", text) for text in texts), facts(pairs)
    )
