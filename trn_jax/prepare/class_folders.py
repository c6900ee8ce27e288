"""Labelled videos from a folder per class, with or without `train`, `val` and `test` above."""

import os
import pathlib

from trn_jax.data.videos import EXTENSIONS
from trn_jax.errors import UserError
from trn_jax.prepare.examples import Example, split_called


def read_class_folders(writer, root, found, *, class_level=1):
    """Read the examples of videos below folders of classes, at any depth.

    Args:
        writer: the `DatasetWriter` that notes what is skipped.
        root: the folder.
        found: its `FoundFiles`.
        class_level: level of the class folders, from 1, below `root` or `train`, `val` and `test`.

    Raises:
        UserError: there are no videos.
    """
    if not found.videos:
        raise _no_videos(root, found)
    top = {_parts(path)[0] for path in found.videos if len(_parts(path)) > 1}
    given = _given_splits(root, top)
    examples, shallow, beside = [], [], []
    for path in found.videos:
        parts = _parts(path)
        split = given.get(parts[0], "") if len(parts) > 1 else ""
        folders = parts[1:-1] if split else parts[:-1]
        if given and not split:
            beside.append(path)
        elif len(folders) < class_level:
            shallow.append(path)
        else:
            examples.append(Example(path, (folders[class_level - 1],), split))
    if not examples:
        smaller = ", or give a smaller --class-level" if class_level > 1 else ""
        raise UserError(
            f"{shallow[0]} and all other videos in {root} are in no folder of level {class_level}, "
            "whose name is the class; move the videos of each class into a folder"
            f"{smaller}, or give a table with the class of each video"
        )
    others = [path for path in found.others if os.path.dirname(path)]
    writer.skip(f"files without the extension of a video ({', '.join(EXTENSIONS)})", others)
    writer.skip("links to folders that were searched already", found.repeated)
    writer.skip(f"videos outside of {', '.join(sorted(given))}", beside)
    writer.skip(f"videos above the folders of the classes (level {class_level})", shallow)
    level = class_level + bool(given)
    classes = [f for f in found.folders if len(_parts(f)) == level]
    with_videos = {"/".join(_parts(example.path)[:level]) for example in examples}
    names = {_parts(f)[-1] for f in classes} - {example.labels[0] for example in examples}
    empty = [
        f for f in classes if "/".join(_parts(f)) not in with_videos and _parts(f)[-1] in names
    ]
    writer.skip("folders without videos, which are not classes", [_parts(f)[-1] for f in empty])
    return examples


def _given_splits(root, top):
    """`{folder: split}` of the first level, if its folders are splits and not classes.

    A class may be called "train", too: the folder is a split if it is alone, or beside `val` or
    `test`.
    """
    given = {name: split for name in top if (split := split_called(name))}
    splits = set(given.values())
    if "train" in splits:
        return given if len(splits) > 1 or len(top) == 1 else {}
    if splits and len(given) == len(top):
        raise UserError(
            f"{root} has {', '.join(sorted(given))}, but no folder train; expected one beside "
            "them, or a folder per class"
        )
    return {}


def _parts(path):
    return pathlib.PurePath(path).parts


def _no_videos(root, found):
    message = (
        f"no videos in {root}: expected a folder per class, with video files "
        f"({', '.join(EXTENSIONS)}) or folders of frames in it"
    )
    if found.others:
        message += f"; found {len(found.others)} other files, such as {found.others[0]}"
    for path, reason in (found.broken + found.closed)[:1]:
        message += f"; {os.path.join(root, path)} {reason}"
    return UserError(message)
