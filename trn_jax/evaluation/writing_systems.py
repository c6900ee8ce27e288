"""Order and shape of letters, for fonts that are drawn letter by letter: Arabic joins, bidi."""

import functools
import unicodedata

_TATWEEL = "\u0640"  # a stroke that joins on both sides
_FORMS = ("<isolated>", "<final>", "<initial>", "<medial>")
# Scripts whose letters join, stack or change places; those that Unicode has forms for are not here.
_SHAPED = (
    *((0x0700, 0x074F), (0x0780, 0x07BF), (0x0900, 0x0EFF), (0x0F00, 0x109F), (0x1780, 0x17FF)),
    *((0x1800, 0x18AF), (0x1A20, 0x1B7F), (0xA980, 0xA9DF), (0xAA00, 0xAA5F)),
)
_MIRRORED = dict(zip("()[]{}<>«»", ")(][}{><»«", strict=True))


def needs_shaping(text):
    """Whether a script's letters can't be drawn one by one, such as those of Devanagari."""
    return any(first <= ord(c) <= last for c in text for first, last in _SHAPED)


def is_mark(character):
    """Whether a character is drawn above or below the one before it."""
    return unicodedata.category(character) in ("Mn", "Me")


def is_invisible(character):
    """Whether a character has no picture of its own: joiners, selectors of variants, tags."""
    return unicodedata.category(character) == "Cf" or 0xFE00 <= ord(character) <= 0xFE0F


def runs(text):
    """Divide a line into runs of one direction, a simple form of Unicode's algorithm.

    The direction of the line is that of its first letter. Digits are written from left to right,
    and spaces and punctuation go with the letters around them if these agree, else with the line.

    Returns:
        Pairs of a run, its characters in the order in which they are read, and whether it is
        written from right to left; from left to right as they are seen.
    """
    strong = [_direction(c) for c in text]
    base = next((d for d in strong if d in "LR"), "L")
    before, after = base, base
    forward, backward = [], []
    for own, character in zip(strong, text, strict=True):
        if own in "LR" or (own == "N" and not is_mark(character)):
            before = own
        forward.append(before)
    for own in reversed(strong):
        after = own if own in "LRN" else after
        backward.append(after)
    backward.reverse()
    directions = []
    for own, left, right in zip(strong, forward, backward, strict=True):
        if own == "-":
            own = left if left == right else base
        elif own == "M":
            own = left
        directions.append("L" if own == "N" else own)
    found: list[list] = []
    for character, direction in zip(text, directions, strict=True):
        if found and found[-1][1] == (direction == "R"):
            found[-1][0] += character
        else:
            found.append([character, direction == "R"])
    return [tuple(run) for run in (reversed(found) if base == "R" else found)]


def _direction(character):
    """L, R, N (digits), M (marks) or - (neutral)."""
    kind = unicodedata.bidirectional(character)
    if kind in ("R", "AL"):
        return "R"
    if kind in ("EN", "AN"):
        return "N"
    return "L" if kind == "L" else "M" if kind == "NSM" else "-"


def in_visual_order(run):
    """A run that is written from right to left, as it is seen from left to right.

    Marks come before their letters, as fonts that are drawn letter by letter need it, and brackets
    are mirrored.
    """
    return "".join(_MIRRORED.get(character, character) for character in reversed(run))


def joined(text):
    """Text with the Arabic letters in the forms that Unicode has for their places in a word."""
    table = _joining()
    letters = _with_ligatures(text, table)
    found = list(letters)
    # Marks don't part the letters around them.
    places = [index for index, letter in enumerate(letters) if not is_mark(letter[0])]
    around = ["", *(letters[place] for place in places), ""]
    for place, before, after in zip(places, around, around[2:], strict=False):
        found[place] = _form(before, letters[place], after, table)
    return "".join(found)


def _form(before, letter, after, table):
    """A letter as it is written between two others."""
    forms = table.get(letter)
    if forms is None:
        return letter
    from_before = "<final>" in forms and _joins_after(before, table)
    to_after = "<initial>" in forms and _joins_before(after, table)
    return forms.get(_FORMS[from_before + 2 * to_after], letter)


def _joins_after(letter, table):
    return letter == _TATWEEL or "<initial>" in table.get(letter, ())


def _joins_before(letter, table):
    return letter == _TATWEEL or "<final>" in table.get(letter, ())


def _with_ligatures(text, table):
    """The letters of a text, with lam and alef as one."""
    letters: list[str] = []
    for character in text:
        if letters and letters[-1] + character in table:
            letters[-1] += character
        else:
            letters.append(character)
    return letters


@functools.cache
def _joining():
    """`{letter or ligature of lam and alef: {form: character}}`."""
    table: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFBFF), *range(0xFE80, 0xFEFD)):
        form, *parts = unicodedata.decomposition(chr(code)).split() or [""]
        letters = "".join(chr(int(part, 16)) for part in parts)
        is_ligature = len(letters) == 2 and code >= 0xFEF5
        if form in _FORMS and (len(letters) == 1 or is_ligature):
            table.setdefault(letters, {}).setdefault(form, chr(code))
    return table
