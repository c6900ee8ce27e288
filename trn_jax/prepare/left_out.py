"""Files that list the videos a data set leaves out, with reasons."""

import re

from trn_jax.errors import escaped

MISSING = "missing.txt"
UNREADABLE = "unreadable.txt"


def reason_lines(reasons):
    """`{video: reason}` as the text of such a file, with lines `<video><tab><reason>`."""
    return "".join(f"{printable(name)}\t{printable(why)}\n" for name, why in reasons.items())


def printable(name):
    """A file name, which may be any bytes, as one line of text."""
    return escaped(re.sub("[\\ud800-\\udfff]", "\ufffd", name))  # bytes that are not UTF-8


def is_line(name):
    """Whether a name can be an entry of a list: UTF-8 text without line breaks."""
    return not re.search("[\\n\\r\\ud800-\\udfff]", name)
