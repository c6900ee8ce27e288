"""The catalogue of data sets: names of their files.

Files are where the preparation scripts of mmaction2, or for Jester of the MindSpore version of TRN,
put them, so existing data folders work. With video files, names have "videos" for "rawframes".
Records, in ArrayRecord files, contain the lists and class names.
"""

import dataclasses
import os

from trn_jax.data import records, synthetic
from trn_jax.data.annotations import lists_videos
from trn_jax.data.motions import CLASS_PAIRS
from trn_jax.errors import UserError, did_you_mean

SOURCES = ("frames", "videos", "records")
# Lists and folders: their names differ between frames and video files, and records contain them.
_PLACES = ("train_list", "val_list", "test_list", "frames", "val_frames", "test_frames")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Files of a data set, relative to its folder.

    Attributes:
        frames: folder with one folder of frames per video.
        val_frames: the same for the validation videos; "": the same folder.
        test_frames: the same for the test videos.
        train_list: list of the training videos.
        val_list: list of the validation videos.
        test_list: list of the test videos; may be missing.
        class_names: class names, one per line.
        frame_pattern: file name of a frame by its number.
        first_frame: number of the first frame.
        with_offset: lines of lists are `<folder> <offset> <num_frames> <label>`.
        frame_rate: of stored frames, per second; `None` if unknown or not the same for all videos.
        reversed_pairs: pairs of class names, each the other one backwards in time.
        source: entries of the lists: "frames" (folders), "videos" (files), or "records", which have
            no lists: the names of lists are the first part of video paths; "": detect it.
    """

    frames: str = "rawframes"
    train_list: str = "train_list.txt"
    val_list: str = "val_list.txt"
    test_list: str = "test_list.txt"
    class_names: str = "label_map.txt"
    frame_pattern: str = "{:05d}.jpg"
    first_frame: int = 1
    with_offset: bool = False
    frame_rate: float | None = None
    val_frames: str = ""
    test_frames: str = ""
    reversed_pairs: tuple[tuple[str, str], ...] = ()
    source: str = ""

    def of_split(self, split):
        """List and folder of the videos of "train", "val" or "test"."""
        places = {
            "train": (self.train_list, self.frames),
            "val": (self.val_list, self.val_frames),
            "test": (self.test_list, self.test_frames),
        }
        return places[split]


DATASETS = {
    "synthetic": Dataset(reversed_pairs=CLASS_PAIRS, frame_rate=12.0),
    "sthv1": Dataset(
        train_list="sthv1_train_list_rawframes.txt",
        val_list="sthv1_val_list_rawframes.txt",
        frame_rate=12.0,
    ),
    "sthv2": Dataset(
        train_list="sthv2_train_list_rawframes.txt",
        val_list="sthv2_val_list_rawframes.txt",
        frame_pattern="img_{:05d}.jpg",
        frame_rate=12.0,
    ),
    "k400": Dataset(
        frames="rawframes_train",
        val_frames="rawframes_val",
        train_list="kinetics400_train_list_rawframes.txt",
        val_list="kinetics400_val_list_rawframes.txt",
        frame_pattern="img_{:05d}.jpg",
    ),
    # As in TRN for MindSpore, with classes in alphabetical order.
    "jester": Dataset(
        frames="20bn-jester-v1",
        train_list="train_videofolder.txt",
        val_list="val_videofolder.txt",
        class_names="categories.txt",
        frame_rate=12.0,
    ),
    # Lists have all labels of a video: needs data.multi_label.
    "charades": Dataset(
        frames="Charades_v1_rgb",
        train_list="charades_train_list_rawframes.txt",
        val_list="charades_val_list_rawframes.txt",
        class_names="categories.txt",
        frame_pattern="{:06d}.jpg",
        frame_rate=24.0,
    ),
    "moments": Dataset(
        frames="rawframes/training",
        val_frames="rawframes/validation",
        train_list="mit_train_list_rawframes.txt",
        val_list="mit_val_list_rawframes.txt",
        frame_pattern="img_{:05d}.jpg",
    ),
    # The first of three official splits.
    "ucf101": Dataset(
        train_list="ucf101_train_split_1_rawframes.txt",
        val_list="ucf101_val_split_1_rawframes.txt",
        frame_pattern="img_{:05d}.jpg",
    ),
    "hmdb51": Dataset(
        train_list="hmdb51_train_split_1_rawframes.txt",
        val_list="hmdb51_val_split_1_rawframes.txt",
        frame_pattern="img_{:05d}.jpg",
    ),
    "frames": Dataset(),
}


def locate(name, data_dir, *, write=True, **overrides):
    """Find the files of a data set.

    Args:
        name: one of `DATASETS`; "frames" is any data set in this layout.
        data_dir: folder of the data set.
        write: write the synthetic data set if it is missing.
        **overrides: fields of `Dataset`; `None` keeps the catalogue's.

    Returns:
        A `Dataset` with absolute paths.

    Raises:
        UserError: the name is unknown or the folder missing.
    """
    if name not in DATASETS:
        hint = did_you_mean(name, DATASETS)
        raise UserError(f"unknown data set {name!r}{hint} Known: {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    given = {key: value for key, value in overrides.items() if value is not None}
    dataset = dataclasses.replace(dataset, **given)
    try:
        dataset.frame_pattern.format(1)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"data.frame_pattern={dataset.frame_pattern!r} formats no number ({error}); expected "
            "a pattern such as '{:05d}.jpg'"
        ) from None
    root = os.path.abspath(data_dir)
    if name == "synthetic" and write and not records.is_records(root):
        synthetic.write(root)
    if not os.path.isdir(root):
        raise UserError(_not_found(name, root))
    dataset = _with_source(dataset, root, given)
    others = {key: getattr(dataset, key) or dataset.frames for key in ("val_frames", "test_frames")}
    dataset = dataclasses.replace(dataset, **others)
    paths = {key: os.path.join(root, getattr(dataset, key)) for key in (*_PLACES, "class_names")}
    return dataclasses.replace(dataset, **paths)


def detect(folder):
    """The name of the data set in a folder, by its training list, or `None`.

    "frames" stands for records and for every data set in its layout.
    """
    if records.is_records(folder):
        return "frames"
    for name in ("frames", *DATASETS):
        train_list = DATASETS[name].train_list
        for file in (train_list, train_list.replace("rawframes", "videos")):
            if os.path.exists(os.path.join(folder, file)):
                return name
    return None


def folders_of_list(file):
    """Folders beside a list, by its file name, that may have its videos or frames.

    Those that the catalogue has for a list of this name come first.
    """
    found = []
    for dataset in DATASETS.values():
        for split in ("train", "val", "test"):
            name, folder = dataset.of_split(split)
            folder = folder or dataset.frames
            of_videos = [each.replace("rawframes", "videos") for each in (name, folder)]
            found += [place for listed, place in ((name, folder), of_videos) if listed == file]
    return tuple(dict.fromkeys([*found, "videos", "rawframes"]))


def _not_found(name, root):
    """Message about a missing data set: its expected folder, and how to get it."""
    if name in ("frames", "synthetic"):
        advice = f"make it from your videos: trn-jax prepare <folder> --to={root}"
    else:
        advice = (
            "download its archives (docs/data_sets.md lists them) and run: "
            f"trn-jax prepare {name} --archives=<their folder> --to={root}"
        )
    return (
        f"the data set {name!r} is not in {root}; {advice}. If it is in another folder, add "
        "--config.data_dir=<folder> (`trn-jax explain`: --dataset=<folder>)"
    )


def _of_records(dataset, root, given):
    """The files of records, which have the same names for all data sets."""
    useless = sorted(given.keys() & set(_PLACES))
    if useless:
        raise UserError(
            f"the records in {root} contain their lists; leave out "
            + ", ".join(f"data.{key}" for key in useless)
        )
    train, val, test = (os.path.join(root, s) for s in (*records.SPLITS, records.TEST))
    names = {} if "class_names" in given else {"class_names": records.class_names_file(root)}
    return dataclasses.replace(
        dataset,
        source="records",
        frames=train,
        val_frames=val,
        test_frames=test,
        train_list=train,
        val_list=val,
        test_list=test,
        **names,
    )


def _with_source(dataset, root, given):
    """Detect the source, and use its file names where none are given."""
    if dataset.source not in ("", *SOURCES):
        raise UserError(
            f"data.source={dataset.source!r} is not one of {', '.join(SOURCES)}; leave it out to "
            "detect it"
        )
    if dataset.source == "records" or (not dataset.source and records.is_records(root)):
        return _of_records(dataset, root, given)
    with_videos = {
        key: getattr(dataset, key).replace("rawframes", "videos")
        for key in _PLACES
        if key not in given
    }
    source = dataset.source
    if not source:
        train_list = os.path.join(root, dataset.train_list)
        other = os.path.join(root, with_videos.get("train_list", dataset.train_list))
        found = train_list if os.path.exists(train_list) else other
        source = "videos" if os.path.exists(found) and lists_videos(found) else "frames"
    if source == "videos":
        there = {
            key: name
            for key, name in with_videos.items()
            if os.path.exists(os.path.join(root, name))
        }
        dataset = dataclasses.replace(dataset, **there)
    return dataclasses.replace(dataset, source=source)
