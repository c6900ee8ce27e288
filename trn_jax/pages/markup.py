"""HTML built from elements, whose texts and attributes are escaped."""

import html
import re

from trn_jax.errors import escaped

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
_ATTRIBUTE = re.compile(r"[a-z][a-zA-Z0-9-]*")
_SHOWN, _TITLE = 120, 300  # characters of a name on the page, and of the one that appears over it


class Markup(str):
    """HTML that is not escaped again."""

    __slots__ = ()


def tag(element, *content, **attributes):
    """Build an element.

    Args:
        element: its name, such as "p" or "svg".
        *content: texts, which are escaped, `Markup`, numbers, `None` (nothing), or lists of them.
        **attributes: values, which are escaped; `True` gives an attribute without value, `None` and
            `False` none. Underscores stand for hyphens, one at the end for none (`class_`).

    Returns:
        The `Markup`.

    Raises:
        TypeError: an attribute has a bad name, or is a style or a handler (`onclick`), which the
            page's policy forbids.
    """
    parts = [element]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if not _ATTRIBUTE.fullmatch(key) or key == "style" or key.startswith("on"):
            raise TypeError(f"the attribute {key!r} of <{element}> is not allowed on a page")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{html.escape(escaped(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if element in _VOID else f"{opening}{join(content)}</{element}>")


def join(parts, between=""):
    """Join texts, which are escaped, and `Markup`, also in lists, to a `Markup`."""
    return Markup(_as_markup(between).join(map(_as_markup, parts)))


def _as_markup(part):
    if isinstance(part, Markup):
        return part
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return join(part)
    return html.escape(escaped(part, keep="\n"))


def name(text):
    """Show the name of a class, video or file: in its own direction, and in the middle cut short.

    Returns:
        An element `bdi`; of a long name, the pointer shows more.
    """
    text = escaped(text)
    shown = middle_cut(text, _SHOWN)
    title = None if shown == text else middle_cut(text, _TITLE)
    return tag("bdi", shown, dir="auto", title=title)


def middle_cut(text, most):
    """Cut a text to at most so many characters, with an ellipsis in place of its middle."""
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 1]}…{text[len(text) - end :]}"
