"""Jester and Something-Something, the data sets of TwentyBN.

Each is a split tar.gz and annotations. Jester and Something-Something V1 have folders of JPEGs and
lines `<video>;<class name>`; V2 has videos and JSON. The data sets:

    jester  20bn-jester-v1/<video>/00001.jpg ...    labels/{labels,train,validation}.csv
    sthv1   rawframes/<video>/00001.jpg ...         annotations/something-something-v1-*.csv
    sthv2   videos/<video>.webm                     annotations/something-something-v2-*.json

Lists in the official label order have the names of mmaction2, and lists in alphabetical order those
of TRN, or, for Jester, of its version for MindSpore.
"""

import json
import os
import pathlib
import re

from trn_jax.data.class_names import in_label_order
from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.files import read_stripped_lines, read_text
from trn_jax.prepare import annotation_files, lists, split_tar, unpacking
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import Example
from trn_jax.prepare.list_files import TRN_LISTS, ListFiles, default_files
from trn_jax.prepare.lists import Annotations

_JESTER = DATASETS["jester"]
_JESTER_LISTS = {
    "official": ListFiles(
        "jester_train_list_rawframes.txt", "jester_val_list_rawframes.txt", "label_map.txt"
    ),
    "alphabetical": ListFiles(
        _JESTER.train_list, _JESTER.val_list, _JESTER.class_names, final_newline=False
    ),
}
_STHV1 = DATASETS["sthv1"]
_STHV1_LISTS = {"official": default_files("sthv1"), "alphabetical": TRN_LISTS}
_STHV2 = DATASETS["sthv2"]
_STHV2_VIDEOS = "videos"
_STHV2_VIDEO_LISTS = {"official": default_files("sthv2", "videos")}
_STHV2_LISTS = {"official": default_files("sthv2"), "alphabetical": TRN_LISTS}
_KINDS = ("labels", "train", "validation", "test")
_RECIPES = {"jester": "trn_bninception_jester", "sthv1": "trn_sthv1", "sthv2": "trn_sthv2"}
_NUM_CLASSES = {"jester": 27, "sthv1": 174, "sthv2": 174}


def prepare_jester(folder, to, *, workers, orders, check=True):
    """Unpack the 23 parts of Jester V1 and write its lists; see `prepare.PREPARATIONS`."""
    writer = DatasetWriter(to)
    _unpack(writer, folder, "20bn-jester-v1", _JESTER.frames, num_parts=23)
    names = ("labels.csv", "train.csv", "validation.csv", "test.csv", "test-answers.csv")
    paths = annotation_files.collect(
        writer,
        folder,
        "labels",
        {name: (f"jester-v1-{name}",) for name in names},
        packed_in="20bn-jester-download-package-labels.zip",
        optional=names[3:],
    )
    annotations = _read_csv("jester", *(paths[name] for name in names[:3]))
    _compare_test(writer, "jester", paths.get(names[3]), read_stripped_lines)
    _write_frame_lists(writer, annotations, "jester", _JESTER_LISTS, orders, workers)
    return writer


def prepare_sthv1(folder, to, *, workers, orders, check=True):
    """Unpack the parts of Something-Something V1 and write its lists, as `prepare_jester`."""
    writer = DatasetWriter(to)
    _unpack(writer, folder, "20bn-something-something-v1", _STHV1.frames)
    names = [f"something-something-v1-{kind}.csv" for kind in _KINDS]
    paths = annotation_files.collect(
        writer, folder, "annotations", dict.fromkeys(names, ()), optional=names[3:]
    )
    annotations = _read_csv("sthv1", *(paths[name] for name in names[:3]))
    _compare_test(writer, "sthv1", paths.get(names[3]), read_stripped_lines)
    _write_frame_lists(writer, annotations, "sthv1", _STHV1_LISTS, orders, workers)
    return writer


def prepare_sthv2(folder, to, *, workers, orders, check=True):
    """Unpack the parts of Something-Something V2 and write its lists, as `prepare_jester`.

    Lists of frames are written when `trn-jax extract` has extracted some. The official order of V2
    is alphabetical, so its list of videos has one order.
    """
    writer = DatasetWriter(to)
    _unpack(writer, folder, "20bn-something-something-v2", _STHV2_VIDEOS)
    names = [f"something-something-v2-{kind}.json" for kind in _KINDS]
    paths = annotation_files.collect(
        writer,
        folder,
        "annotations",
        {name: (f"{kind}.json",) for name, kind in zip(names, _KINDS, strict=True)},
        packed_in="20bn-something-something-download-package-labels.zip",
        optional=names[3:],
    )
    annotations = _read_json("sthv2", *(paths[name] for name in names[:3]))
    _compare_test(writer, "sthv2", paths.get(names[3]), _load)
    roots = dict.fromkeys(annotations.splits, _STHV2_VIDEOS)
    options = dict(workers=workers, check=check)
    lists.write_video_lists(
        writer, annotations, roots, _STHV2_VIDEO_LISTS, ("official",), **options
    )
    if os.path.isdir(os.path.join(to, _STHV2.frames)):
        _write_frame_lists(writer, annotations, "sthv2", _STHV2_LISTS, orders, workers)
    else:
        writer.then_extract(_STHV2_VIDEOS, _STHV2.frames)
        writer.then_prepare("sthv2", folder)
        _finish(writer, annotations, "sthv2", [*_STHV2_VIDEO_LISTS.values()], source="videos")
    return writer


def _unpack(writer, folder, stem, tree, num_parts=None):
    """Unpack a split tar.gz; its folder `stem` becomes `tree`."""

    def place(name):
        parts = pathlib.PurePosixPath(name).parts
        return os.path.join(tree, *(parts[1:] if parts[0] == stem else parts))

    def find():
        return split_tar.find_split_tar(folder, stem, num_parts=num_parts)

    target = os.path.join(writer.to, tree)
    if not (os.path.exists(target) or find()) and (
        unpacked := _find_unpacked(folder, stem, writer.to)
    ):
        writer.link(unpacked, tree)
        writer.note(f"the videos are those in {unpacked}")
    if not os.path.islink(target):  # never write into the folder of somebody else
        writer.changed |= unpacking.unpack(writer.to, stem, find, place, tree=tree)
    writer.has(tree)


def _find_unpacked(folder, stem, to):
    """The folder of numbered videos, if the archives were unpacked by other means, or `None`."""
    video = re.compile(r"\d+(\.webm|\.mp4)?")
    for name in (os.path.join(stem, stem), stem, "videos", "rawframes", ""):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.exists(to) and os.path.samefile(path, to)):
            with os.scandir(path) as entries:
                if any(video.fullmatch(entry.name) for entry in entries):
                    return path
    return None


def _write_frame_lists(writer, annotations, dataset, files, orders, workers):
    roots = dict.fromkeys(annotations.splits, DATASETS[dataset].frames)
    lists.write_frame_lists(
        writer, annotations, roots, files, orders, dataset=dataset, workers=workers
    )
    _finish(writer, annotations, dataset, [files[order] for order in orders])


def _finish(writer, annotations, dataset, written, **options):
    """Set the training on the lists that were written, and list what was left out."""
    options |= dict(num_classes=len(annotations.class_names), recipe_classes=_NUM_CLASSES[dataset])
    writer.then_train(_RECIPES[dataset], dataset, written, **options)
    writer.list_left_out()


def _compare_test(writer, dataset, path, read):
    """Note the number of test videos, which have no labels, if it isn't the official one."""
    if path is not None:
        lists.compare_count(writer, "test", len(read(path)), lists.OFFICIAL_COUNTS[dataset]["test"])


def _read_csv(dataset, labels, train, validation):
    """Read `Annotations` from a file of class names and two of lines `<video>;<class name>`."""
    splits = {"train": _read_csv_split(train), "val": _read_csv_split(validation)}
    names = in_label_order(read_stripped_lines(labels))
    return Annotations(names, splits, labels, lists.OFFICIAL_COUNTS[dataset])


def _read_csv_split(path):
    examples, problems = [], []
    for number, line in enumerate(read_stripped_lines(path), start=1):
        fields = line.split(";")
        if len(fields) == 2 and all(fields):
            examples.append(Example(fields[0], (fields[1],)))
        else:
            problems.append(f"line {number}: {line!r}")
    if problems:
        raise annotation_files.malformed(path, problems, "<video>;<class name>")
    annotation_files.check_names(path, [example.path for example in examples])
    return examples


def _read_json(dataset, labels, train, validation):
    """The same from JSON: `{class name: number}` and two lists of `{"id", "template", ...}`."""
    splits = {"train": _read_json_split(train), "val": _read_json_split(validation)}
    return Annotations(_read_json_labels(labels), splits, labels, lists.OFFICIAL_COUNTS[dataset])


def _read_json_labels(path):
    numbers = _load(path)
    try:
        names = sorted(numbers, key=lambda name: int(numbers[name]))
        if [int(numbers[name]) for name in names] != list(range(len(names))):
            raise ValueError("the numbers are not 0, 1, 2, ...")
    except (TypeError, LookupError, ValueError) as error:
        raise UserError(
            f"{path} is not {{class name: number from 0}}: {error}; download it again"
        ) from None
    return names


def _read_json_split(path):
    """Read the videos of a split; a class is a template without the brackets around its objects."""
    try:
        pairs = [(str(entry["id"]), entry["template"]) for entry in _load(path)]
        examples = [Example(i, (t.replace("[", "").replace("]", ""),)) for i, t in pairs]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is not a list of {{id, template, ...}}: {error!r}; download it again"
        ) from None
    annotation_files.check_names(path, [example.path for example in examples])
    return examples


def _load(path):
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not complete JSON: {error}; download it again") from None
