"""Explanations in words: a few sentences, and the numbers for a terminal."""

import numpy as np

from trn_jax.errors import escaped
from trn_jax.explanation.clips import TENTHS
from trn_jax.explanation.order import ORDERS

_NUM_DECIDING = 3  # frames that a sentence names
_EQUAL = 1.15  # times the lowest value, below which the highest ones aren't named
_BAR = 24  # letters
_NEEDS_ORDER, _IGNORES_ORDER = 0.3, 0.05  # fall of the score in reverse


def time_of(explanation, position):
    """When a frame of the clip is shown, or its number where that is unknown."""
    time = explanation.times[position]
    return f"frame {explanation.frames[position]}" if np.isnan(time) else f"{time:.2f} s"


def sentences(explanation):
    """An explanation as a list of sentences, safe to print."""
    score = explanation.scores[explanation.classes[0]]
    found = [f"The model predicts “{escaped(explanation.label)}” with a score of {score:.2f}."]
    if explanation.values:
        found.append(_about_frames(explanation))
    if explanation.order:
        found.append(_about_order(explanation))
        found.append(_about_beginnings(explanation))
    return list(filter(None, found))


def _about_frames(explanation):
    values = explanation.values.values[0]
    count = min(_NUM_DECIDING, int((values > 0).sum()))
    if not count:
        return "No frame supports it."
    if values.max() < _EQUAL * values.min():
        return "All frames support it about equally."
    best = explanation.deciding(count)
    share = values[best].sum() / values[values > 0].sum()
    text = (
        f"{_named(explanation, best)} {'supports' if count == 1 else 'support'} it most: "
        f"{100 * share:.0f} % of all support."
    )
    if values.sum() <= 0:
        text += f" Together, the frames count against it ({values.sum():+.2f})."
    return text


def _named(explanation, positions):
    """`"Frames 5, 6 and 7"`, or `"The frames at 0.20 s, 0.28 s and 0.32 s"`."""
    times = explanation.times[positions]
    known = np.isfinite(times).all()
    texts = [f"{t:.2f} s" for t in times] if known else map(str, explanation.frames[positions])
    *most, last = texts
    noun = ("The frame{} at" if known else "Frame{}").format("s" if most else "")
    joined = f"{', '.join(most)} and {last}" if most else last
    return f"{noun} {joined}"


def _about_order(explanation):
    label, change = explanation.classes[0], explanation.order_scores[0]
    backwards = explanation.order["reversed"]
    best = int(backwards.argmax())
    if change >= _NEEDS_ORDER and best != label:
        return (
            "The order of the frames decides: played backwards, the prediction is "
            f"“{escaped(explanation.class_names[best])}” ({backwards[best]:.2f})."
        )
    if abs(change) <= _IGNORES_ORDER:
        frozen = explanation.order["frozen"][label]
        return (
            f"The direction of time makes no difference; frozen to one frame, the score is "
            f"{frozen:.2f}."
        )
    return (
        f"Played backwards, the score is {backwards[label]:.2f} instead of "
        f"{explanation.order['forward'][label]:.2f}."
    )


def _about_beginnings(explanation):
    """From when on the prediction is that of the whole video."""
    same = explanation.early.argmax(axis=1) == explanation.classes[0]
    if not same[-1]:
        return ""
    wrong = np.flatnonzero(~same)
    tenths = TENTHS[wrong[-1] + 1] if wrong.size else TENTHS[0]
    return f"After {10 * tenths} % of the video, the prediction no longer changes."


def text_of(explanation):
    """The numbers of an explanation, for a terminal."""
    lines = [f"{escaped(explanation.video)}: {' '.join(sentences(explanation))}"]
    for row, label in enumerate(explanation.classes):
        lines.append(
            f"  {escaped(explanation.class_names[label])}: {explanation.scores[label]:.3f}"
        )
        lines += [f"    {line}" for line in _about_class(explanation, row, label)]
    return "\n".join(lines)


def _about_class(explanation, row, label):
    lines = []
    if explanation.values:
        lines += _frame_lines(explanation, row)
    if explanation.scales:
        parts = [f"{each.scale}: {each.scores[row]:+.2f}" for each in explanation.scales]
        lines.append(f"logit by frames of a relation  {'  '.join(parts)}")
    if explanation.order:
        parts = [f"{name} {explanation.order[name][label]:.3f}" for name in ORDERS]
        parts.append(f"order score {round(float(explanation.order_scores[row]), 2) + 0.0:.2f}")
        lines.append("  ".join(parts))
        parts = [
            f"{10 * tenths} % {scores[label]:.2f}"
            for tenths, scores in zip(TENTHS, explanation.early, strict=True)
        ]
        lines.append(f"after {'  '.join(parts)}")
    return lines


def _frame_lines(explanation, row):
    found = explanation.values
    values, errors = found.values[row], found.errors[row]
    most = max(abs(values).max(), 1e-12)
    lines = []
    for position, (value, error) in enumerate(zip(values, errors, strict=True)):
        bar = ("#" if value > 0 else "-") * round(_BAR * abs(value) / most)
        spread = f" ± {error:.2f}" if error else ""
        lines.append(f"{time_of(explanation, position):>10}  {value:+6.2f}{spread}  {bar}".rstrip())
    lines.append(
        f"logit {found.all[row]:.2f} = {found.none[row]:.2f} without frames "
        f"{values.sum():+.2f} of the frames ({found.method})"
    )
    return lines


def card_text(found):
    """A `MeasuredCard` as a table, for a terminal."""
    from trn_jax.evaluation.tables import aligned

    card = found.card
    header = ["class", "videos", *(f"{order} %" for order in ORDERS)]
    lines = [header]
    for number, name in enumerate(card.classes):
        values = [getattr(card, order)[number] for order in ORDERS]
        lines.append([name, str(card.num_videos[number]), *map(_percent, values)])
    means = [card.mean(order) for order in ORDERS]
    lines.append(["all videos", str(sum(card.num_videos)), *map(_percent, means)])
    table = aligned(lines, "l" + "r" * (len(header) - 1))
    return f"{table}\n\norder score {found.order_score:.2f} (accuracy forward - reversed)"


def _percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.1f}"
