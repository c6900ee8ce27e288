"""The text of compiled programs (HLO): computations and sizes of shapes."""

import math
import re

COMMENT = re.compile(r"/\*.*?\*/")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_COMPUTATION = re.compile(r"(?:ENTRY )?(%[\w.-]+) \(.*\{\s*")
_SHAPE = re.compile(r"\b(?P<type>pred|[suf]\d+|bf16)\[(?P<sizes>[\d,]*)\]")


def computations(program):
    """`{name: lines}`, callees before callers; the entry is the last one."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        if begun := _COMPUTATION.fullmatch(line):
            lines = found[begun[1]] = []
        lines.append(line)
    return found


def sizes_of(shapes):
    """Yield the bytes of each array in the text of a shape or a tuple of shapes."""
    for shape in _SHAPE.finditer(shapes):
        count = math.prod(int(size) for size in shape["sizes"].split(",") if size)
        bits = re.search(r"\d+", shape["type"])
        yield count * (int(bits[0]) // 8 if bits else 1)


def bytes_of(shapes):
    """Bytes of all arrays in the text of a shape or a tuple of shapes."""
    return sum(sizes_of(shapes))
