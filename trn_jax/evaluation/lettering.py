"""A line of text in any script as a mask, with the fonts of OpenCV and of this machine."""

import collections
import functools
import math
import os
import sys
import unicodedata

import cv2
import numpy as np

from trn_jax.evaluation import drawing
from trn_jax.evaluation.writing_systems import (
    in_visual_order,
    is_invisible,
    is_mark,
    joined,
    needs_shaping,
    runs,
)

_UNKNOWN = "?"  # what OpenCV draws for a character without a font
_WEIGHT = 500
_FONT_FILES = (".ttf", ".otf", ".ttc", ".otc")
_MAX_FONT_FILES = 2000  # that are tried for a character
_OTHER_STYLES = ("italic", "oblique", "bold", "black", "light", "thin", "mono", "condensed")
_TRIED = 32  # pixels, the size of pictures that are compared
_BLOCK, _PATIENCE = 256, 4  # after so many characters of a block without a font, it has none
_ELLIPSIS = "…"
ADVICE = (
    "install fonts for them, such as those of https://fonts.google.com/noto (Debian and Ubuntu: "
    "apt install fonts-noto-core fonts-noto-cjk)"
)
SHAPING_ADVICE = (
    "pip install 'trn_jax[captions]', and FriBidi (Debian and Ubuntu: apt install libfribidi0)"
)


@functools.lru_cache(maxsize=256)
def line(text, size):
    """Draw a line of text.

    Args:
        text: one line, safe to print. Characters without a font become "?".
        size: height of capital letters and what reaches above them, in pixels.

    Returns:
        A mask, uint8 `[height, width]`, 255 in letters; its height depends only on `size`, and the
        baseline is at `size`.
    """
    height = line_height(size)
    parts = [_drawn(run, size, height) for run in _parts(text)]
    return np.concatenate(parts or [np.zeros((height, 0), np.uint8)], axis=1)


def line_height(size):
    """Height of a mask of `line` in pixels."""
    return size + (size + 2) // 3


def shortened(text, size, room):
    """Shorten text to a width in pixels, with an ellipsis in place of its end."""
    if len(text) <= room and line(text, size).shape[1] <= room:
        return text
    low, high = 0, min(len(text), max(room, 1))  # characters that fit, and that don't
    while high - low > 1:
        middle = (low + high) // 2
        fits = line(_cut(text, middle), size).shape[1] <= room
        low, high = (middle, high) if fits else (low, middle)
    return _cut(text, low)


def _cut(text, count):
    while 0 < count < len(text) and is_mark(text[count]):  # marks belong to the letter before
        count -= 1
    return text[:count].rstrip() + _ELLIPSIS


def missing(text):
    """The characters of a text that no font here has."""
    return {c for c in text if not _is_blank(c) and not _face(c)[0]}


def unshaped(text):
    """Whether a text is drawn letter by letter although its script joins or moves letters.

    Characters without a font, which become "?", don't count.
    """
    if not needs_shaping(text) or _opencv_shapes() or _raqm():
        return False
    unknown = missing(text)
    return needs_shaping("".join(c for c in text if c not in unknown))


def names_of_scripts(characters):
    """The scripts of characters, such as "Devanagari, Thai"."""
    names = {unicodedata.name(c, "unnamed").split()[0].title() for c in characters}
    return ", ".join(sorted(names))


class _Run:
    """Characters of one direction that one font has."""

    def __init__(self, text, path, is_known):
        self.text, self.path, self.is_known = text, path, is_known


def _parts(text):
    """The `_Run`s of a line, from left to right."""
    for run, is_reversed in runs(text):
        shaped = _opencv_shapes() or (needs_shaping(run) and _raqm())
        if not shaped:
            run = _letters(run, is_reversed)
        parts: list[_Run] = []
        for character in run:
            is_known, path = _face(character)
            blank = _is_blank(character) or is_mark(character)
            if parts and (blank or (parts[-1].path, parts[-1].is_known) == (path, is_known)):
                parts[-1].text += character
            else:
                parts.append(_Run(character, path, is_known or blank))
        yield from reversed(parts) if is_reversed and shaped else parts


def _letters(run, is_reversed):
    """The characters that show a run if they are drawn one by one, from left to right."""
    visible = "".join(
        form if _face(form)[0] else letter
        for form, letter in _with_origin(joined(run))
        if not is_invisible(form)
    )
    return in_visual_order(visible) if is_reversed else visible


def _with_origin(text):
    """Characters with what they are without their place in a word."""
    for character in text:
        is_form = 0xFB50 <= ord(character) <= 0xFEFC
        yield character, unicodedata.normalize("NFKC", character) if is_form else character


def _drawn(run, size, height):
    """The mask of a `_Run`."""
    if not run.is_known:
        run = _Run(_UNKNOWN * len(run.text), "", True)
    if needs_shaping(run.text) and run.path and not _opencv_shapes() and _raqm():
        return _drawn_by_pillow(run, size, height)
    if not hasattr(cv2, "FontFace"):
        return _drawn_by_strokes(run.text, size, height)
    face = _load(run.path)
    image = np.zeros((height, 4 * (size + 1) * (len(run.text) + 4)), np.uint8)
    end, image = cv2.putText(image, run.text, (size // 4, size), (255,) * 3, face, size, _WEIGHT)
    used = np.flatnonzero(image.any(axis=0))
    first = min(size // 4, used[0]) if len(used) else size // 4
    last = max(end[0], used[-1] + 1) if len(used) else end[0]
    return image[:, first:last]


def _drawn_by_pillow(run, size, height):
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(run.path, size, layout_engine=ImageFont.Layout.RAQM)
    ascent, _ = font.getmetrics()
    font = font.font_variant(size=max(size * size // ascent, 1))  # as large as OpenCV's
    left, _, right, _ = font.getbbox(run.text, anchor="ls")
    width = math.ceil(max(font.getlength(run.text), right) - min(left, 0))
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((-min(left, 0), size), run.text, 255, font, anchor="ls")
    return np.asarray(image)


def _drawn_by_strokes(text, size, height):
    """OpenCV before 5 has letters of strokes, and only those of ASCII."""
    scale = size / 26
    image = drawing.paper(height, drawing.text_width(text, size=scale) + 2)
    drawing.write(image, text, 1, size, size=scale)
    return 255 - image[..., 0]


def _is_blank(character):
    return character.isspace() or is_invisible(character)


@functools.cache
def _face(character):
    """Whether a font has a character, and the file of that font; "" for those of OpenCV."""
    if character.isascii():
        return True, ""
    if not hasattr(cv2, "FontFace"):
        return drawing.drawable(character) == character, ""
    for path in _useful():
        if _shows(path, character):
            return True, path
    # Every font is opened for a character that none has, so that it is done a few times only.
    block = ord(character) // _BLOCK
    if _failures()[block] < _PATIENCE:
        for path in _font_files():
            if _shows(path, character):
                _useful().append(path)
                return True, path
    _failures()[block] += 1
    return False, ""


@functools.cache
def _failures():
    """Numbers of characters without a font, by block."""
    return collections.Counter()


@functools.cache
def _useful():
    """Fonts that had a character, first those of OpenCV."""
    return [""]


def _shows(path, character):
    """Whether a font, or OpenCV's own, shows a character as something else than "?"."""
    face = _load(path)
    if face is None:
        return False
    picture = _picture(face, character)
    return bool(picture.any()) and not np.array_equal(picture, _picture(face, _UNKNOWN))


def _picture(face, text):
    image = np.zeros((2 * _TRIED, 4 * _TRIED), np.uint8)
    place = _TRIED, _TRIED + _TRIED // 2
    return cv2.putText(image, text, place, (255,) * 3, face, _TRIED, _WEIGHT)[1]


@functools.lru_cache(maxsize=16)
def _load(path):
    """A font of a file, or OpenCV's for ""; `None` if it can't be read."""
    face = cv2.FontFace(*([] if path else ["sans"]))
    try:
        return face if not path or face.set(path) else None
    except cv2.error:
        return None


@functools.cache
def _opencv_shapes():
    """Whether OpenCV orders and joins letters itself, as it does with HarfBuzz."""
    if not hasattr(cv2, "FontFace"):
        return False
    first, both = (_picture(_load(""), text) for text in ("\u05d0", "\u05d0\u05d1"))
    width = np.flatnonzero(first.any(axis=0))
    return bool(len(width)) and not np.array_equal(first[:, : width[-1]], both[:, : width[-1]])


@functools.cache
def _raqm():
    """Whether Pillow is installed, and orders and joins letters."""
    try:
        from PIL import features
    except ImportError:
        return False
    return bool(features.check("raqm"))


@functools.cache
def _font_files():
    """The fonts of this machine: upright ones of normal weight first."""
    found = []
    for folder in _font_folders():
        for place, _, names in os.walk(folder):
            found += [os.path.join(place, n) for n in names if n.lower().endswith(_FONT_FILES)]
    return sorted(found, key=_rank)[:_MAX_FONT_FILES]


def _rank(path):
    name = os.path.basename(path).lower()
    styles = sum(style in name for style in _OTHER_STYLES)
    return styles, "sans" not in name, "regular" not in name, path


def _font_folders():
    home = os.path.expanduser("~")
    if sys.platform == "darwin":
        return "/System/Library/Fonts", "/Library/Fonts", f"{home}/Library/Fonts"
    if sys.platform == "win32":
        windows = os.environ.get("WINDIR", r"C:\Windows")
        local = os.environ.get("LOCALAPPDATA", home)
        return os.path.join(windows, "Fonts"), os.path.join(local, r"Microsoft\Windows\Fonts")
    data = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
    shared = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    return f"{data}/fonts", f"{home}/.fonts", *(os.path.join(each, "fonts") for each in shared)
