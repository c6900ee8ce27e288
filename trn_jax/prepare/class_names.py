"""Class names: order, variant spellings, and names of numbered classes."""

import collections
import dataclasses
import os
import unicodedata

from trn_jax.data.class_names import numbered_names
from trn_jax.errors import UserError, listed
from trn_jax.files import read_stripped_lines

# Files with the names of numbered classes, beside a list.
_MAPS = (
    *("label_map.txt", "classInd.txt", "labels.txt", "class_names.txt", "classes.txt"),
    *("class_list.txt", "categories.txt", "category.txt", "class2ind.txt"),
    "kinetics_class2ind.txt",
)


def ordered(names, order=()):
    """Class names in the `order` of the source's numbers, which may have further names.

    Without an order, numbers are sorted by value, and names alphabetically.
    """
    if order:
        return [name for name in order if name in names]
    if all(map(_is_number, names)):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _is_number(name):
    return name.isdecimal() and len(name) < 10  # longer ones are names, such as dates


def unify(writer, examples, order, *, merge):
    """Merge variant spellings of class names; returns examples and order with the remaining names.

    Spaces around names are always removed, as files of class names are read without them. Names
    that differ only in case, spaces or Unicode normal form are noted, and merged on request.
    """
    counts = collections.Counter(label for example in examples for label in example.labels)
    chosen: dict[str, str] = {}
    for key in (str.strip, _folded):
        spellings = collections.defaultdict(list)
        for name in sorted(counts, key=lambda name: (-counts[name], name)):
            spellings[key(chosen.get(name, name))].append(name)
        for names in spellings.values():
            shown = sorted({chosen.get(name, name) if key is _folded else name for name in names})
            if key is str.strip or merge:
                chosen |= dict.fromkeys(names, chosen.get(names[0], names[0]).strip())
            if len(shown) > 1:
                writer.note(_describe(shown, key is str.strip or merge, chosen.get(names[0])))
    examples = [
        dataclasses.replace(example, labels=tuple(dict.fromkeys(chosen[n] for n in example.labels)))
        for example in examples
    ]
    return examples, list(dict.fromkeys(chosen.get(name, name.strip()) for name in order))


def _describe(names, merged, kept):
    shown = ", ".join(map(repr, names))
    if merged:
        return f"one class of names that differ only in case or spaces: {shown} are {kept!r}"
    return (
        f"names of classes that differ only in case or spaces: {shown}; add --merge-classes to "
        "make one class of them"
    )


def _folded(name):
    return unicodedata.normalize("NFC", " ".join(name.split()).casefold())


def name_numbers(writer, examples, folder, *, but):
    """Replace class numbers by the names in a file beside the list, if there is one.

    Args:
        writer: the `DatasetWriter` that notes the file.
        examples: `Example`s.
        folder: folder of the list.
        but: the list, which is not that file itself.

    Returns:
        The examples, and the names in the order of their numbers; an empty list if classes aren't
        numbers, or have no names.

    Raises:
        UserError: the file lacks a number, has a name twice, or would be overwritten.
    """
    numbers = {label for example in examples for label in example.labels}
    paths = (os.path.join(folder, name) for name in _MAPS)
    path = next((p for p in paths if os.path.isfile(p) and not os.path.samefile(p, but)), None)
    if path is None or not numbers or not all(map(_is_number, numbers)):
        return examples, []
    names = _read_map(path)
    if all(map(_is_number, names.values())):
        return examples, []  # written by an earlier preparation without names
    if os.path.realpath(path) == os.path.realpath(os.path.join(writer.to, "label_map.txt")):
        raise UserError(
            f"--to={writer.to} would overwrite {path}, where the names of the classes are; choose "
            "another folder"
        )
    unknown = sorted((number for number in numbers if int(number) not in names), key=int)
    if unknown:
        raise UserError(
            f"{path} has no name for {len(unknown)} of the {len(numbers)} classes in {but}, such "
            f"as {unknown[0]}; it names {min(names)} to {max(names)}"
        )
    writer.note(f"the names of the classes are those of {path}")
    examples = [
        dataclasses.replace(example, labels=tuple(names[int(number)] for number in example.labels))
        for example in examples
    ]
    return examples, [names[number] for number in sorted(names)]


def _read_map(path):
    """Read `{number: name}` from lines `<number> <name>`, `<name> <number>`, or `<name>`."""
    lines = read_stripped_lines(path)
    if not lines:
        raise UserError(f"{path} is empty; expected the name of a class per line, or remove it")
    names = numbered_names(lines) or dict(enumerate(lines))
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(lines):
        raise UserError(f"{path} has names or numbers twice:{listed(twice or lines)}")
    return names
