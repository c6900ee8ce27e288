"""Kernels of a program compiled for GPUs, and the bytes that they read and write.

XLA reports neither for GPUs. A kernel is an instruction of the scheduled program that is no mere
name for a buffer: a fusion, a call of cuDNN or cuBLAS, a copy, a collective. It reads its operands
and writes its results once, in memory; of an operand that it only takes slices of, before or after
elementwise operations, these. Caches may save some of it, and the workspaces of cuDNN and cuBLAS,
which they choose on the device, come on top.
"""

import dataclasses
import re

from trn_jax.planning.hlo_text import COMMENT, TRIPS, bytes_of, computations

_INSTRUCTION = re.compile(
    r"\s*(?P<root>ROOT )?(?P<name>%[\w.-]+) = (?P<shapes>.*?) (?P<kind>[a-z][\w-]*)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)"
)
_OPERAND = re.compile(r"%[\w.-]+")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|\w+_computations?)=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
_LIBRARY = re.compile(r'custom_call_target="__cu(?:blas|dnn)')
_SCRATCH = re.compile(r"\b[su]8\[")
# No kernels: names for buffers, ends of what has begun, and what is done while compiling.
_NO_KERNEL = {
    *("after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter"),
    *("partition-id", "replica-id", "tuple"),
}
_ENTERED = {"call", "conditional", "while"}  # their computations have the kernels
_SLICES = {"dynamic-slice", "gather", "slice"}
# A slice of their result needs the same share of their operands only.
_ELEMENTWISE = {
    *("add", "and", "bitcast", "compare", "concatenate", "convert", "divide", "exponential"),
    *("maximum", "minimum", "multiply", "negate", "or", "rsqrt", "select", "sign", "subtract"),
    "tanh",
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
        name: such as `%fusion.1`.
        kind: such as "fusion".
        bytes: of its result, without workspaces.
        operands: their names.
        number: of a parameter; 0 for others.
        called: names of computations.
        trips: of a loop; `None` if unknown.
        is_root: whether it is the result of the computation.
    """

    name: str
    kind: str
    bytes: int
    operands: tuple
    number: int
    called: tuple
    trips: int | None
    is_root: bool


def kernels_of(program, parts=1):
    """Count the kernels of a program, and the bytes that they move.

    Args:
        program: HLO text of a compiled program.
        parts: trip count of loops that don't state theirs.

    Returns:
        `(kernels, bytes)`.
    """
    found = {
        name: [parsed for line in lines if (parsed := _parsed(line))]
        for name, lines in computations(COMMENT.sub("", program)).items()
    }
    entry = list(found)[-1]  # callees come first
    return _count(found, entry, parts)


def _parsed(line):
    match = _INSTRUCTION.fullmatch(line)
    if match is None:
        return None
    shapes, rest = match["shapes"], match["rest"]
    if _LIBRARY.search(rest) and shapes.startswith("("):
        shapes = " ".join(each for each in shapes.split(", ") if not _SCRATCH.search(each))
    trips = TRIPS.search(rest)
    called = " ".join(_CALLED.findall(rest))
    return Instruction(
        name=match["name"],
        kind=match["kind"],
        bytes=bytes_of(shapes),
        operands=tuple(_OPERAND.findall(match["operands"])),
        number=int(match["operands"]) if match["kind"] == "parameter" else 0,
        called=tuple(_OPERAND.findall(called)),
        trips=int(trips[1]) if trips else None,
        is_root=bool(match["root"]),
    )


def _count(found, name, parts):
    count = total = 0
    sizes = {each.name: each.bytes for each in found[name]}
    for each in found[name]:
        if each.kind in _NO_KERNEL or each.kind.endswith("-done"):
            continue
        if each.kind in _ENTERED:
            trips = (each.trips or parts) if each.kind == "while" else 1
            inside = [_count(found, called, parts) for called in each.called]
            count += trips * sum(kernels for kernels, _ in inside)
            total += trips * sum(moved for _, moved in inside)
            continue
        count += 1
        total += _moved(found, each, sizes)
    return count, total


def _moved(found, kernel, sizes):
    """Bytes that a kernel reads and writes."""
    read = [sizes.get(name, 0) for name in kernel.operands]
    written = kernel.bytes
    if kernel.kind in _SLICES:
        return written * 2
    if kernel.kind == "dynamic-update-slice":
        return 2 * read[1]
    if kernel.kind == "fusion":
        inside = found[kernel.called[0]]
        names = {each.name: each for each in inside}
        shares = _shares(inside)
        for each in inside:
            if each.kind == "parameter":
                read[each.number] = round(each.bytes * shares[each.name])
        root = next(each for each in inside if each.is_root)
        if root.kind == "dynamic-update-slice":  # in place
            written = names[root.operands[1]].bytes
    elif kernel.kind.endswith("-start"):
        written -= sum(read)  # the result repeats the operands
    return sum(read) + max(written, 0)


def _shares(inside):
    """The share of each value that a fusion needs, `{name: 0..1}`, as if no slices overlapped."""
    shares: dict[str, float] = {}
    sizes = {each.name: each.bytes for each in inside}
    in_place = {each.name for each in inside if each.kind == "parameter"}
    for each in inside:
        if each.kind == "bitcast" and each.operands[0] in in_place:
            in_place.add(each.name)
    for each in reversed(inside):
        needed = 1 if each.is_root else min(shares.get(each.name, 0), 1)
        shares[each.name] = needed
        for index, name in enumerate(dict.fromkeys(each.operands)):
            share = 1.0
            if each.kind in _ELEMENTWISE:
                share = needed
            elif each.kind in _SLICES and index == 0 and sizes.get(name):
                share = needed * each.bytes / sizes[name]
            elif each.kind == "dynamic-update-slice" and index == 0 and name in in_place:
                share = 0
            shares[name] = shares.get(name, 0) + share
    return shares
