"""Examples of custom data sets, from folders, tables, or a folder with a table."""

import dataclasses
import os
import pathlib
import re

from trn_jax.errors import UserError, listed
from trn_jax.prepare import annotation_tools
from trn_jax.prepare.class_folders import read_class_folders
from trn_jax.prepare.class_names import name_numbers
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import split_called
from trn_jax.prepare.folders import search, visible_entries
from trn_jax.prepare.splits import LIST_FILES
from trn_jax.prepare.table_rows import TABLE_EXTENSIONS
from trn_jax.prepare.tables import TableOptions, read_table

_MAX_TABLE_SIZE = 64 << 20  # bytes
_LEVEL = re.compile(r"level[ _-]?(\d+)", re.IGNORECASE)
_EXTENSIONS = (*TABLE_EXTENSIONS, *annotation_tools.EXTENSIONS)
_TABLES = ", ".join(_EXTENSIONS)
_GROUPS = (
    "expected a column of the table, level<N> for the folders of level N, or a regular expression "
    "with a group, such as '(person[0-9]+)_'"
)


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        class_level: level of the folders with the names of the classes, from 1.
        group_by: what keeps videos together in one split: a column of the table, `level<N>` for
            folders of that level, or a regular expression for paths; "" for nothing.
        columns: columns of a table, see `TableOptions`.
        videos: folder of the videos of a table or of annotations; by default their own.
        multi_label: whether videos have several labels.
    """

    class_level: int = 1
    group_by: str = ""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    videos: str = ""
    multi_label: bool = False

    @property
    def groups_by_path(self):
        """Whether groups are read from paths instead of a column."""
        return bool(_LEVEL.fullmatch(self.group_by)) or "(" in self.group_by


def find_examples(writer, source, to, options):
    """Find the labelled videos of a source: a folder, a table, a list or annotations.

    Args:
        writer: the `DatasetWriter` that notes what is skipped.
        source: its path.
        to: folder of the data set, which may be in the source.
        options: `SourceOptions`.

    Returns:
        `(root, examples, broken, order)`: the folder that paths are relative to, the `Example`s,
        `(path, reason)` of unreadable files, and the order of the classes, if there is one.

    Raises:
        UserError: the source is not as expected.
    """
    source = os.path.abspath(source)
    if os.path.isdir(source):
        found = search(source, leave_out=to)
        paths = _annotations_in(source) if not found.videos or options.videos else []
        if paths:
            root = os.path.abspath(options.videos or source)
            examples = _read_all(writer, paths, root, options)
            return root, _grouped(examples, options), [], []
        examples, order = _read_folder(writer, source, found, options)
        return source, _grouped(examples, options), found.broken + found.closed, order
    if not os.path.exists(source):
        raise UserError(
            f"{source} not found; expected a folder of class folders, a table, a list or "
            f"annotations ({_TABLES}), or, with --archives, the name of a public data set"
        )
    if not source.lower().endswith(_EXTENSIONS):
        raise UserError(
            f"{source} is neither a folder of class folders nor a table, a list or annotations "
            f"({_TABLES}); save a spreadsheet as 'CSV UTF-8'"
        )
    if os.path.isdir(to) and os.path.samefile(os.path.dirname(source), to) and _is_output(source):
        raise UserError(f"--to={to} would overwrite {source}; choose another folder, or rename it")
    root = os.path.abspath(options.videos or os.path.dirname(source))
    examples, order = _read_table(writer, source, root, options)
    if not examples:
        raise UserError(f"{source} has no labelled video")
    return root, _grouped(examples, options), [], order


def _read_folder(writer, root, found, options):
    """The examples of a folder of classes, or of one with a table, and the order of the classes."""
    if found.videos and not any(map(os.path.dirname, found.videos)):
        return _read_with_table(writer, root, found, options)
    if options.multi_label or options.columns or options.videos:
        raise UserError(
            f"{root} is a folder of class folders, and --multi-label, --columns and --videos are "
            "for tables; give the table instead"
        )
    return read_class_folders(writer, root, found, class_level=options.class_level), []


def _read_table(writer, path, root, options):
    """The examples of a table or of annotations, and the order of the classes of numbers."""
    if tool := annotation_tools.tool_of(path):
        tiers = dict(options.columns).pop("label", "")
        others = options.columns.keys() - {"label"}
        if others:
            raise UserError(f"--columns={min(others)}=... is for tables; {path} is of {tool}")
        examples = annotation_tools.read_annotations(
            writer, path, tool, root, tiers=tiers, multi_label=options.multi_label
        )
        writer.note(f"{path} has {len(examples):,} annotations of {tool}")
    elif path.lower().endswith(annotation_tools.EXTENSIONS):
        raise UserError(f"{path} is not a file of ELAN (.eaf) or CVAT (.xml, 'CVAT for video 1.1')")
    else:
        group_by = "" if options.groups_by_path else options.group_by
        chosen = TableOptions(options.columns, group_by, options.multi_label)
        examples = read_table(writer, path, root, chosen)
    return name_numbers(writer, examples, os.path.dirname(path), but=path)


def _read_all(writer, paths, root, options):
    """The examples of several files of annotations, each for other videos."""
    examples, problems = [], []
    for path in paths:
        try:
            examples += _read_table(writer, path, root, options)[0]
        except UserError as error:
            problems.append(str(error))
    if not examples:
        why = problems[0] if problems else f"expected labelled parts, as in {paths[0]}"
        raise UserError(f"none of {len(paths)} files of annotations has any: {why}")
    writer.lose("files of annotations that cannot be read", problems)
    return examples


def _read_with_table(writer, root, found, options):
    """As `_read_table`, from the table in or beside a folder of videos, or its annotations."""
    videos = set(found.videos)
    matching, problems = [], []
    paths = [path for folder in (root, os.path.dirname(root)) for path in _tables_in(folder)]
    for path in paths:
        if _is_output(path) and os.path.dirname(path) == os.path.abspath(writer.to):
            continue
        try:
            examples, _ = _read_table(DatasetWriter(writer.to), path, root, options)
        except UserError as error:
            problems.append((path, str(error)))
        else:
            matching += [path] if videos.intersection(e.path for e in examples) else []
    splits = [split_called(pathlib.Path(path).stem) for path in matching]
    by_split = None not in splits and len(set(splits)) == len(splits)  # train.csv, val.csv, ...
    by_video = all(path.lower().endswith(annotation_tools.EXTENSIONS) for path in matching)
    if not matching or (len(matching) > 1 and not by_split and not by_video):
        raise _no_table(root, found.videos, matching, [problem for _, problem in problems])
    if by_video:
        unread = [
            why for path, why in problems if path.lower().endswith(annotation_tools.EXTENSIONS)
        ]
        writer.lose("files of annotations that cannot be read", unread)
        splits = [""] * len(matching)
    everything, order = [], []
    for path, split in zip(matching, splits, strict=True):
        examples, order = _read_table(writer, path, root, options)
        everything += [dataclasses.replace(e, split=e.split or split or "") for e in examples]
    writer.note(f"the classes are those of {', '.join(matching)}")
    left = sorted(videos - {example.path for example in everything})
    writer.skip("videos that the table does not have", left)
    return everything, order


def _tables_in(folder):
    """Files with the extension of a table or of annotations, except large ones."""
    try:
        entries = visible_entries(folder)
    except OSError:
        return []
    paths = [e.path for e in entries if e.name.lower().endswith(_EXTENSIONS)]
    return [p for p in paths if os.path.isfile(p) and os.path.getsize(p) <= _MAX_TABLE_SIZE]


def _annotations_in(folder):
    """Files of annotation tools in a folder."""
    return [path for path in _tables_in(folder) if annotation_tools.tool_of(path)]


def _is_output(path):
    """Whether a preparation writes a file of this name."""
    return os.path.basename(path) in LIST_FILES.values()


def _no_table(root, videos, matching, problems):
    """The error for videos without class folders and without one table."""
    if matching:
        return UserError(
            f"{root} has videos, and {len(matching)} tables have rows for them: "
            f"{', '.join(matching)}; give one of them instead of the folder"
        )
    why = f"\nTables there can't be used:{listed(problems)}" if problems else ""
    return UserError(
        f"{root} has {len(videos)} videos, such as {videos[0]}, but neither class folders nor a "
        "table. Either move the videos of each class into a folder with its name, or write a table "
        "labels.csv there, with a row per video:\n"
        f"    video,label\n    {videos[0]},<its class>{why}"
    )


def _grouped(examples, options):
    """The examples with groups from their paths, if `--group-by` is a level or a pattern."""
    if not options.group_by or any(example.group for example in examples):
        return examples
    flag = f"--group-by={options.group_by}"
    if not options.groups_by_path:
        raise UserError(
            f"{flag} is a column of a table, but there is none, or all its cells are empty; "
            f"{_GROUPS}"
        )
    level = _LEVEL.fullmatch(options.group_by)
    try:
        pattern = re.compile(options.group_by)
    except re.error as error:
        raise UserError(f"{flag} is not a regular expression: {error}; {_GROUPS}") from None
    grouped = []
    for example in examples:
        if level:
            group = _folder(example, int(level[1]))
        else:
            match = pattern.search(example.path)
            group = next(filter(None, match.groups()), "") if match else ""
        grouped.append(dataclasses.replace(example, group=group))
    if not any(example.group for example in grouped):
        raise UserError(
            f"{flag} finds no group in any of {len(examples)} paths, such as {examples[0].path}; "
            f"{_GROUPS}"
        )
    return grouped


def _folder(example, level):
    """The folder of a level above a video, counted below `train`, `val` and `test`."""
    folders = pathlib.PurePath(example.path).parts[:-1]
    if example.split and folders and split_called(folders[0]) == example.split:
        folders = folders[1:]
    return folders[level - 1] if 1 <= level <= len(folders) else ""
