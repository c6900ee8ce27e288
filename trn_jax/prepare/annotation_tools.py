"""Files of annotation tools, as examples of custom data sets.

    .json          ActivityNet, or Label Studio
    .eaf           ELAN
    .xml           CVAT for video 1.1
    .csv .tsv      BORIS: exported events, aggregated or one by one

A reader gets the path of a file and returns `AnnotationFile`.
"""

import os
import re

from trn_jax.data.videos import is_video
from trn_jax.errors import UserError, listed
from trn_jax.files import reading
from trn_jax.prepare import activitynet, boris, cvat, elan, label_studio
from trn_jax.prepare.examples import Example
from trn_jax.prepare.video_paths import PathResolver

EXTENSIONS = (".eaf", ".xml")  # besides those of tables
_READERS = {
    "ActivityNet": activitynet,
    "Label Studio": label_studio,
    "ELAN": elan,
    "BORIS": boris,
    "CVAT": cvat,
}


def tool_of(path):
    """The name of the tool that wrote a file, or `None`."""
    for name, module in _READERS.items():
        if path.lower().endswith(module.EXTENSIONS):
            with reading(path, f"a file of {name}"):
                if module.is_file(path):
                    return name
    return None


def read_annotations(writer, path, tool, root, *, tiers="", multi_label=False):
    """Read a file of a tool: `Example`s with paths as they are on the disk.

    Args:
        writer: the `DatasetWriter` that notes what is left out.
        path: the file.
        tool: see `tool_of`.
        root: folder that videos are in.
        tiers: of ELAN, those with the classes, separated by `;`; "": the only one.
        multi_label: whether annotations can have several labels.

    Raises:
        UserError: the file is not as the tool writes it.
    """
    options = {"tiers": tiers} if tool == "ELAN" else {}
    if tiers and tool != "ELAN":
        raise UserError(f"--columns is for tables and ELAN, but {path} is a file of {tool}")
    resolver = PathResolver(root)
    with reading(path, f"a file of {tool}"):
        found = _READERS[tool].read(path, **options)
    examples, unlabelled, several, empty = [], [], [], []
    for each in found.annotations:
        labels = tuple(dict.fromkeys(label.strip() for label in each.labels if label.strip()))
        if not labels:
            unlabelled.append(each.place)
        elif len(labels) > 1 and not multi_label:
            several.append(f"{each.place}: {', '.join(labels)}")
        elif each.part is not None and not each.part.is_interval:
            empty.append(f"{each.place} [{each.part}]")
        else:
            name = _find(resolver, each.videos)
            examples.append(Example(name, labels, each.split, part=each.part))
    if several:
        raise UserError(
            f"{path} has annotations with several labels; add --multi-label, or keep one of "
            f"them:{listed(several)}"
        )
    for reason, places in found.skipped.items():
        writer.skip(f"{reason} in {os.path.basename(path)}", places)
    writer.skip(f"annotations without a class in {os.path.basename(path)}", unlabelled)
    empty += found.lost
    writer.lose("parts that don't end after their start, or begin before their video", empty)
    return examples


def _find(resolver, videos):
    """The first of several names of a video that exists, at worst without its folder."""
    for name in (*videos, *(re.split(r"[/\\]", name)[-1] for name in videos)):
        if resolver.exists(name):
            return resolver.resolve(name)
    return os.path.normpath(next(filter(is_video, videos), videos[0]))
