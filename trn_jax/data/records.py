"""Videos in ArrayRecord files, as the builders in `trn_jax.tfds` write them.

A data set has two parts, both ordinary data sets of TensorFlow Datasets (TFDS). `videos` has one
record per video, with its name, its label or labels, its number of frames and the number of the
first one; `frames` has one record per frame, so only the frames of a clip are read:

    <root>/videos/<version>/dataset_info.json, features.json, *.labels.txt
                            <name>-<split>.array_record-<shard>-of-<shards>
    <root>/frames/<version>/the same

Reading them needs neither TFDS nor TensorFlow.
"""

import dataclasses
import glob
import json
import os

from trn_jax.data import tf_example
from trn_jax.data.annotations import Record, label_problems
from trn_jax.data.decode import MAX_PIXELS, FrameError, StoredImages
from trn_jax.data.shards import ADVICE, INFO_FILE, Shards, check_library
from trn_jax.errors import UserError, listed

PARTS = ("videos", "frames")
SPLITS = ("train", "validation")
TEST = "test"  # a split of records made with a test list


def is_records(root):
    """Whether a folder has records of videos."""
    return any(glob.glob(os.path.join(glob.escape(root), part, "*", INFO_FILE)) for part in PARTS)


def class_names_file(root):
    """The file with the class names of records; see `VideoRecords` for errors."""
    folder = _part_folder(root, "videos")
    names = glob.glob(os.path.join(glob.escape(folder), "*.labels.txt"))
    if len(names) != 1:
        raise UserError(
            f"{folder} has {len(names)} files of class names, expected one, 'label.labels.txt'; "
            f"{ADVICE}"
        )
    return names[0]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo(Record):
    """A `Record` of a video, or a part of one, whose frames are records, too.

    Attributes:
        split: one of `SPLITS`, or `TEST`.
        name: of the video in the list that the records were built from, see `Record.named`.
        first_frame: number of its first frame among those of the split.
    """

    split: str
    name: str
    first_frame: int


class VideoRecords:
    """The records in a folder as a source of videos, see `frame_folders.FrameFolders`.

    Args:
        root: folder with the parts `videos` and `frames`.
        max_pixels: larger frames are unreadable.
        frame_rate: frames per second; `None` if unknown.

    Raises:
        UserError: a part or its description is missing or unreadable, or the package array-record
            is.
    """

    def __init__(self, root, *, max_pixels=MAX_PIXELS, frame_rate=None):
        check_library()
        self._root = root
        self._max_pixels = max_pixels
        self._frame_rate = frame_rate
        self._frames = {
            split: Shards(*place) for split, place in _locate_shards(root, "frames").items()
        }

    @property
    def splits(self):
        """The splits that there are."""
        return tuple(self._frames)

    def videos(self, split, *, num_classes, multi_label=False):
        """The labelled videos of a split, in the order of the list that they were built from.

        Args:
            split: one of `SPLITS`, or `TEST`.
            num_classes: labels must be below this.
            multi_label: labels become tuples.

        Returns:
            A list of `StoredVideo`, with paths `<root>/<split>/<name>`.

        Raises:
            UserError: records are corrupt, have unknown labels, several labels where one is
                expected or the reverse, or are of another build than the frames.
        """
        places = _locate_shards(self._root, "videos")
        if split not in places:
            raise UserError(
                f"the records in {self._root} have no split {split!r}, only {', '.join(places)}; "
                "build them again with a list of it"
            )
        shards = Shards(*places[split])
        found, problems = [], []
        first: int | None = 0
        folder = os.path.join(self._root, split)
        for index, data in enumerate(shards.read_all()):
            try:
                video = _video(data, index, folder, split, multi_label)
            except ValueError as error:
                problems.append(f"video {index} of {split}: {error}")
                first = None  # unknown where the frames of the next video begin
                continue
            wrong = label_problems(video.label, video.name, num_classes)
            if first is not None and first != video.first_frame:
                wrong.append(f"its frames begin at {video.first_frame}, expected {first}")
            problems += [f"video {index} of {split}: {problem}" for problem in wrong]
            found.append(video)
            first = video.first_frame + video.num_frames
        total = self._frames[split].num_records
        if not problems and first != total:
            problems.append(f"{split} has {total} frames, but its videos have {first}")
        if problems:
            raise UserError(f"unusable records in {self._root}:{listed(problems)}")
        return found

    def open(self, record):
        """A `StoredVideo` as a video; use it in a `with`."""
        return _RecordVideo(self._frames[record.split], record, self._max_pixels, self._frame_rate)

    def check(self, record):
        """Check that the first and the last frame of a `StoredVideo` exist.

        Raises:
            FrameError: they don't, or they are of another video.
        """
        with self.open(record) as video:
            video.images([0, record.num_frames - 1])


class _RecordVideo(StoredImages):
    """A video in records, see `VideoRecords`."""

    advice = ADVICE

    def __init__(self, shards, record, max_pixels, frame_rate):
        self.path = record.path
        self.max_pixels = max_pixels
        self.frame_rate = frame_rate
        self.num_frames = record.num_frames
        self._shards = shards
        self._record = record
        self._name = record.name.encode()

    def images(self, numbers):
        outside = [number for number in numbers if not 0 <= number < self.num_frames]
        if outside:
            raise FrameError(
                f"no frame {outside[0]} in {self.path}, which has {self.num_frames} frames"
            )
        positions = [self._record.first_frame + number for number in numbers]
        stored = self._shards.read(positions)
        return list(map(self._image, numbers, positions, stored))

    def _image(self, number, position, data):
        """The image in a record, checked to be that of a frame."""
        try:
            example = tf_example.parse(data)
            name, frame, image = (_single(example, key) for key in ("video", "frame", "image"))
        except ValueError as error:
            path = self._shards.path(position)
            raise FrameError(f"can't read {self.called(number)} in {path}: {error}") from None
        if (name, frame) != (self._name, number):
            found = name.decode(errors="replace") if isinstance(name, bytes) else name
            raise FrameError(
                f"{self._shards.path(position)} has frame {frame} of {found!r}, expected "
                f"{self.called(number)}: 'videos' and 'frames' are of different builds; {ADVICE}"
            )
        return image

    def called(self, number):
        return f"frame {number} of {self.path}"


# Descriptions of the records ---------------------------------------------------------------------


def _locate_shards(root, part):
    """Files of one part and their numbers of records: `{split: (paths, lengths)}`."""
    folder = _part_folder(root, part)
    path = os.path.join(folder, INFO_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
        splits = {split["name"]: split for split in info["splits"]}
        places = {}
        for split in (*SPLITS, *({TEST} & splits.keys())):
            lengths = [int(length) for length in splits[split]["shardLengths"]]
            shards = [
                f"{info['name']}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
                for number in range(len(lengths))
            ]
            places[split] = [os.path.join(folder, shard) for shard in shards], lengths
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} doesn't describe records of videos with the splits train and validation "
            f"({type(error).__name__}: {error}); {ADVICE}"
        ) from None
    if info.get("fileFormat") != "array_record":
        raise UserError(
            f"{path} has fileFormat={info.get('fileFormat')!r}, expected 'array_record'; build the "
            "records with file_format='array_record'"
        )
    return places


def _part_folder(root, part):
    """The folder of the newest version of a part."""
    found = glob.glob(os.path.join(glob.escape(root), part, "*", INFO_FILE))
    versions = {}
    for path in found:
        numbers = os.path.basename(os.path.dirname(path)).split(".")
        # Unfinished builds have other names.
        if all(number.isdecimal() for number in numbers):
            versions[tuple(map(int, numbers))] = os.path.dirname(path)
    if not versions:
        raise UserError(
            f"no records in {root}: {part}/<version>/{INFO_FILE} is missing; build them with "
            f"`trn-jax records <data_dir> --to=<dir>`, which prints the folder to use as data_dir"
        )
    return versions[max(versions)]


# Examples ----------------------------------------------------------------------------------------


def _video(data, index, folder, split, multi_label):
    """Parse a record of the part `videos`: a `StoredVideo`, or `ValueError`."""
    example = tf_example.parse(data)
    name = _single(example, "video").decode()
    num_frames, first = (_single(example, key) for key in ("num_frames", "first_frame"))
    if num_frames < 1:
        raise ValueError(f"{name} has {num_frames} frames")
    label = _label(example, name, multi_label)
    path = os.path.join(folder, name)
    return StoredVideo(index, path, num_frames, label, split=split, name=name, first_frame=first)


def _label(example, name, multi_label):
    if "labels" in example:
        if not multi_label:
            raise ValueError(f"{name} has several labels; set data.multi_label=True")
        return tuple(example["labels"])
    if multi_label:
        raise ValueError(f"{name} has one label; set data.multi_label=False")
    return _single(example, "label")


_TYPES = {"video": bytes, "image": bytes}  # the others are integers


def _single(example, key):
    """The one value of a feature."""
    values = example.get(key)
    if values is None or len(values) != 1 or not isinstance(values[0], _TYPES.get(key, int)):
        raise ValueError(f"no feature {key!r}, so this is no record of a video")
    return values[0]
