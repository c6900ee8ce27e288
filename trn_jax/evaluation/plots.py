"""Plots of confusion matrices and training curves, drawn with OpenCV."""

import math
import unicodedata

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_BLACK, _GRAY, _LIGHT = (0, 0, 0), (120, 120, 120), (225, 225, 225)
# Distinguishable with any colour vision (Okabe and Ito, 2008), RGB.
_COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))
_DARKEST = np.array((8, 48, 107))  # cells of the confusion matrix that are 1
_MATRIX_SIDE = 960  # pixels, approximately
_NUMBERS_UP_TO = 20  # classes: matrices of fewer have numbers in their cells
_MARGIN = 12


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
    rows = {
        label: shortened(f"{class_names[label]} {label}") for label in range(0, num_classes, every)
    }
    left = max(_width(text) for text in rows.values()) + 2 * _MARGIN
    top = 2 * _MARGIN + 14
    bottom = top + side
    title = "predictions (columns) of each true class (row), per cent"
    image = _paper(bottom + 60, left + max(side, _width(title)) + _MARGIN)
    _write(image, title, left, top - 8)

    # The square root makes rare confusions visible, too.
    colors = 255 + np.sqrt(shares)[..., None] * (_DARKEST - 255)
    colors = np.rint(colors).astype(np.uint8)
    image[top:bottom, left : left + side] = colors.repeat(cell, axis=0).repeat(cell, axis=1)
    cv2.rectangle(image, (left - 1, top - 1), (left + side, bottom), _GRAY, 1)

    for label, text in rows.items():
        middle = top + cell * label + cell // 2 + 4
        _write(image, text, left - _width(text) - 6, middle)
    every = max(every, math.ceil((_width(str(num_classes)) + 4) / cell))
    for label in range(0, num_classes, every):
        text = str(label)
        _write(image, text, left + cell * label + (cell - _width(text)) // 2, bottom + 16)
    _write(image, "predicted class", left + (side - _width("predicted class")) // 2, bottom + 40)
    if num_classes <= _NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            text = f"{100 * shares[row, column]:.0f}"
            x = left + cell * column + (cell - _width(text)) // 2
            y = top + cell * row + cell // 2 + 4
            color = (255, 255, 255) if shares[row, column] > 0.3 else _BLACK
            _write(image, text, x, y, color)
    return image


def training_plot(curves):
    """Plot training curves.

    Args:
        curves: `{name: (steps, values)}`, values between 0 and 1.

    Returns:
        uint8 `[480, 800, 3]`, RGB.
    """
    height, width = 480, 800
    left, right, top, bottom = 60, width - 170, 20, height - 50
    image = _paper(height, width)
    last = max([1, *(max(steps) for steps, _ in curves.values() if len(steps))])

    def place(step, value):
        return (
            round(left + (right - left) * step / last),
            round(bottom - (bottom - top) * value),
        )

    for percent in range(0, 101, 20):
        x, y = place(0, percent / 100)
        cv2.line(image, (x, y), (right, y), _LIGHT, 1)
        text = f"{percent} %"
        _write(image, text, left - 8 - _width(text), y + 4)
    tick = round_step(last / 6)
    for step in range(0, last + 1, tick):
        x, _ = place(step, 0)
        cv2.line(image, (x, bottom), (x, bottom + 4), _GRAY, 1)
        text = f"{step:,}"
        _write(image, text, x - _width(text) // 2, bottom + 18)
    cv2.line(image, (left, bottom), (right, bottom), _GRAY, 1)
    _write(image, "step", (left + right - _width("step")) // 2, bottom + 38)

    # The first curve last, so that it is visible where curves coincide.
    for number, (name, (steps, values)) in reversed(list(enumerate(curves.items()))):
        color = _COLORS[number % len(_COLORS)]
        points = np.array([place(*point) for point in zip(steps, values, strict=True)])
        cv2.polylines(image, [points.reshape(-1, 1, 2)], False, color, 2, cv2.LINE_AA)
        if len(points) <= 50:
            for x, y in points.tolist():
                cv2.circle(image, (x, y), 3, color, -1, cv2.LINE_AA)
        y = top + 10 + 20 * number
        cv2.line(image, (right + 15, y - 4), (right + 35, y - 4), color, 2, cv2.LINE_AA)
        _write(image, name, right + 42, y)
    return image


def encode_png(image):
    """Encode an RGB image as PNG."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    return content.tobytes()


def _paper(height, width):
    return np.full((height, width, 3), 255, np.uint8)


def _write(image, text, x, y, color=_BLACK):
    cv2.putText(image, text, (int(x), int(y)), _FONT, 0.4, color, 1, cv2.LINE_AA)


def _width(text):
    return cv2.getTextSize(text, _FONT, 0.4, 1)[0][0]


def shortened(text, length=48):
    """Shorten text in front of the number at its end, in letters that the font has."""
    letters = [c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)]
    text = "".join(letters).encode("ascii", "replace").decode()
    name, number = text.rsplit(" ", 1)
    name = name if len(name) <= length else f"{name[: length - 3]}..."
    return f"{name} {number}"


def round_step(value):
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    scale = 10 ** math.floor(math.log10(max(value, 1)))
    return next(int(scale * unit) for unit in (1, 2, 5, 10) if scale * unit >= value)
