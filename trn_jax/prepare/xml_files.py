"""XML from elsewhere: no document types, so no entities, no other files; bounded depth and size."""

import os
from xml.etree.ElementTree import TreeBuilder
from xml.parsers import expat

from trn_jax.errors import UserError
from trn_jax.files import check_memory

_MAX_DEPTH = 100
_ELEMENT, _ATTRIBUTE = 200, 100  # bytes in memory, about
_STEP = 1 << 20  # bytes after which their sum is checked


def read_xml(path):
    """Read an XML file: its root, an `xml.etree.ElementTree.Element`.

    Raises:
        UserError: it is malformed, declares a document type, or is nested deeper than 100 levels.
    """
    size = os.path.getsize(path)
    builder, parser = TreeBuilder(), expat.ParserCreate()
    depth = needed = checked = 0

    def start(name, attributes):
        nonlocal depth, needed, checked
        depth += 1
        needed += _ELEMENT + _ATTRIBUTE * len(attributes)
        if depth > _MAX_DEPTH:
            raise UserError(f"its elements are nested deeper than {_MAX_DEPTH} levels")
        if needed > checked + _STEP:
            check_memory(needed, size)
            checked = needed
        builder.start(name, attributes)

    def end(name):
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_):
        raise UserError("it declares a document type or entities, which annotations never do")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.buffer_text = True
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        raise UserError(f"it is not complete XML: {error}") from None
    return builder.close()


def root_name(path):
    """The name of the root element of an XML file, or `None` if it is no XML."""
    names: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: names.append(name)
    try:
        with open(path, "rb") as file:
            while not names and (chunk := file.read(1 << 12)):
                parser.Parse(chunk)
    except expat.ExpatError:
        pass
    return names[0] if names else None
