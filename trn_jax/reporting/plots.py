"""Plots of confusion matrices, reliability and training curves, drawn with OpenCV."""

import math

import cv2
import numpy as np

from trn_jax.errors import escaped
from trn_jax.evaluation import lettering
from trn_jax.evaluation.drawing import (
    BLACK,
    COLORS,
    GRAY,
    LIGHT,
    WHITE,
    paper,
    text_width,
    write,
)
from trn_jax.pages.charts import round_part

_DARKEST = np.array((8, 48, 107))  # cells of the confusion matrix that are 1
_MATRIX_SIDE = 960  # pixels, approximately
_NUMBERS_UP_TO = 20  # classes: matrices of fewer have numbers in their cells
_MARGIN = 12
_NAME_SIZE, _NAME_ROOM = 11, 330  # height and most width of the name of a class in pixels


def confusion_plot(confusion, class_names):
    """Plot a confusion matrix, normalized by true class (row).

    Args:
        confusion: counts `[classes, classes]`, rows true classes, columns predicted ones.
        class_names: in the order of the labels.

    Returns:
        uint8 `[height, width, 3]`, RGB.
    """
    num_classes = len(confusion)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = int(np.clip(_MATRIX_SIDE // num_classes, 4, 48))
    side = cell * num_classes
    every = math.ceil(14 / cell)  # a line of text needs 14 pixels
    rows = {label: _lettered(class_names[label], label) for label in range(0, num_classes, every)}
    left = max(mask.shape[1] for mask in rows.values()) + 2 * _MARGIN
    top = 2 * _MARGIN + 14
    bottom = top + side
    title = "predictions (columns) of each true class (row), per cent"
    image = paper(bottom + 60, left + max(side, text_width(title)) + _MARGIN)
    write(image, title, left, top - 8)

    # The square root makes rare confusions visible, too.
    colors = 255 + np.sqrt(shares)[..., None] * (_DARKEST - 255)
    colors = np.rint(colors).astype(np.uint8)
    image[top:bottom, left : left + side] = colors.repeat(cell, axis=0).repeat(cell, axis=1)
    cv2.rectangle(image, (left - 1, top - 1), (left + side, bottom), GRAY, 1)

    for label, mask in rows.items():
        upper = max(top + cell * label + cell // 2 - mask.shape[0] // 2, 0)
        part = image[upper : upper + mask.shape[0], left - 6 - mask.shape[1] : left - 6]
        part[:] = np.minimum(part, 255 - mask[: len(part), :, None])
    every = max(every, math.ceil((text_width(str(num_classes)) + 4) / cell))
    for label in range(0, num_classes, every):
        text = str(label)
        write(image, text, left + cell * label + (cell - text_width(text)) // 2, bottom + 16)
    write(image, "predicted class", left + (side - text_width("predicted class")) // 2, bottom + 40)
    if num_classes <= _NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            text = f"{100 * shares[row, column]:.0f}"
            x = left + cell * column + (cell - text_width(text)) // 2
            y = top + cell * row + cell // 2 + 4
            color = WHITE if shares[row, column] > 0.3 else BLACK
            write(image, text, x, y, color)
    return image


def _lettered(class_name, label):
    """A mask of the name of a class, in any script, and its number."""
    name = lettering.shortened(escaped(class_name).strip(), _NAME_SIZE, _NAME_ROOM)
    parts = [lettering.line(text, _NAME_SIZE) for text in (name, f"  {label}")]
    return np.concatenate(parts, axis=1)


def reliability_plot(before, after):
    """Plot how often scores are right, against the scores.

    Args:
        before: of the scores, see `metrics.reliability_bins`.
        after: the same of calibrated scores, which lie closer to the diagonal.

    Returns:
        uint8 `[440, 560, 3]`, RGB. The area of a point is the share of decisions.
    """
    image = paper(440, 560)
    left, top, side = 70, 30, 340
    bottom = top + side

    def place(score, share):
        return round(left + side * score), round(bottom - side * share)

    for number in range(6):
        x, y = place(number / 5, number / 5)
        cv2.line(image, (left, y), (left + side, y), LIGHT, 1)
        text = f"{20 * number} %"
        write(image, text, left - 8 - text_width(text), y + 4)
        write(image, text, x - text_width(text) // 2, bottom + 18)
    cv2.line(image, place(0, 0), place(1, 1), GRAY, 1, cv2.LINE_AA)
    cv2.rectangle(image, (left, top), (left + side, bottom), GRAY, 1)
    write(image, "right", left, top - 12)
    write(image, "mean score", left + (side - text_width("mean score")) // 2, bottom + 38)
    for number, (name, bins) in enumerate((("scores", before), ("calibrated", after))):
        color = COLORS[1 - number]
        counts, scores, right = (values[bins[0] > 0] for values in bins)
        points = [place(*each) for each in zip(scores / counts, right / counts, strict=True)]
        cv2.polylines(image, [np.array(points).reshape(-1, 1, 2)], False, color, 1, cv2.LINE_AA)
        for point, share in zip(points, counts / counts.sum(), strict=True):
            cv2.circle(image, point, round(2 + 12 * math.sqrt(share)), color, 2, cv2.LINE_AA)
        y = top + 10 + 20 * number
        cv2.circle(image, (left + side + 20, y - 4), 4, color, 2, cv2.LINE_AA)
        write(image, name, left + side + 32, y)
    return image


def training_plot(curves, losses=None, rates=None):
    """Plot training curves, in panels one below the other over the same steps.

    Args:
        curves: accuracies, `{name: (steps, values)}` with values between 0 and 1.
        losses: losses in the same form, at least 0.
        rates: learning rates in the same form, at least 0.

    Returns:
        uint8 `[height, 800, 3]`, RGB: 480 pixels for accuracies, which have a panel unless only the
        others have curves, 280 for losses and 220 for learning rates.
    """
    parts = [(480, curves, "accuracy"), (280, losses, "loss"), (220, rates, "learning rate")]
    drawn = [part for part in parts if part[1]] or parts[:1]
    everything = [steps for _, found, _ in drawn for steps, _ in found.values()]
    last = max([1, *(max(steps) for steps in everything if len(steps))])
    panels = []
    for height, found, title in drawn:
        is_share = title == "accuracy"
        highest = 1 if is_share else max(max(values) for _, values in found.values()) or 1
        panels.append(_panel(paper(height, 800), found, last, highest, title, is_share))
    return np.concatenate(panels)


def _panel(image, curves, last, highest, title, is_share):
    """Draw curves over the steps up to `last`, of values up to `highest`, on an image."""
    height, width, _ = image.shape
    left, right, top, bottom = 60, width - 170, 30, height - 50

    def place(step, value):
        return (
            round(left + (right - left) * step / last),
            round(bottom - (bottom - top) * min(value / highest, 1)),
        )

    write(image, title, left, top - 12)
    every = 0.2 if is_share else round_part(highest / 4)
    for number in range(math.floor(highest / every + 1e-6) + 1):
        x, y = place(0, number * every)
        cv2.line(image, (x, y), (right, y), LIGHT, 1)
        text = f"{100 * number * every:.0f} %" if is_share else f"{number * every:.4g}"
        write(image, text, left - 8 - text_width(text), y + 4)
    tick = round_step(last / 6)
    for step in range(0, last + 1, tick):
        x, _ = place(step, 0)
        cv2.line(image, (x, bottom), (x, bottom + 4), GRAY, 1)
        text = f"{step:,}"
        write(image, text, x - text_width(text) // 2, bottom + 18)
    cv2.line(image, (left, bottom), (right, bottom), GRAY, 1)
    write(image, "step", (left + right - text_width("step")) // 2, bottom + 38)

    # The first curve last, so that it is visible where curves coincide.
    for number, (name, (steps, values)) in reversed(list(enumerate(curves.items()))):
        color = COLORS[number % len(COLORS)]
        points = np.array([place(*point) for point in zip(steps, values, strict=True)])
        cv2.polylines(image, [points.reshape(-1, 1, 2)], False, color, 2, cv2.LINE_AA)
        if len(points) <= 50:
            for x, y in points.tolist():
                cv2.circle(image, (x, y), 3, color, -1, cv2.LINE_AA)
        y = top + 10 + 20 * number
        cv2.line(image, (right + 15, y - 4), (right + 35, y - 4), color, 2, cv2.LINE_AA)
        write(image, name, right + 42, y)
    return image


def round_step(value):
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    return int(round_part(max(value, 1)))
