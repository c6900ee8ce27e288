"""Size and orientation of images from their headers, without decoding.

For any bytes the functions return and allocate no memory, as headers are untrusted.
"""

import struct

_EXIF = b"Exif\0\0"
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274  # tags of TIFF, which EXIF consists of
_FORMATS = {1: "B", 3: "H", 4: "I"}  # of the types of their values
_SEARCHED = 1 << 16  # bytes at the start that are searched
_MAX_TAGS = 256
# EXIF's orientations 1 to 8 as `(transposed, upside_down, mirrored)`, see `orientation.oriented`.
_SYMMETRIES = (
    *((False, False, False), (False, False, True), (False, True, True), (False, True, False)),
    *((True, False, False), (True, False, True), (True, True, True), (True, True, False)),
)


def size(data):
    """Width and height of a PNG, WebP, GIF, BMP, TIFF, PNM, AVIF or JPEG 2000, in pixels.

    Returns:
        `(width, height)` as stored, before orientation; `None` for other data.
    """
    try:
        return _size(data)
    except (struct.error, ValueError, IndexError):
        return None


def orientation(data):
    """EXIF orientation of a JPEG, PNG or WebP.

    Returns:
        `(transposed, upside_down, mirrored)`, see `orientation.oriented`; all false without a valid
        orientation.
    """
    try:
        number = _tags(_exif(data)).get(_ORIENTATION, 1)
    except (struct.error, ValueError, IndexError):
        number = 1
    return _SYMMETRIES[number - 1 if 1 <= number <= 8 else 0]


def _size(data):
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return struct.unpack_from("<HH", data, 6)
    if data.startswith(b"BM"):
        old = struct.unpack_from("<I", data, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
        return width, abs(height)  # negative where rows go down
    if data.startswith((b"II", b"MM")):
        tags = _tags(data)
        return (tags[_WIDTH], tags[_HEIGHT]) if {_WIDTH, _HEIGHT} <= tags.keys() else None
    if data[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        lines = [line.partition(b"#")[0] for line in data[:_SEARCHED].splitlines()]
        _, width, height, *_ = b" ".join(lines[:64]).split(None, 3)
        return int(width), int(height)
    for kind, place, order in ((b"ispe", 8, (0, 1)), (b"ihdr", 4, (1, 0))):  # AVIF, JPEG 2000
        found = data.find(kind, 0, _SEARCHED)
        if found > 0 and data[4:8] in (b"ftyp", b"jP  "):
            sides = struct.unpack_from(">II", data, found + place)
            return sides[order[0]], sides[order[1]]
    return None


def _webp_size(data):
    kind = data[12:16]
    if kind == b"VP8X":
        return tuple(int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _exif(data):
    """The EXIF data of an image, `b""` if it has none."""
    if data.startswith(b"\xff\xd8"):
        # Few frames have it, and a search is faster than walking the segments.
        return _exif_of_jpeg(data) if data.find(_EXIF, 0, _SEARCHED) > 0 else b""
    if data.startswith(b"\x89PNG"):
        return _chunk(data, 8, b"eXIf", ">I4s", 12, stop=b"IEND")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _chunk(data, 12, b"EXIF", "<4sI", 8).removeprefix(_EXIF)
    return b""


def _exif_of_jpeg(data):
    position = 2
    while data[position] == 0xFF and data[position + 1] != 0xDA:  # up to the start of the scan
        (length,) = struct.unpack_from(">H", data, position + 2)
        content = data[position + 4 : position + 2 + length]
        if data[position + 1] == 0xE1 and content.startswith(_EXIF):
            return content.removeprefix(_EXIF)
        position += 2 + length
    return b""


def _chunk(data, position, wanted, header, overhead, stop=b""):
    """Content of the chunk `wanted` of a PNG or RIFF file, searched from `position` on."""
    while position + 8 <= len(data):
        fields = struct.unpack_from(header, data, position)
        length, kind = sorted(fields, key=lambda field: isinstance(field, bytes))
        if kind == wanted:
            return data[position + 8 : position + 8 + length]
        if kind == stop:
            break
        position += overhead + length + (length % 2 if overhead == 8 else 0)
    return b""


def _tags(data):
    """Tags with a single number in the first directory of a TIFF: `{tag: value}`."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return {}
    magic, start = struct.unpack_from(f"{order}HI", data, 2)
    if magic != 42:
        return {}
    (count,) = struct.unpack_from(f"{order}H", data, start)
    found = {}
    for number in range(min(count, _MAX_TAGS)):
        place = start + 2 + 12 * number
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, place)
        if values == 1 and kind in _FORMATS:
            (found[tag],) = struct.unpack_from(order + _FORMATS[kind], data, place + 8)
    return found
