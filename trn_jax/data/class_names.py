"""Class names in the order of their labels, from a label map."""

import collections
import re

from trn_jax.data.annotations import read_lines
from trn_jax.errors import UserError, escaped

_SEPARATOR = r"(?:\s*[,;:\t]\s*|\s+)"
_NUMBER_FIRST = re.compile(rf"(?P<number>\d{{1,9}}){_SEPARATOR}(?P<name>\S.*)")
_NUMBER_LAST = re.compile(rf"(?P<name>.*\S){_SEPARATOR}(?P<number>\d{{1,9}})")


def read_class_names(path):
    """Read class names, one per line by label, or an index of them, see `in_label_order`.

    Raises:
        UserError: the file is unreadable, or two classes have the same name.
    """
    lines = read_lines(path, "class names")
    names = in_label_order([line.strip() for line in lines if line.strip()])
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"{path} names classes twice: {', '.join(map(escaped, twice[:10]))}; class names must "
            "be unique"
        )
    return names


def in_label_order(lines):
    """Class names in the order of their labels, from names or from an index.

    The lines of an index are `abseiling 0`, in any order, or `1 ApplyEyeMakeup`, with consecutive
    numbers from 0 or 1. In any other order, numbers in front are part of the names.
    """
    index = numbered_names(lines) or {}
    names, first = [index[number] for number in sorted(index)], min(index, default=0)
    complete = len(index) == len(lines) and sorted(index) == list(range(first, first + len(index)))
    if first > 1 or not complete or len(set(names)) < len(names):
        return lines
    in_order = list(index) == sorted(index)
    last = all(map(_NUMBER_LAST.fullmatch, lines)) and first == 0
    return names if in_order or last else lines


def numbered_names(lines):
    """`{number: name}` of lines `<number> <name>` or `<name> <number>`; `None` if some are neither.

    Separators are also commas, semicolons, colons and tabs. Of a repeated number, the last line
    counts.
    """
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        found = [match for line in lines if (match := pattern.fullmatch(line))]
        if lines and len(found) == len(lines):
            return {int(match["number"]): match["name"] for match in found}
    return None
