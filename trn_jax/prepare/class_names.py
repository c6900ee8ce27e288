"""Names of classes: their order, spellings that mean one class, and names of numbers."""

import collections
import dataclasses
import os
import unicodedata

from trn_jax.data.annotations import numbered_names
from trn_jax.errors import UserError, listed
from trn_jax.files import read_text

# Where people keep the names of numbered classes, beside their lists.
_MAPS = (
    *("label_map.txt", "classInd.txt", "labels.txt", "class_names.txt", "classes.txt"),
    *("class_list.txt", "categories.txt", "category.txt", "class2ind.txt"),
    "kinetics_class2ind.txt",
)


def ordered(names, order=()):
    """Names of classes in the order of their labels.

    Args:
        names: the classes.
        order: all names that their numbers stood for; by default numbers go by their value, and
            names by the alphabet.
    """
    if order:
        return [name for name in order if name in names]
    if all(map(_is_number, names)):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _is_number(name):
    return name.isdecimal() and len(name) < 10  # longer ones are names, such as dates


def unify(writer, items, order, *, merge):
    """Make one class of spellings that mean one.

    Spaces around names can't be kept, as files of class names are read without them. Other names
    that differ only in case, spaces or Unicode normal form are reported, and merged if asked for.

    Args:
        writer: the `DatasetWriter` to report to.
        items: `Example`s.
        order: of the classes, see `ordered`.
        merge: whether to merge the latter.

    Returns:
        The items and the order, with the names that remain.
    """
    counts = collections.Counter(label for item in items for label in item.labels)
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
    items = [
        dataclasses.replace(item, labels=tuple(dict.fromkeys(chosen[n] for n in item.labels)))
        for item in items
    ]
    return items, list(dict.fromkeys(chosen.get(name, name.strip()) for name in order))


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


def name_numbers(writer, items, folder, *, but):
    """Replace numbers of classes by their names, if a file beside the list has those.

    Args:
        writer: the `DatasetWriter` to report to.
        items: `Example`s.
        folder: where the list lies.
        but: the list, which is no such file itself.

    Returns:
        The items, and the names in the order of their numbers; an empty list if classes aren't
        numbers, or have no names.

    Raises:
        UserError: the file has no name for some number or a name twice, or would be overwritten.
    """
    numbers = {label for item in items for label in item.labels}
    paths = (os.path.join(folder, name) for name in _MAPS)
    path = next((p for p in paths if os.path.isfile(p) and not os.path.samefile(p, but)), None)
    if path is None or not numbers or not all(map(_is_number, numbers)):
        return items, []
    names = _read_map(path)
    if all(map(_is_number, names.values())):
        return items, []  # of an earlier preparation, which had no names either
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
    items = [
        dataclasses.replace(item, labels=tuple(names[int(number)] for number in item.labels))
        for item in items
    ]
    return items, [names[number] for number in sorted(names)]


def _read_map(path):
    """`{number: name}` from lines `<number> <name>`, `<name> <number>`, or names from 0 on."""
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; expected the name of a class per line, or remove it")
    names = numbered_names(lines) or dict(enumerate(lines))
    twice = [name for name, count in collections.Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(lines):
        raise UserError(f"{path} has names or numbers twice:{listed(twice or lines)}")
    return names
