"""Moments in Time: one zip file of videos of three seconds, with its annotations.

    videos/{training,validation}/<class>/<video>.mp4        annotations/*.csv, *.txt
    label_map.txt                                           the order of moments_categories.txt
    mit_{train,val}_list_videos.txt, mit_{train,val}_list_rawframes.txt
    category.txt, {train,val}_videolist.txt, {train,val}_videofolder.txt      alphabetical order

Lists of frames are written when `trn-jax extract` has extracted some.
"""

import os
import pathlib

from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.files import read_stripped_lines
from trn_jax.prepare import annotation_files, archives, lists, unpacking
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import Example
from trn_jax.prepare.list_files import TRN_LISTS, ListFiles, default_files
from trn_jax.prepare.lists import Annotations

_MOMENTS = DATASETS["moments"]
_RECIPE = "tsn_k400_3seg"
_ARCHIVE = "Moments_in_Time_Raw"
_VIDEOS = {"train": "videos/training", "val": "videos/validation"}
_FRAMES = {"train": _MOMENTS.frames, "val": _MOMENTS.val_frames}
_LISTS = {"official": default_files("moments"), "alphabetical": TRN_LISTS}
_VIDEO_LISTS = {
    "official": default_files("moments", "videos"),
    "alphabetical": ListFiles(
        "train_videolist.txt", "val_videolist.txt", "category.txt", final_newline=False
    ),
}
_CATEGORIES = "moments_categories.txt"
_TABLES = {"train": "trainingSet.csv", "val": "validationSet.csv"}


def prepare_moments(folder, to, *, workers, orders, check=True):
    """Unpack Moments in Time and write its lists; see `prepare.PREPARATIONS`."""
    writer = DatasetWriter(to)
    writer.changed |= unpacking.unpack(
        to, _ARCHIVE, lambda: archives.find_zip(folder, f"{_ARCHIVE}.zip"), _place, tree="videos"
    )
    writer.has("videos")
    names = (_CATEGORIES, *_TABLES.values())
    paths = annotation_files.collect(writer, folder, "annotations", dict.fromkeys(names, ()))
    splits = {split: _read_table(paths[name]) for split, name in _TABLES.items()}
    class_names = _read_categories(paths[_CATEGORIES])
    official = lists.OFFICIAL_COUNTS["moments"]
    annotations = Annotations(class_names, splits, paths[_CATEGORIES], official)
    lists.write_video_lists(
        writer, annotations, _VIDEOS, _VIDEO_LISTS, orders, workers=workers, check=check
    )
    source, files = "videos", _VIDEO_LISTS
    if os.path.isdir(os.path.join(to, "rawframes")):
        source, files = "frames", _LISTS
        lists.write_frame_lists(
            writer, annotations, _FRAMES, _LISTS, orders, dataset="moments", workers=workers
        )
    else:
        writer.then_extract("videos", "rawframes")
        writer.then_prepare("moments", folder)
    writer.then_train(
        _RECIPE,
        "moments",
        [files[order] for order in orders],
        num_classes=len(class_names),
        recipe_classes=400,
        name_dataset=True,
        source=source,
    )
    writer.list_left_out()
    return writer


def _place(name):
    """Videos keep their folders; the files beside these are annotations."""
    parts = pathlib.PurePosixPath(name).parts
    if len(parts) > 1 and parts[0] not in ("training", "validation"):
        parts = parts[1:]
    if parts[0] in ("training", "validation"):
        return os.path.join("videos", *parts)
    if len(parts) == 1 and parts[0].endswith((".csv", ".txt")):
        return os.path.join("annotations", parts[0])
    return None


def _read_categories(path):
    """Read class names in the order of their numbers, from lines `<class name>,<number>`."""
    index = annotation_files.read_class_index(path)
    if sorted(index) != list(range(len(index))):
        raise UserError(
            f"the class numbers in {path} are not 0, 1, 2, ..., but {sorted(index)[:5]}, ...; "
            "download it again"
        )
    return [index[number] for number in range(len(index))]


def _read_table(path):
    """Read the videos of lines that begin with `<class name>/<video>.mp4`."""
    names = [line.split(",")[0] for line in read_stripped_lines(path)]
    annotation_files.check_names(path, names)
    return [Example(os.path.splitext(name)[0], (name.partition("/")[0],)) for name in names]
