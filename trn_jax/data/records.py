"""Videos in ArrayRecord files, as the builders in `trn_jax.tfds` write them.

A data set has two parts. `videos` has one small record per video, with its name, its label or
labels, the number of its frames, and the number of the first of them; `frames` has one record per
frame. So what is read of a clip is its frames and nothing else, and both parts are ordinary data
sets of TensorFlow Datasets (TFDS):

    <root>/videos/<version>/dataset_info.json, features.json, *.labels.txt
                            <name>-<split>.array_record-<shard>-of-<shards>
    <root>/frames/<version>/the same

Neither TFDS nor TensorFlow is needed here.
"""

import bisect
import contextlib
import dataclasses
import glob
import importlib.util
import itertools
import json
import os
import threading
from functools import partial

from trn_jax.data import tf_example
from trn_jax.data.annotations import Record
from trn_jax.data.decode import MAX_PIXELS, FrameError, StoredImages
from trn_jax.errors import UserError, listed

INFO_FILE = "dataset_info.json"
PARTS = ("videos", "frames")
SPLITS = ("train", "validation")
TEST = "test"  # a split of records that were made with a test list
_ADVICE = "build the records again"
# Nothing is read ahead, as the next clip is elsewhere, and no threads are made for one record.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 16 << 10  # bytes; larger ones read more than a frame from cold disks


def check_library():
    """Check that records can be read and written; there is no array-record for Windows.

    Raises:
        UserError: they cannot.
    """
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "records need the package array-record, which is not installed; where there is none, "
            "as on Windows, train on folders of frames or on videos (data.source=frames or videos)"
        )


def is_records(root):
    """Whether a folder has records of videos."""
    return any(glob.glob(os.path.join(glob.escape(root), part, "*", INFO_FILE)) for part in PARTS)


def class_names_file(root):
    """The file with the names of the classes of records, see `Records` for errors."""
    folder = _part_folder(root, "videos")
    names = glob.glob(os.path.join(glob.escape(folder), "*.labels.txt"))
    if len(names) != 1:
        raise UserError(
            f"{folder} must have one file with the names of the classes, 'label.labels.txt', but "
            f"has {len(names)}; {_ADVICE}"
        )
    return names[0]


@dataclasses.dataclass(frozen=True, slots=True)
class StoredVideo(Record):
    """A `Record` that knows where its frames are.

    Attributes:
        split: one of `SPLITS`, or `TEST`.
        name: of the video, as in the list that the records were made from.
        first_frame: number of its first frame among those of its split.
    """

    split: str
    name: str
    first_frame: int


class Records:
    """The records in a folder as a source of videos, see `decode.FrameFolders`.

    Args:
        root: folder with the parts `videos` and `frames`.
        max_pixels: larger frames are unreadable.

    Raises:
        UserError: the folder has not both parts, or what describes them cannot be read, or the
            package array-record is missing.
    """

    def __init__(self, root, *, max_pixels=MAX_PIXELS):
        check_library()
        self._root = root
        self._max_pixels = max_pixels
        self._frames = {
            split: _Shards(*place) for split, place in _locate_shards(root, "frames").items()
        }

    def videos(self, split, *, num_classes, multi_label=False):
        """The labelled videos of a split, in the order of the list that they were made from.

        Args:
            split: one of `SPLITS`, or `TEST`.
            num_classes: labels must be below this.
            multi_label: labels become tuples.

        Returns:
            A list of `StoredVideo`, with paths `<root>/<split>/<name>`.

        Raises:
            UserError: records are damaged, have labels that do not exist, several labels where one
                is expected or the reverse, or are not those of the frames.
        """
        places = _locate_shards(self._root, "videos")
        if split not in places:
            raise UserError(
                f"the records in {self._root} have no split {split!r}, only {', '.join(places)}; "
                "build them again from lists that have it"
            )
        shards = _Shards(*places[split])
        found, problems, first = [], [], 0
        folder = os.path.join(self._root, split)
        for index, data in enumerate(shards.read_all()):
            try:
                video = _video(data, index, folder, split, multi_label)
                if video.first_frame != first:
                    raise ValueError(f"its frames begin at {video.first_frame}, expected {first}")
                found.append(video)
                _check_labels(video, num_classes)
            except ValueError as error:
                problems.append(f"video {index} of {split}: {error}")
                continue
            first += video.num_frames
        total = self._frames[split].num_records
        if not problems and first != total:
            problems.append(f"{split} has {total} frames, but its videos have {first}")
        if problems:
            raise UserError(f"the records in {self._root} cannot be used:{listed(problems)}")
        return found

    def open(self, record):
        """A `StoredVideo` as a video; use it in a `with`."""
        return _OpenVideo(self._frames[record.split], record, self._max_pixels)

    def check(self, record):
        """Look whether the first and the last frame of a `StoredVideo` are there.

        Raises:
            FrameError: they are not, or the records there are of another video.
        """
        with self.open(record) as video:
            video.images([0, record.num_frames - 1])


class _OpenVideo(StoredImages):
    """A video in records, see `Records`."""

    advice = _ADVICE

    def __init__(self, shards, record, max_pixels):
        self.path = record.path
        self.max_pixels = max_pixels
        self.num_frames = record.num_frames
        self._shards = shards
        self._record = record
        self._name = record.name.encode()

    def images(self, numbers):
        outside = [number for number in numbers if not 0 <= number < self.num_frames]
        if outside:
            raise FrameError(
                f"there is no frame {outside[0]} of {self.path}, which has {self.num_frames}"
            )
        positions = [self._record.first_frame + number for number in numbers]
        stored = self._shards.read(positions)
        return list(map(self._image, numbers, positions, stored))

    def _image(self, number, position, data):
        """The image in a record, which must be that of a frame."""
        try:
            example = tf_example.parse(data)
            name, frame, image = (_single(example, key) for key in ("video", "frame", "image"))
        except ValueError as error:
            path = self._shards.path(position)
            raise FrameError(f"cannot read {self.called(number)} in {path}: {error}") from None
        if (name, frame) != (self._name, number):
            found = name.decode(errors="replace") if isinstance(name, bytes) else name
            raise FrameError(
                f"{self._shards.path(position)} has frame {frame} of {found!r} where "
                f"{self.called(number)} is expected: 'videos' and 'frames' are not of one build; "
                f"{_ADVICE}"
            )
        return image

    def called(self, number):
        return f"frame {number} of {self.path}"


class _Shards:
    """The records of a split, numbered through all of its files, which are opened when needed."""

    def __init__(self, paths, lengths):
        self.num_records = sum(lengths)
        self._paths = paths
        self._lengths = lengths
        self._ends = list(itertools.accumulate(lengths))
        self._readers = {}
        self._lock = threading.Lock()

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._lock = threading.Lock()

    def path(self, number):
        """The file that has a record."""
        return self._paths[bisect.bisect_right(self._ends, number)]

    def read(self, numbers):
        """The records of ascending numbers: a list of `bytes`."""
        found = []
        for shard, group in itertools.groupby(numbers, partial(bisect.bisect_right, self._ends)):
            first = self._ends[shard] - self._lengths[shard]
            found += self._read(shard, [number - first for number in group])
        return found

    def _read(self, shard, positions):
        """Records of one file, all at once, which takes half as long as one by one."""
        reader = self._readers.get(shard) or self._open(shard)
        try:
            return reader.read(positions)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            if len(positions) == 1:
                raise _damaged(self._paths[shard], f"record {positions[0]}: {error}") from None
            # One by one, the bad one can be named.
            return [data for position in positions for data in self._read(shard, [position])]

    def read_all(self):
        """All records in order, one file at a time."""
        for shard, length in enumerate(self._lengths):
            reader = self._readers.get(shard) or self._open(shard)
            try:
                records = reader.read(0, length)
            except (RuntimeError, ValueError, IndexError, OSError) as error:
                raise _damaged(self._paths[shard], error) from None
            yield from records

    def _open(self, shard):
        path = self._paths[shard]
        with self._lock:
            if shard in self._readers:
                return self._readers[shard]
            if not os.path.exists(path):
                raise FrameError(
                    f"{path} is missing, a part of the records; copy all of them, or {_ADVICE}"
                )
            try:
                reader = _open_reader(path)
                found = reader.num_records()
            except (RuntimeError, ValueError, OSError) as error:
                raise _damaged(path, error) from None
            if not found:
                raise _damaged(path, "no index at its end")
            if found != self._lengths[shard]:
                raise FrameError(
                    f"{path} has {found} records, but {INFO_FILE} beside it says "
                    f"{self._lengths[shard]}: it is of another build; {_ADVICE}"
                )
            self._readers[shard] = reader
            return reader


def _open_reader(path):
    # Loading it takes a while, which only those should pay who read records.
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(
        path, options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
    )
    # The system reads ahead of two reads in a row, a header and a frame, which on a cold disk takes
    # longer than the frame. The reader has no option for that, so its file is looked up.
    status = os.stat(path)
    for descriptor in _descriptors():
        with contextlib.suppress(OSError):  # another thread has closed it
            if os.path.samestat(os.fstat(descriptor), status):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return reader


def _descriptors():
    """The open files of this process; none where the system (macOS) has no advice to take."""
    if not hasattr(os, "posix_fadvise") or not os.path.isdir("/proc/self/fd"):
        return []
    return list(map(int, os.listdir("/proc/self/fd")))


def _damaged(path, error):
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FrameError(f"{path} is damaged or cut off ({reason}); copy it again, or {_ADVICE}")


# What describes the records ----------------------------------------------------------------------


def _locate_shards(root, part):
    """Files of one part of the records and how many each has: `{split: (paths, lengths)}`."""
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
            f"{path} does not describe records of videos with the splits train and validation "
            f"({type(error).__name__}: {error}); {_ADVICE}"
        ) from None
    if info.get("fileFormat") != "array_record":
        raise UserError(
            f"{path} says that the records are in the format {info.get('fileFormat')!r}, but only "
            "'array_record' is read; build them with file_format='array_record'"
        )
    return places


def _part_folder(root, part):
    """The folder of the newest version of a part."""
    found = glob.glob(os.path.join(glob.escape(root), part, "*", INFO_FILE))
    versions = {}
    for path in found:
        numbers = os.path.basename(os.path.dirname(path)).split(".")
        # Unfinished builds are called otherwise.
        if all(number.isdecimal() for number in numbers):
            versions[tuple(map(int, numbers))] = os.path.dirname(path)
    if not versions:
        raise UserError(
            f"no records in {root}: there is no {part}/<version>/{INFO_FILE}; make them with "
            f"`trn-jax records <data_dir> --to=<dir>`, which ends with the folder to give as "
            "data_dir"
        )
    return versions[max(versions)]


# Examples ----------------------------------------------------------------------------------------


def _video(data, index, folder, split, multi_label):
    """A record of the part `videos` as a `StoredVideo`; `ValueError` if it is none."""
    example = tf_example.parse(data)
    name = _single(example, "video").decode()
    num_frames, first = (_single(example, key) for key in ("num_frames", "first_frame"))
    if num_frames < 1:
        raise ValueError(f"{name} has {num_frames} frames")
    label = _label(example, name, multi_label)
    return StoredVideo(index, os.path.join(folder, name), num_frames, label, split, name, first)


def _label(example, name, multi_label):
    if "labels" in example:
        if not multi_label:
            raise ValueError(f"{name} has several labels; set data.multi_label=True")
        return tuple(example["labels"])
    if multi_label:
        raise ValueError(f"{name} has one label; set data.multi_label=False")
    return _single(example, "label")


def _check_labels(video, num_classes):
    labels = video.label if isinstance(video.label, tuple) else (video.label,)
    for label in labels:
        if not 0 <= label < num_classes:
            raise ValueError(
                f"label {label} of {video.name} is not in 0..{num_classes - 1} (num_classes is "
                f"{num_classes})"
            )


_TYPES = {"video": bytes, "image": bytes}  # the others are integers


def _single(example, key):
    """The one value of a feature."""
    values = example.get(key)
    if values is None or len(values) != 1 or not isinstance(values[0], _TYPES.get(key, int)):
        raise ValueError(f"it has no feature {key!r}, so it is no record of a video")
    return values[0]
