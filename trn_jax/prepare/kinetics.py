"""Kinetics-400: annotations and the videos that are available.

The authors distribute no videos, so every copy lacks some. The videos stay where they are:
`<class>/<YouTube id>_<start>_<end>.mp4`, with or without the folder of the class, in `videos_train`
and `videos_val` or in `train` and `val`. The data set:

    annotations/kinetics_{train,val}.csv
    videos_train, videos_val                        links, unless the videos lie there
    label_map.txt                                   alphabetical, the only order
    kinetics400_{train,val}_list_videos.txt
    kinetics400_{train,val}_list_rawframes.txt

Lists of frames are written when `trn-jax extract` has extracted some to `rawframes_train` or
`rawframes_val`. An index of the classes beside the annotations (`kinetics_class2ind.txt`, lines
`<class name> <number>`) gives the labels.
"""

import os

from trn_jax.data.class_names import in_label_order
from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.files import read_stripped_lines
from trn_jax.prepare import annotation_files, lists
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import Example
from trn_jax.prepare.folders import find_videos
from trn_jax.prepare.frame_folders import find_folders
from trn_jax.prepare.list_files import default_files
from trn_jax.prepare.lists import Annotations

_K400 = DATASETS["k400"]
_RECIPE = "tsn_k400_3seg"
_SPLITS = ("train", "val")
_VIDEOS = {"train": "videos_train", "val": "videos_val"}
_FRAMES = {"train": _K400.frames, "val": _K400.val_frames}
_LISTS = {"official": default_files("k400")}
_VIDEO_LISTS = {"official": default_files("k400", "videos")}
_CLASS_INDEX = "kinetics_class2ind.txt"
_PUBLISHED_VAL = 19_796  # validation videos of the published accuracies
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def prepare_kinetics(folder, to, *, workers, orders, check=True):
    """Write the lists of Kinetics-400; see `prepare.PREPARATIONS`."""
    writer = DatasetWriter(to)
    names = {split: f"kinetics_{split}.csv" for split in _SPLITS}
    wanted = {names[split]: (f"{split}.csv",) for split in _SPLITS} | {_CLASS_INDEX: ()}
    paths = annotation_files.collect(
        writer, folder, "annotations", wanted, optional=(_CLASS_INDEX,)
    )
    rows = {split: _read_table(paths[names[split]]) for split in _SPLITS}
    class_names = _class_names(rows["train"], paths.get(_CLASS_INDEX))
    source = paths.get(_CLASS_INDEX, paths[names["train"]])
    linked = [split for split in _SPLITS if _link_videos(writer, folder, split)]
    if linked:
        found = {split: _find_videos(writer, split, rows[split]) for split in _SPLITS}
        annotations = _annotations(class_names, rows, found, source)
        options = dict(workers=workers, check=check)
        counts = lists.write_video_lists(
            writer, annotations, _VIDEOS, _VIDEO_LISTS, ("official",), **options
        )
    extracted = [split for split in _SPLITS if os.path.isdir(os.path.join(to, _FRAMES[split]))]
    if extracted:
        found = {split: _find_frames(writer, split, rows[split]) for split in _SPLITS}
        annotations = _annotations(class_names, rows, found, source)
        options = dict(dataset="k400", workers=workers)
        counts = lists.write_frame_lists(
            writer, annotations, _FRAMES, _LISTS, ("official",), **options
        )
    if not (linked or extracted):
        raise UserError(
            f"no videos found: expected {' and '.join(_VIDEOS.values())}, or train and val, in "
            f"{folder}, or {' and '.join(_FRAMES.values())} in {to}"
        )
    if counts["val"] != _PUBLISHED_VAL:
        writer.note(f"validation: published accuracies are of {_PUBLISHED_VAL:,} videos")
    waiting = [split for split in linked if split not in extracted]
    for split in waiting:
        writer.then_extract(_VIDEOS[split], _FRAMES[split])
    if waiting:
        writer.then_prepare("k400", folder)
    writer.then_train(
        _RECIPE,
        "k400",
        [*(_VIDEO_LISTS if waiting else _LISTS).values()],
        num_classes=len(class_names),
        recipe_classes=400,
        source="videos" if waiting else "frames",
    )
    writer.list_left_out()
    return writer


def _link_videos(writer, folder, split):
    """Link the videos of a split into the data set; returns whether there are any."""
    target = os.path.join(writer.to, _VIDEOS[split])
    if not os.path.isdir(target):
        places = (os.path.join(folder, name) for name in (_VIDEOS[split], split))
        source = next(filter(os.path.isdir, places), None)
        if source is None:
            writer.note(f"there is no folder of videos for {split}")
            return False
        writer.link(source, _VIDEOS[split])
    writer.has(_VIDEOS[split])
    return True


def _read_table(path):
    rows = annotation_files.read_csv(path, _COLUMNS)
    times = [(row["time_start"], row["time_end"]) for row in rows]
    problems = [
        f"line {number}: {time}"
        for number, time in enumerate(times, start=2)
        if not all(seconds.isdecimal() for seconds in time)
    ]
    if problems:
        raise annotation_files.malformed(path, problems, "time_start and time_end in seconds")
    annotation_files.check_names(path, [row["youtube_id"] for row in rows])
    return rows


def _key(row):
    """Name of a video file, without extension."""
    return f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"


def _find_videos(writer, split, rows):
    """`{key: path without extension}` of the video files of a split."""
    paths = find_videos(os.path.join(writer.to, _VIDEOS[split]))
    found: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(path)[0]
        found.setdefault(os.path.basename(stem), stem)
    unknown = sorted(found.keys() - {_key(row) for row in rows})
    writer.skip(f"files in {_VIDEOS[split]} that are not in the annotations", unknown)
    return found


def _find_frames(writer, split, rows):
    """`{key: path}` of the folders of frames of a split."""
    return find_folders(os.path.join(writer.to, _FRAMES[split]), map(_key, rows))


def _class_names(rows, index):
    """Class names in label order, that of the index if there is one."""
    named = {_class_name(row) for row in rows}
    if index is None:
        # The order of mmaction2, whose class folders have "_" for spaces.
        return sorted(named, key=lambda name: name.replace(" ", "_"))
    spelled = {_folded(name): name for name in named}
    return [spelled.get(_folded(name), name) for name in in_label_order(read_stripped_lines(index))]


def _folded(name):
    """A class name in the spelling of the tables, without quotes."""
    return name.replace('"', "").replace("_", " ")


def _annotations(class_names, rows, found, source):
    """`Annotations` with the paths of the videos found."""
    splits = {
        split: [
            Example(found[split].get(_key(row), _key(row)), (_class_name(row),))
            for row in rows[split]
        ]
        for split in _SPLITS
    }
    return Annotations(class_names, splits, source)


def _class_name(row):
    return row["label"].replace('"', "")
