"""Annotation files of public data sets: found among the archives, copied and read."""

import csv
import io
import os
import pathlib

from trn_jax.data.class_names import numbered_names
from trn_jax.errors import UserError, listed
from trn_jax.files import check_memory, read_stripped_lines, read_text, reading
from trn_jax.prepare.archives import Zip

_SUBFOLDERS = ("", "annotations", "labels", "ucfTrainTestlist")


def collect(writer, archives, folder, wanted, *, packed_in="", optional=()):
    """Copy annotation files into a data set, from the folder of the archives or a zip file there.

    Args:
        writer: a `DatasetWriter`.
        archives: folder of the archives.
        folder: of the annotations, in the data set.
        wanted: `{name: alternative names}`.
        packed_in: name of the zip file that they are distributed in.
        optional: those of `wanted` that may be missing.

    Returns:
        `{name: path}` of those found, now or by an earlier preparation.

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
        places = filter(None, (archives, packed_in, os.path.join(writer.to, folder)))
        raise UserError(
            f"annotations not found in {', '.join(places)}: {', '.join(missing)}; download them "
            f"to {archives}"
        )
    return paths


def _packed(path, names):
    """`{name: content}` of the members of a zip file with these names, in any folder."""
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


def read_class_index(path):
    """Read `{number: class name}` from lines with both, in either order, such as `clapping,0`."""
    lines = read_stripped_lines(path)
    index = numbered_names(lines)
    if index is None:
        wrong = [line for line in lines if numbered_names([line]) is None]
        raise malformed(path, wrong or lines, "<class name>,<number>")
    return index


def read_csv(path, columns):
    """Read a CSV file with a header: a list of dicts that have at least these columns."""
    rows = csv.DictReader(io.StringIO(read_text(path)))
    header = rows.fieldnames or ()
    missing = [column for column in columns if column not in header]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}, only {', '.join(header) or 'none'}; "
            "download it again"
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


def check_names(path, names):
    """Check that no name of a video leads out of the folder of the videos."""
    bad = [
        repr(name)
        for name in names
        if not name or os.path.isabs(name) or ".." in pathlib.PurePath(name).parts
    ]
    if bad:
        raise malformed(path, bad, "names of videos")


def malformed(path, problems, expected):
    """The error for malformed lines of a file."""
    return UserError(
        f"{path} has {len(problems)} wrong lines, expected {expected!r}; download it again:"
        f"{listed(problems)}"
    )
