"""Mutations of files, by format: the same name and seed give the same bytes."""

import io
import json
import os
import pickletools
import re
import struct
import zipfile
from xml.sax.saxutils import escape

import numpy as np

# Numbers and texts that readers may not expect.
NUMBERS = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    10**400,
    0.5,
    1e308,
    1e400,
)
NUMBERS += (float("nan"), -0.0, True, None)
TEXTS = (
    "",
    " ",
    "\0",
    "a b",
    "-1",
    "0.7",
    "nan",
    "1e999",
    "9" * 5000,
    "٣",
    "²",
    "\x1b[31m",
    "\u202e",
)
TEXTS += (
    "\ud800",
    "..",
    "/",
    "../../x",
    "\\",
    "'",
    '"',
    "#",
    ",",
    ";",
    "\t",
    "\r",
    "é" * 300,
    "{}",
    "%s",
)
LITERALS = [
    value.to_bytes(size, order, signed=True)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    for value in (0, -1, 1, 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), 2 ** (8 * size - 2))
]


def choose(rng, values):
    """One of some values, of any types."""
    return values[int(rng.integers(len(values)))]


# Mutations of bytes, and of what has a structure -------------------------------------------------


def mutated(name, content, seed):
    """The bytes of a file, changed as the seed says; the name tells the format."""
    rng = np.random.default_rng(seed)
    extension = os.path.splitext(name)[1] or ".json"  # Orbax gives its JSON none
    structured = STRUCTURED.get(extension)
    for _ in range(int(rng.integers(1, 4))):
        try:
            change = structured if structured and rng.random() < 0.6 else change_bytes
            content = change(content, rng)
        except Exception:  # the mutations before this one left nothing of the structure
            content = change_bytes(content, rng)
    return content


def change_bytes(content, rng):
    """Bytes flipped, put in, taken out, doubled, exchanged, or the end cut off."""
    content = bytearray(content or b"\0")
    at, other = (int(place) for place in rng.integers(len(content), size=2))
    length = int(choose(rng, (1, 2, 4, 8, 16, 100, 1000)))
    kind = int(rng.integers(8))
    if kind == 0:
        for place in rng.integers(len(content), size=int(rng.integers(1, 8))):
            content[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for place in rng.integers(len(content), size=int(rng.integers(1, 8))):
            content[place] = int(rng.integers(256))
    elif kind == 2:
        content[at:at] = rng.integers(0, 256, length, np.uint8).tobytes()
    elif kind == 3:
        del content[at : at + length]
    elif kind == 4:
        content[at:at] = content[other : other + length]
    elif kind == 5:
        content[at : at + length] = content[other : other + length]
    elif kind == 6:
        literal = choose(rng, LITERALS)
        content[at : at + len(literal)] = literal
    else:
        del content[at:]
    return bytes(content)


def change_lines(content, rng):
    """A field of a line, or a line, replaced, doubled or left out."""
    lines = content.decode().split("\n")
    at = int(rng.integers(len(lines)))
    separator = choose(rng, [mark for mark in " ,;\t" if mark in lines[at]] or [" "])
    fields = lines[at].split(separator)
    field = int(rng.integers(len(fields)))
    kind = int(rng.integers(5))
    if kind == 0:
        fields[field] = str(choose(rng, NUMBERS))
    elif kind == 1:
        fields[field] = choose(rng, TEXTS)
    elif kind == 2:
        del fields[field]
    elif kind == 3:
        fields.insert(field, choose(rng, fields))
    lines[at] = separator.join(fields)
    if kind == 4:
        lines.insert(at, choose(rng, lines))
    return "\n".join(lines).encode(errors="surrogatepass")


def change_json(content, rng):
    """A value in JSON replaced, left out or doubled; of several lines, one is taken."""
    lines = content.split(b"\n") if content.count(b"\n{") else [content]
    at = int(rng.integers(len(lines)))
    tree = [json.loads(lines[at])]
    parent, key = choose(rng, list(_places(tree)))
    kind = int(rng.integers(6))
    if kind == 0:
        parent[key] = choose(rng, NUMBERS)
    elif kind == 1:
        parent[key] = choose(rng, TEXTS)
    elif kind == 2:
        parent[key] = choose(
            rng, ([], {}, [[]], [{}], {"": None}, [parent[key]], {"a": parent[key]})
        )
    elif kind == 3 and parent is not tree:
        del parent[key]
    elif kind == 4 and isinstance(parent, dict):
        parent[choose(rng, TEXTS)] = parent[key]
    elif isinstance(parent[key], list):
        parent[key] = parent[key] * 2
    lines[at] = json.dumps(tree[0]).encode()
    return b"\n".join(lines)


def _places(tree):
    """Pairs of a container and a key of all values in JSON."""
    for key in range(len(tree)) if isinstance(tree, list) else list(tree):
        yield tree, key
        if isinstance(tree[key], list | dict):
            yield from _places(tree[key])


def change_xml(content, rng):
    """A value of an attribute or a text replaced, or an element or what is between two moved."""
    pieces = re.split(r'("[^"<>]*"|<[^<>"]*|[^<>"]+(?=<))', content.decode())
    values = [n for n, piece in enumerate(pieces) if piece.startswith('"')] or [0]
    at, other = int(choose(rng, values)), int(rng.integers(len(pieces)))
    kind = int(rng.integers(4))
    if kind == 0:
        pieces[at] = f'"{choose(rng, NUMBERS)}"'
    elif kind == 1:
        pieces[at] = f'"{escape(choose(rng, TEXTS), {chr(34): ""})}"'
    elif kind == 2:
        pieces[at] = pieces[int(choose(rng, values))]
    else:
        elements = content.decode().split("\n")
        line = int(rng.integers(len(elements)))
        elements.insert(line, choose(rng, elements))
        return "\n".join(elements).encode()
    if int(rng.integers(8)) == 0:
        pieces[other] = ""
    return "".join(pieces).encode(errors="surrogatepass")


def change_pickle(content, rng):
    """An instruction left out, doubled, exchanged, or its argument changed."""
    starts = [place for _, _, place in pickletools.genops(content)]
    steps = [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]
    at, other = (int(place) for place in rng.integers(len(steps), size=2))
    kind = int(rng.integers(5))
    if kind == 0:
        del steps[at]
    elif kind == 1:
        steps.insert(at, steps[other])
    elif kind == 2:
        steps[at], steps[other] = steps[other], steps[at]
    elif kind == 3:
        steps.insert(
            at, choose(rng, [bytes([op]) for op in b"(.02N})]ebtulsaoQR\x81\x85\x86\x88\x93\x94"])
        )
    else:
        steps[at] = steps[at][:1] + change_bytes(steps[at][1:], rng)
    return b"".join(steps) + content[starts[-1] + 1 :]


def change_zip(content, rng):
    """A member changed, left out, renamed or packed in another way, in an archive that is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        packed = {info.filename: info.compress_type for info in archive.infolist()}
    name = choose(rng, list(members))
    kind = int(rng.integers(6))
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[choose(rng, TEXTS) or "x"] = members.pop(name)
    elif kind == 2:
        packed[name] = int(choose(rng, (0, 8, 12, 14)))
    else:
        of_pickle = name.endswith(".pkl") and kind < 5
        members[name] = (change_pickle if of_pickle else change_bytes)(members[name], rng)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data, packed.get(name, 0))
    return file.getvalue()


def change_safetensors(content, rng):
    """The header changed, behind a length that fits."""
    length = int.from_bytes(content[:8], "little")
    header = change_json(content[8 : 8 + length], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


STRUCTURED = {
    ".txt": change_lines,
    ".csv": change_lines,
    ".tsv": change_lines,
    ".json": change_json,
    ".jsonl": change_json,
    ".eaf": change_xml,
    ".xml": change_xml,
    ".pkl": change_pickle,
    ".npz": change_zip,
    ".pth": change_zip,
    ".safetensors": change_safetensors,
}
