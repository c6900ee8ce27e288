"""Jester and Something-Something, the data sets of TwentyBN.

All three come as a split tar.gz and annotations. Jester and Something-Something V1 have folders of
JPEGs and lines `<video>;<class name>`; V2 has videos and JSON. What comes out:

    jester  20bn-jester-v1/<video>/00001.jpg ...    labels/{labels,train,validation}.csv
    sthv1   rawframes/<video>/00001.jpg ...         annotations/something-something-v1-*.csv
    sthv2   videos/<video>.webm                     annotations/something-something-v2-*.json

and lists under the names of mmaction2 in the official label order, and under those of TRN, for
Jester of its version for MindSpore, in alphabetical order.
"""

import os
import pathlib
import re

from trn_jax.data.annotations import in_label_order
from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.prepare import annotation_files, archives, lists
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.lists import Annotations, ListFiles, Video

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
_STHV1_LISTS = {
    "official": ListFiles(_STHV1.train_list, _STHV1.val_list, _STHV1.class_names),
    "alphabetical": lists.TRN_LISTS,
}
_STHV2 = DATASETS["sthv2"]
_STHV2_VIDEOS = "videos"
_STHV2_VIDEO_LISTS = {
    "official": ListFiles(
        "sthv2_train_list_videos.txt", "sthv2_val_list_videos.txt", _STHV2.class_names
    )
}
_STHV2_LISTS = {
    "official": ListFiles(_STHV2.train_list, _STHV2.val_list, _STHV2.class_names),
    "alphabetical": lists.TRN_LISTS,
}


def prepare_jester(folder, to, *, workers, orders, check=True):
    """Unpack the 24 archives of Jester V1 and write its lists.

    Args:
        folder: where the archives are.
        to: folder of the data set.
        workers: processes that list frames and open videos.
        orders: of the labels, some of `lists.ORDERS`.
        check: whether to open video files, and to leave out those that can't be read.

    Returns:
        A `DatasetWriter`.

    Raises:
        UserError: archives are missing, damaged or dangerous, annotations do not fit, or the disk
            is full.
    """
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
    _compare_test(writer, "jester", paths.get(names[3]), annotation_files.read_lines)
    recipe = "trn_bninception_jester"
    _list_frames(writer, annotations, "jester", _JESTER_LISTS, orders, workers, recipe, usual=27)
    return writer


def prepare_sthv1(folder, to, *, workers, orders, check=True):
    """Unpack the parts of Something-Something V1 and write its lists, as `prepare_jester`."""
    writer = DatasetWriter(to)
    _unpack(writer, folder, "20bn-something-something-v1", _STHV1.frames)
    kinds = ("labels", "train", "validation", "test")
    names = [f"something-something-v1-{kind}.csv" for kind in kinds]
    paths = annotation_files.collect(
        writer, folder, "annotations", dict.fromkeys(names, ()), optional=names[3:]
    )
    annotations = _read_csv("sthv1", *(paths[name] for name in names[:3]))
    _compare_test(writer, "sthv1", paths.get(names[3]), annotation_files.read_lines)
    recipe = "trn_sthv1"
    _list_frames(writer, annotations, "sthv1", _STHV1_LISTS, orders, workers, recipe, usual=174)
    return writer


def prepare_sthv2(folder, to, *, workers, orders, check=True):
    """Unpack the parts of Something-Something V2 and write its lists, as `prepare_jester`.

    Lists of frames are written once `trn-jax extract` has made some. The official order
    of V2 is the alphabetical one, so the list of the videos comes in one order.
    """
    writer = DatasetWriter(to)
    _unpack(writer, folder, "20bn-something-something-v2", _STHV2_VIDEOS)
    kinds = ("labels", "train", "validation", "test")
    names = [f"something-something-v2-{kind}.json" for kind in kinds]
    paths = annotation_files.collect(
        writer,
        folder,
        "annotations",
        {name: (f"{kind}.json",) for name, kind in zip(names, kinds, strict=True)},
        packed_in="20bn-something-something-download-package-labels.zip",
        optional=names[3:],
    )
    annotations = _read_json("sthv2", *(paths[name] for name in names[:3]))
    _compare_test(writer, "sthv2", paths.get(names[3]), annotation_files.load_json)
    roots = dict.fromkeys(annotations.splits, _STHV2_VIDEOS)
    options = dict(workers=workers, check=check)
    lists.write_video_lists(
        writer, annotations, roots, _STHV2_VIDEO_LISTS, ("official",), **options
    )
    recipe = "trn_sthv2"
    if not os.path.isdir(os.path.join(to, _STHV2.frames)):
        writer.then_extract(_STHV2_VIDEOS, _STHV2.frames)
        writer.then_prepare("sthv2", folder)
        written, num_classes = [*_STHV2_VIDEO_LISTS.values()], len(annotations.class_names)
        writer.train_on(
            recipe, "sthv2", written, num_classes=num_classes, usual=174, source="videos"
        )
        writer.list_left_out()
        return writer
    _list_frames(writer, annotations, "sthv2", _STHV2_LISTS, orders, workers, recipe, usual=174)
    return writer


def _unpack(writer, folder, stem, tree, num_parts=None):
    """Unpack a split tar.gz; the folder that is called `stem` in it becomes `tree`."""

    def place(name):
        parts = pathlib.PurePosixPath(name).parts
        return os.path.join(tree, *(parts[1:] if parts[0] == stem else parts))

    def find():
        return archives.find_split_tar(folder, stem, num_parts=num_parts)

    target = os.path.join(writer.to, tree)
    if not (os.path.exists(target) or find()) and (
        unpacked := _find_unpacked(folder, stem, writer.to)
    ):
        writer.link(unpacked, tree)
        writer.note(f"the videos are those in {unpacked}")
    if not os.path.islink(target):  # what others have unpacked stays as it is
        writer.changed |= archives.unpack(writer.to, stem, find, place, tree=tree)
    writer.has(tree)


def _find_unpacked(folder, stem, to):
    """The folder of numbered videos, if somebody has unpacked the archives, or `None`."""
    video = re.compile(r"\d+(\.webm|\.mp4)?")
    for name in (os.path.join(stem, stem), stem, "videos", "rawframes", ""):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not (os.path.exists(to) and os.path.samefile(path, to)):
            with os.scandir(path) as entries:
                if any(video.fullmatch(entry.name) for entry in entries):
                    return path
    return None


def _list_frames(writer, annotations, dataset, files, orders, workers, recipe, *, usual):
    """Write the lists of the frames, and name the recipe that trains on them."""
    roots = dict.fromkeys(annotations.splits, DATASETS[dataset].frames)
    lists.write_frame_lists(
        writer, annotations, roots, files, orders, dataset=dataset, workers=workers
    )
    written, num_classes = [files[order] for order in orders], len(annotations.class_names)
    writer.then_train(recipe, dataset, written, num_classes=num_classes, usual=usual)
    writer.list_left_out()


def _compare_test(writer, dataset, path, read):
    """Note the number of test videos, which have no labels, if it isn't the official one."""
    if path is not None:
        lists.compare_count(writer, "test", len(read(path)), lists.OFFICIAL[dataset]["test"])


def _read_csv(dataset, labels, train, validation):
    """`Annotations` from a file with the class names and two of lines `<video>;<class name>`."""
    splits = {}
    for split, path in (("train", train), ("val", validation)):
        pairs = annotation_files.read_fields(path, ";", "<video>;<class name>")
        annotation_files.check_names(path, [name for name, _ in pairs])
        splits[split] = [Video(*pair) for pair in pairs]
    names = in_label_order(annotation_files.read_lines(labels))
    return Annotations(names, splits, labels, lists.OFFICIAL[dataset])


def _read_json(dataset, labels, train, validation):
    """The same for V2: `{class name: number}`, and two lists of `{"id", "template", ...}`."""
    splits = {}
    for split, path in (("train", train), ("val", validation)):
        splits[split] = _read_json_split(path)
        annotation_files.check_names(path, [video.name for video in splits[split]])
    return Annotations(_read_json_labels(labels), splits, labels, lists.OFFICIAL[dataset])


def _read_json_labels(path):
    numbers = annotation_files.load_json(path)
    try:
        names = sorted(numbers, key=lambda name: int(numbers[name]))
        if [int(numbers[name]) for name in names] != list(range(len(names))):
            raise ValueError("the numbers are not 0, 1, 2, ...")
    except (TypeError, LookupError, ValueError) as error:
        raise UserError(
            f"{path} is not as expected, {{class name: number from 0}}: {error}; get it again"
        ) from None
    return names


def _read_json_split(path):
    """A class is the template of a video without the brackets around its things."""
    try:
        return [
            Video(str(entry["id"]), entry["template"].replace("[", "").replace("]", ""))
            for entry in annotation_files.load_json(path)
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is not as expected, a list of {{id, template, ...}}: {error!r}; get it again"
        ) from None
