"""Names of files, which may be any bytes, where they become text."""

import os
import re


def printable(name):
    """A name as text that can be written, whatever bytes it consists of."""
    return os.fsencode(name).decode(errors="replace")


def is_line(name):
    """Whether a name can stand in a list: it is text in UTF-8, and has no line breaks."""
    return not re.search("[\\n\\r\\ud800-\\udfff]", name)
