"""Names of files, which may be any bytes, where they become text."""

import re

from trn_jax.errors import escaped


def printable(name):
    """A name as one line of text that can be written, whatever bytes it consists of."""
    return escaped(re.sub("[\\ud800-\\udfff]", "\ufffd", name))  # bytes that are no text


def is_line(name):
    """Whether a name can stand in a list: it is text in UTF-8, and has no line breaks."""
    return not re.search("[\\n\\r\\ud800-\\udfff]", name)
