"""The frame of a page: policy, style, script and headline."""

import base64
import functools
import hashlib
import importlib.resources
import os

from trn_jax.errors import UserError
from trn_jax.files import make_folder, write_text
from trn_jax.pages.markup import Markup, tag

MAX_BYTES = 10_000_000  # of a page that can be mailed
SCRIPTS = ("sorting",)


def page(title, *body, scripts=SCRIPTS, lead=None, language="en"):
    """Build a page that needs no other file and connects to nothing.

    Its policy allows only the style and the script of this package, by their hashes, and pictures
    inside the page. So there are no `style` attributes: use classes of `style.css`, or attributes
    of SVG. Without the script, the page is complete but can't be sorted.

    Args:
        title: a text.
        *body: the sections, see `section`.
        scripts: names of the scripts of this folder that it needs.
        lead: a text or `Markup` below the title.
        language: of the text.

    Returns:
        The HTML, a str.
    """
    style = _file("style.css")
    script = "\n".join(_file(f"{name}.js") for name in scripts)
    rules = ["default-src 'none'", "img-src data:", f"style-src '{_hash(style)}'"]
    rules += [f"script-src '{_hash(script)}'"] if script else []
    rules += ["base-uri 'none'", "form-action 'none'"]
    sections = [each for each in body if each]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content="; ".join(rules)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    contents = tag(
        "body",
        tag("header", tag("h1", title), lead and tag("p", lead, class_="lead")),
        tag("main", sections),
        tag("script", Markup(script)) if script else None,
    )
    document = tag("html", "\n", head, "\n", contents, "\n", lang=language)
    return f"<!doctype html>\n{document}\n"


def section(key, heading, *content):
    """A section of a page, with a heading that links can name.

    Args:
        key: its `id`.
        heading: a text or `Markup`.
        *content: see `markup.tag`.
    """
    return tag(
        "section",
        tag("h2", heading, id=f"{key}-heading"),
        content,
        id=key,
        aria_labelledby=f"{key}-heading",
    )


def contents(sections):
    """Links to sections, pairs of their `id` and heading."""
    links = [tag("li", tag("a", heading, href=f"#{key}")) for key, heading in sections]
    return tag("nav", tag("ul", links), aria_label="contents", class_="contents")


def facts(pairs):
    """A list of names and values, such as the origin of a result; values `None` are left out."""
    return tag(
        "dl",
        [
            tag("div", tag("dt", key), tag("dd", value))
            for key, value in pairs
            if value is not None and value != ""
        ],
        class_="facts",
    )


def note(*content):
    """A paragraph in small letters."""
    return tag("p", content, class_="note")


def write_page(path, text):
    """Write a page, complete or not there; its folder is made if it is missing.

    Raises:
        UserError: it has more than 10 MB, or can't be written.
    """
    size = len(text.encode())
    if size > MAX_BYTES:
        raise UserError(f"the page {path} has {size:,} bytes, expected at most {MAX_BYTES:,}")
    make_folder(os.path.dirname(os.path.abspath(path)))
    write_text(path, text)


@functools.cache
def _file(name):
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
