"""Finding the files with the annotations among the archives, and reading them."""

import csv
import io
import json
import os
import pathlib

from trn_jax.data.annotations import numbered_names
from trn_jax.errors import UserError, listed
from trn_jax.files import check_memory, reading
from trn_jax.prepare.archives import Zip

_SUBFOLDERS = ("", "annotations", "labels", "ucfTrainTestlist")


def collect(writer, archives, folder, wanted, *, packed_in="", optional=()):
    """Bring files of annotations to a folder of the data set, unless they are there.

    They are looked for in the folder of the archives, in folders below it that archives make, and
    in a zip file there.

    Args:
        writer: the `DatasetWriter` to write with.
        archives: folder of the archives.
        folder: where they belong below the folder of the data set.
        wanted: `{name: other names that the file may have}`.
        packed_in: name of the zip file that they are distributed in.
        optional: those of `wanted` that nothing depends on.

    Returns:
        `{name: path}` of those of `wanted` that are there.

    Raises:
        UserError: files are missing; all are named.
    """
    names = {each for name, others in wanted.items() for each in (name, *others)}
    packed = _packed(os.path.join(archives, packed_in), names) if packed_in else {}
    paths, missing = {}, []
    for name, others in wanted.items():
        path = os.path.join(writer.to, folder, name)
        content = _find(archives, packed, (name, *others))
        if content is not None:
            writer.write(os.path.join(folder, name), content)
        if content is not None or os.path.isfile(path):
            paths[name] = path
        elif name not in optional:
            missing.append(name)
    if missing:
        places = [archives, packed_in, os.path.join(writer.to, folder)]
        raise UserError(
            f"annotations not found: {', '.join(missing)}; looked for in "
            f"{', '.join(place for place in places if place)}; download them to {archives}"
        )
    return paths


def _packed(path, names):
    """Contents of those files in a zip file that have certain names, without their folders."""
    if not os.path.isfile(path):
        return {}
    packed = {}
    with reading(path, "an archive of annotations"):
        for member in Zip(path).members():
            name = pathlib.PurePosixPath(member.name).name
            if name in names:
                check_memory(member.size, os.path.getsize(path))
                packed[name] = b"".join(member.chunks)
    return packed


def _find(archives, packed, names):
    for name in names:
        for folder in _SUBFOLDERS:
            path = pathlib.Path(archives, folder, name)
            if path.is_file():
                return path.read_bytes()
        if name in packed:
            return packed[name]
    return None


def read_lines(path):
    """The lines of a text that are not blank, without blanks around them."""
    return [line.strip() for line in _read_text(path).split("\n") if line.strip()]


def read_fields(path, separator, expected):
    """The two fields of every line.

    Args:
        path: the file.
        separator: what stands between them, once.
        expected: what a line looks like, for messages.

    Returns:
        A list of pairs of strings that are not empty.
    """
    pairs, problems = [], []
    for number, line in enumerate(read_lines(path), start=1):
        fields = tuple(line.split(separator))
        if len(fields) == 2 and all(fields):
            pairs.append(fields)
        else:
            problems.append(f"line {number}: {line!r}")
    if problems:
        raise malformed(path, problems, expected)
    return pairs


def read_class_index(path):
    """`{number: class name}` of lines with both, in either order, such as `clapping,0`."""
    lines = read_lines(path)
    index = numbered_names(lines)
    if index is None:
        wrong = [line for line in lines if numbered_names([line]) is None]
        raise malformed(path, wrong or lines, "<class name>,<number>")
    return index


def read_csv(path, columns):
    """The rows of a comma-separated file with a header, as dicts with at least these columns."""
    rows = csv.DictReader(io.StringIO(_read_text(path)))
    header = rows.fieldnames or ()
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}, only {', '.join(header) or 'none'}; get "
            "it again"
        )
    found = list(rows)
    problems = [
        f"line {number}: {row}"
        for number, row in enumerate(found, start=2)
        if any(row[column] is None for column in columns)
    ]
    if problems:
        raise malformed(path, problems, ",".join(columns))
    return found


def load_json(path):
    """What a JSON file holds."""
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON, or not all of it: {error}; get it again") from None


def check_names(path, names):
    """Refuse names of videos that would lead out of the folder of the videos."""
    bad = [
        repr(name)
        for name in names
        if not name or os.path.isabs(name) or ".." in pathlib.PurePath(name).parts
    ]
    if bad:
        raise malformed(path, bad, "names of videos")


def malformed(path, problems, expected):
    """The error for lines of a file that are not as expected."""
    return UserError(
        f"{path} has {len(problems)} wrong lines, expected {expected!r}; get it again:"
        f"{listed(problems)}"
    )


def _read_text(path):
    """A text with any line ends, with or without a byte order mark."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; get it again") from None
