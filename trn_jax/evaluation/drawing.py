"""Text on images, in letters that OpenCV's font has; PNG."""

import functools
import unicodedata

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK, GRAY, LIGHT, WHITE = (0, 0, 0), (120, 120, 120), (225, 225, 225), (255, 255, 255)
# Distinguishable with any colour vision (Okabe and Ito, 2008), RGB.
COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))
TEXT_SIZE = 0.4  # factor of OpenCV's font


def paper(height, width):
    """A white image, uint8 `[height, width, 3]`."""
    return np.full((height, width, 3), 255, np.uint8)


def write(image, text, x, y, color=BLACK, *, size=TEXT_SIZE, bold=False):
    """Write a line of text; `x` and `y` are the left end of its baseline in pixels."""
    cv2.putText(image, text, (int(x), int(y)), _FONT, size, color, 1 + bold, cv2.LINE_AA)


def text_width(text, *, size=TEXT_SIZE, bold=False):
    """Width of a line of text in pixels."""
    return cv2.getTextSize(text, _FONT, size, 1 + bold)[0][0]


def encode_png(image):
    """Encode an RGB image as PNG."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    return content.tobytes()


def drawable(text):
    """Text in letters that the font has: those of many scripts from OpenCV 5 on, before ASCII.

    Accents that it lacks are left out; other letters that it lacks become "?".
    """
    return "".join(map(_drawable_letter, unicodedata.normalize("NFC", text)))


def _drawable_letter(letter):
    if _is_drawn(letter):
        return letter
    base = [c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c)]
    return "".join(c if _is_drawn(c) else "?" for c in base)


@functools.cache
def _is_drawn(letter):
    """Whether a letter looks like itself, and not like one question mark per byte."""
    if letter.isascii():
        return True
    looks = _look(letter)
    return not any((looks == _look("?" * count)).all() for count in range(1, 5))


def _look(text):
    image = paper(32, 64)
    write(image, text, 4, 24)
    return image


def shortened(text, room, *, from_end=False, size=TEXT_SIZE, bold=False):
    """Shorten text to a width.

    Args:
        text: one line.
        room: pixels.
        from_end: keep the end, as of a path, instead of the beginning.
        size: see `write`.
        bold: see `write`.

    Returns:
        The text, with "..." in place of what doesn't fit.
    """
    found, count = text, len(text)
    while count and text_width(found, size=size, bold=bold) > room:
        count -= 1
        found = f"...{text[len(text) - count :]}" if from_end else f"{text[:count].rstrip()}..."
    return found
