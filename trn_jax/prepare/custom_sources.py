"""Where own videos and their classes come from: folders, tables, or a folder with a table."""

import dataclasses
import os
import pathlib
import re

from trn_jax.errors import UserError, listed
from trn_jax.prepare import class_folders, class_names, tables
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import split_called
from trn_jax.prepare.folders import search, visible_entries
from trn_jax.prepare.splits import LIST_FILES

_LARGEST_TABLE = 64 << 20  # bytes
_LEVEL = re.compile(r"level[ _-]?(\d+)", re.IGNORECASE)
_EXPECTED = (
    f"a folder of class folders, or a table or list ({', '.join(tables.EXTENSIONS_OF_TABLES)})"
)
_GROUPS = (
    "expected a column of the table, level<N> for the folders of level N, or a regular expression "
    "with a group, such as '(person[0-9]+)_'"
)


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """What can't be read off a source itself.

    Attributes:
        class_level: which level of folders has the names of the classes, from 1.
        group_by: what keeps videos together in one split: a column of the table, `level<N>` for
            folders of that level, or a regular expression for paths; "" for nothing.
        columns: columns of a table, see `tables.TableOptions`.
        videos: folder that paths in a table are relative to; by default that of the table.
        multi_label: whether videos have several labels.
    """

    class_level: int = 1
    group_by: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    videos: str = ""
    multi_label: bool = False

    @property
    def groups_by_path(self):
        """Whether groups are read from paths, and not from a column."""
        return bool(_LEVEL.fullmatch(self.group_by)) or "(" in self.group_by


def find_examples(writer, source, to, options):
    """Find the labelled videos of a source.

    Args:
        writer: the `DatasetWriter` that what is passed over is reported to.
        source: a folder, a table or a list.
        to: folder of the data set, which may lie in the source.
        options: `SourceOptions`.

    Returns:
        `(root, items, broken, order)`: the folder that paths are relative to, the `Example`s,
        `(path, reason)` of what can't be read, and the order of the classes, if there is one.

    Raises:
        UserError: the source is not as expected.
    """
    source = os.path.abspath(source)
    if os.path.isdir(source):
        root = source
        found = search(root, leave_out=to)
        broken = found.broken + found.closed
        order: list[str] = []
        if found.videos and not any(map(os.path.dirname, found.videos)):
            items, order = _with_table(writer, root, found, options)
        elif options.multi_label or options.columns or options.videos:
            raise UserError(
                f"{source} has no table beside it that --multi-label, --columns or --videos could "
                "be for; give the table"
            )
        else:
            items = class_folders.read_class_folders(
                writer, root, found, class_level=options.class_level
            )
        return root, _grouped(items, options), broken, order
    if not os.path.exists(source):
        raise UserError(f"{source} not found; expected {_EXPECTED}")
    if not source.lower().endswith(tables.EXTENSIONS_OF_TABLES):
        raise UserError(
            f"{source} is neither a folder of class folders nor a table or list "
            f"({', '.join(tables.EXTENSIONS_OF_TABLES)}); save a spreadsheet as 'CSV UTF-8'"
        )
    if os.path.isdir(to) and os.path.samefile(os.path.dirname(source), to) and _is_output(source):
        raise UserError(f"--to={to} would overwrite {source}; choose another folder, or rename it")
    root = os.path.abspath(options.videos or os.path.dirname(source))
    items, order = _read_table(writer, source, root, options)
    return root, _grouped(items, options), [], order


def _read_table(writer, path, root, options):
    """The items of a table, and the order of the classes if they have numbers."""
    group_by = "" if options.groups_by_path else options.group_by
    chosen = tables.TableOptions(options.columns, group_by, options.multi_label)
    items = tables.read_table(writer, path, root, chosen)
    return class_names.name_numbers(writer, items, os.path.dirname(path), but=path)


def _with_table(writer, root, found, options):
    """As `_read_table`, of the table that lies among the videos of a folder, or beside it."""
    videos = set(found.videos)
    matching, problems = [], []
    paths = [path for folder in (root, os.path.dirname(root)) for path in _tables_in(folder)]
    for path in paths:
        if _is_output(path) and os.path.dirname(path) == os.path.abspath(writer.to):
            continue
        try:
            items, _ = _read_table(DatasetWriter(writer.to), path, root, options)
        except UserError as error:
            problems.append(str(error))
        else:
            matching += [path] if videos.intersection(item.path for item in items) else []
    splits = [split_called(pathlib.Path(path).stem) for path in matching]
    by_split = None not in splits and len(set(splits)) == len(splits)  # train.csv, val.csv, ...
    if not matching or (len(matching) > 1 and not by_split):
        raise UserError(_flat(root, found.videos, matching, problems))
    everything, order = [], []
    for path, split in zip(matching, splits, strict=True):
        items, order = _read_table(writer, path, root, options)
        everything += [dataclasses.replace(i, split=i.split or split or "") for i in items]
    writer.note(f"the classes are those of {', '.join(matching)}")
    left = sorted(videos - {item.path for item in everything})
    writer.skip("videos that the table does not have", left)
    return everything, order


def _tables_in(folder):
    """Files that can be tables, but for large ones, which are more likely to be something else."""
    try:
        entries = visible_entries(folder)
    except OSError:
        return []
    paths = [e.path for e in entries if e.name.lower().endswith(tables.EXTENSIONS_OF_TABLES)]
    return [p for p in paths if os.path.isfile(p) and os.path.getsize(p) <= _LARGEST_TABLE]


def _is_output(path):
    """Whether a preparation writes a file of this name."""
    return os.path.basename(path) in LIST_FILES.values()


def _flat(root, videos, matching, problems):
    """What to do about videos without classes."""
    if matching:
        return (
            f"{root} has videos, and {len(matching)} tables have rows for them: "
            f"{', '.join(matching)}; give the one to use instead of the folder"
        )
    why = f"\nTables there can't be used:{listed(problems)}" if problems else ""
    return (
        f"{root} has {len(videos)} videos, such as {videos[0]}, but neither folders of classes nor "
        "a table with their names. Either move the videos of each class into a folder with its "
        "name, or write a table labels.csv there, with a row per video:\n"
        f"    video,label\n    {videos[0]},<its class>{why}"
    )


def _grouped(items, options):
    """The items with groups from their paths, where `--group-by` names a level or a pattern."""
    if not options.group_by or any(item.group for item in items):
        return items
    if not options.groups_by_path:
        raise UserError(
            f"--group-by={options.group_by} is a column of a table, but there is none, or all its "
            f"cells are empty; {_GROUPS}"
        )
    level = _LEVEL.fullmatch(options.group_by)
    try:
        pattern = re.compile(options.group_by)
    except re.error as error:
        raise UserError(
            f"--group-by={options.group_by} is no regular expression: {error}; {_GROUPS}"
        ) from None
    grouped = []
    for item in items:
        if level:
            group = _folder(item, int(level[1]))
        else:
            match = pattern.search(item.path)
            group = next(filter(None, match.groups()), "") if match else ""
        grouped.append(dataclasses.replace(item, group=group))
    if not any(item.group for item in grouped):
        raise UserError(
            f"--group-by={options.group_by} finds no group in any of {len(items)} paths, such as "
            f"{items[0].path}; {_GROUPS}"
        )
    return grouped


def _folder(item, level):
    """The folder of a level on the way to a video, counted below `train`, `val` and `test`."""
    folders = pathlib.PurePath(item.path).parts[:-1]
    if item.split and folders and split_called(folders[0]) == item.split:
        folders = folders[1:]
    return folders[level - 1] if 1 <= level <= len(folders) else ""
