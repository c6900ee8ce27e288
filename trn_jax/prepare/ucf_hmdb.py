"""UCF101 and HMDB51, with their three official splits.

Their archives are .rar files, which must be unpacked first; the videos stay where they are. The
data set, for the splits N of 1, 2 and 3, with the names of mmaction2:

    annotations/                                        the files of the splits
    videos                                              a link, unless they are there
    label_map.txt                                       in the only order
    <data set>_{train,val}_split_N_videos.txt
    <data set>_{train,val}_split_N_rawframes.txt

The test videos of a split are its validation list; there are no others. Lists of frames are written
when `trn-jax extract` has extracted some to `rawframes`.
"""

import glob
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.files import read_stripped_lines
from trn_jax.prepare import annotation_files, archives, lists, unpacking
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.examples import Example
from trn_jax.prepare.folders import find_videos
from trn_jax.prepare.frame_folders import find_folders
from trn_jax.prepare.list_files import ListFiles
from trn_jax.prepare.lists import Annotations
from trn_jax.prepare.training_command import WEIGHTS_NOTE, own_recipe

_NUMBERS = (1, 2, 3)  # of the official splits
_OFFICIAL = {
    "ucf101": ((9_537, 3_783), (9_586, 3_734), (9_624, 3_696)),  # train and test of each split
    "hmdb51": ((3_570, 1_530),) * 3,
}
_VIDEOS, _FRAMES = "videos", "rawframes"
_TRAIN, _TEST = "1", "2"  # of HMDB51; 0 is neither


class _Source(NamedTuple):
    """A data set as distributed."""

    name: str  # in `datasets.DATASETS`
    folders: tuple[str, ...]  # possible names of the folder of the videos
    archive: str  # of the videos, without extension
    read: Callable  # class names, `{"train": [Example, ...], "val": ...}` of each split, their file


def prepare_ucf101(folder, to, *, workers, orders, check=True):
    """Write the lists of UCF101; see `prepare.PREPARATIONS`.

    `folder` has the videos, `UCF-101`, and `classInd.txt`, `trainlist01.txt`, ..., or the latter in
    `UCF101TrainTestSplits-RecognitionTask.zip`.
    """
    folders = ("UCF-101", "UCF101", "ucf101")
    return _prepare(_Source("ucf101", folders, "UCF101", _read_ucf101), folder, to, workers, check)


def prepare_hmdb51(folder, to, *, workers, orders, check=True):
    """Write the lists of HMDB51, as `prepare_ucf101`; of `<class>_test_split<N>.txt`."""
    folders = ("hmdb51_org", "HMDB51", "hmdb51", "hmdb51_sta")
    return _prepare(
        _Source("hmdb51", folders, "hmdb51_org", _read_hmdb51), folder, to, workers, check
    )


def _prepare(source, folder, to, workers, check):
    writer = DatasetWriter(to)
    class_names, official_splits, path = source.read(writer, folder)
    frames = os.path.isdir(os.path.join(to, _FRAMES))
    videos = _link_videos(writer, source, folder, needed=not frames)
    for kind in [_VIDEOS] * videos + [_FRAMES] * frames:
        everything = [
            e.path for splits in official_splits for part in splits.values() for e in part
        ]
        places = _locate(os.path.join(to, kind), kind, everything)
        roots = {"train": kind, "val": kind}
        for number, splits in zip(_NUMBERS, official_splits, strict=True):
            writer.note(f"{kind}, split {number} of {len(_NUMBERS)}:")
            placed = {
                split: [Example(places.get(e.path, e.path), e.labels) for e in part]
                for split, part in splits.items()
            }
            official = dict(zip(("train", "val"), _OFFICIAL[source.name][number - 1], strict=True))
            annotations = Annotations(class_names, placed, path, official)
            where = roots, {"official": _list_files(source, number, kind)}, ("official",)
            if kind == _VIDEOS:
                lists.write_video_lists(writer, annotations, *where, workers=workers, check=check)
            else:
                options = dict(dataset=source.name, workers=workers)
                lists.write_frame_lists(writer, annotations, *where, **options)
    kind = _FRAMES if frames else _VIDEOS
    first, second = (_list_files(source, number, kind) for number in _NUMBERS[:2])
    recipe, flags = own_recipe(len(official_splits[0]["train"]))
    writer.then_train(
        recipe,
        source.name,
        [first],
        num_classes=len(class_names),
        recipe_classes=None,
        name_dataset=True,
        source="frames" if frames else "videos",
        flags=flags,
    )
    writer.note(WEIGHTS_NOTE)
    writer.note(
        f"the command is for split 1; for the others: --config.data.train_list={second.train} "
        f"--config.data.val_list={second.val}, ..."
    )
    writer.list_left_out()
    return writer


def _list_files(source, number, kind):
    train, val = (f"{source.name}_{split}_split_{number}_{kind}.txt" for split in ("train", "val"))
    return ListFiles(train, val, DATASETS[source.name].class_names)


def _link_videos(writer, source, folder, *, needed):
    """Link or unpack the videos into the data set; returns whether there are any."""
    target = os.path.join(writer.to, _VIDEOS)
    if not os.path.isdir(target):
        places = [os.path.join(folder, name) for name in (*source.folders, _VIDEOS)]
        found = next((place for place in places if os.path.isdir(place)), None)
        if found is None and find_videos(folder):
            found = folder
        if found is not None:
            writer.link(found, _VIDEOS)
        elif needed:
            writer.changed |= unpacking.unpack(
                writer.to,
                source.archive,
                lambda: (
                    archives.find_zip(folder, f"{source.archive}.zip") or _no_videos(source, folder)
                ),
                _place,
                tree=_VIDEOS,
            )
        else:
            return False
    writer.has(_VIDEOS)
    return True


def _place(name):
    """Videos keep the folder of their class, without its parents."""
    return os.path.join(_VIDEOS, *name.split("/")[-2:]) if name.endswith(".avi") else None


def _no_videos(source, folder):
    rar = os.path.join(folder, f"{source.archive}.rar")
    if os.path.exists(rar):
        inner = ", and the .rar files of the classes in it" if source.name == "hmdb51" else ""
        raise UserError(
            f"{rar} has to be unpacked first{inner}, for example with `unrar x`, to the folder "
            f"{source.folders[0]} in {folder}"
        )
    raise UserError(
        f"no videos found: expected the folder {source.folders[0]}, with a folder per class, in "
        f"{folder}"
    )


def _locate(root, kind, names):
    """`{path in the annotations: path without extension}`, with or without folders of classes."""
    stems = {name: os.path.basename(name) for name in names}
    if kind == _FRAMES:
        by_stem = find_folders(root, stems.values())
        known = {name for name in names if os.path.isdir(os.path.join(root, name))}
    else:
        known = {os.path.splitext(path)[0] for path in find_videos(root)}
        by_stem = {os.path.basename(path): path for path in known}
    return {
        name: name if name in known else by_stem[stem]
        for name, stem in stems.items()
        if stem in by_stem
    }


def _read_ucf101(writer, folder):
    """Class names, the examples of each split, and the file of the class names."""
    lists_of = {f"{kind}list{n:02d}.txt": () for n in _NUMBERS for kind in ("train", "test")}
    paths = annotation_files.collect(
        writer,
        folder,
        "annotations",
        {"classInd.txt": (), **lists_of},
        packed_in="UCF101TrainTestSplits-RecognitionTask.zip",
    )
    index = annotation_files.read_class_index(paths["classInd.txt"])
    first = min(index, default=1)
    if first > 1 or sorted(index) != list(range(first, first + len(index))):
        raise annotation_files.malformed(
            paths["classInd.txt"],
            [f"{number} {name}" for number, name in index.items()],
            "<number from 1> <class name>",
        )
    official_splits = [
        {
            split: _read_ucf101_list(paths[f"{kind}list{number:02d}.txt"])
            for split, kind in (("train", "train"), ("val", "test"))
        }
        for number in _NUMBERS
    ]
    return [index[number] for number in sorted(index)], official_splits, paths["classInd.txt"]


def _read_ucf101_list(path):
    """Read the videos of lines `<class>/<video>.avi`, with the number in training lists."""
    lines = read_stripped_lines(path)
    names = [re.sub(r"\.avi( +\d+)?$", "", line) for line in lines]
    wrong = [line for line, name in zip(lines, names, strict=True) if name.count("/") != 1]
    if wrong or not names:
        raise annotation_files.malformed(path, wrong, "<class>/<video>.avi")
    annotation_files.check_names(path, names)
    return [Example(name, (name.partition("/")[0],)) for name in names]


def _read_hmdb51(writer, folder):
    """As `_read_ucf101`, from a file per class and split."""
    places = ("", "annotations", "testTrainMulti_7030_splits", "test_train_splits", "splits")
    folders = [os.path.join(folder, place) for place in places]
    folders.append(os.path.join(writer.to, "annotations"))
    ending = re.compile(r"(.+)_test_split([123])\.txt")
    found: dict[str, str] = {}
    for place in folders:
        for path in glob.glob(os.path.join(glob.escape(place), "*_test_split[123].txt")):
            found.setdefault(os.path.basename(path), path)
    class_names = sorted({match[1] for name in found if (match := ending.fullmatch(name))})
    expected = [f"{name}_test_split{n}.txt" for name in class_names for n in _NUMBERS]
    missing = [name for name in expected if name not in found]
    if missing or not found:
        raise UserError(
            f"annotations not found: {', '.join(missing[:3]) or '<class>_test_split1.txt, ...'}; "
            f"unpack test_train_splits.rar in {folder}"
        )
    official_splits = []
    for number in _NUMBERS:
        splits: dict[str, list[Example]] = {"train": [], "val": []}
        for label in class_names:
            name = f"{label}_test_split{number}.txt"
            with open(found[name], "rb") as file:
                writer.write(os.path.join("annotations", name), file.read())
            for video, part in _read_hmdb51_list(found[name]):
                if part in (_TRAIN, _TEST):
                    split = "train" if part == _TRAIN else "val"
                    splits[split].append(Example(f"{label}/{video}", (label,)))
        official_splits.append(splits)
    return class_names, official_splits, os.path.join(writer.to, "annotations")


def _read_hmdb51_list(path):
    """Read the pairs of lines `<video>.avi <0, 1 or 2>`."""
    matches = {
        line: re.fullmatch(r"(.+)\.avi +([012])", line) for line in read_stripped_lines(path)
    }
    if wrong := [line for line, match in matches.items() if match is None]:
        raise annotation_files.malformed(path, wrong, "<video>.avi <0, 1 or 2>")
    pairs = [(match[1], match[2]) for match in matches.values() if match]
    annotation_files.check_names(path, [name for name, _ in pairs])
    return pairs
