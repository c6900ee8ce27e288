"""What goes into records: the videos of prepared lists, frame by frame.

Frames are read when they are written, and not before. So examples can be listed, counted and kept
in memory without their pixels.
"""

import dataclasses
import functools
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import simplejpeg

from trn_jax.data import annotations, datasets
from trn_jax.data.augment import resize_short_side
from trn_jax.data.decode import FrameError, read_image_file, read_video
from trn_jax.data.records import SPLITS, TEST
from trn_jax.data.videos import VideoFile
from trn_jax.errors import UserError, listed
from trn_jax.prepare.progress import Progress
from trn_jax.prepare.workers import num_cpus

# Whole videos, so that a clip is in one file.
FRAMES_PER_SHARD = 16384
_MAX_SHARDS = 512  # readers keep all of them open
_DECODED_AT_ONCE = 64  # frames of a video file


@dataclasses.dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video of a list.

    Attributes:
        name: as in the list.
        path: its folder of frames, or file.
        num_frames: at least 1.
        label: number of its class, or all of them, a tuple.
        first_frame: number of its first frame among those of its split.
    """

    name: str
    path: str
    num_frames: int
    label: int | tuple[int, ...]
    first_frame: int


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames of video files are stored; those of folders are stored as they are.

    Attributes:
        short_side: in pixels, to which larger frames are scaled; 0: as they are.
        quality: of JPEG, from 1 to 100.
    """

    short_side: int = 0
    quality: int = 95

    def __post_init__(self):
        if self.short_side < 0 or not 1 <= self.quality <= 100:
            raise UserError(
                f"short_side={self.short_side} must be a number of pixels (0: frames as they are) "
                f"and quality={self.quality} from 1 to 100"
            )


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the records of a data set are made from.

    Attributes:
        files: the `Dataset` with absolute paths.
        class_names: in the order of their labels.
        videos: the `ListedVideo`s of each split.
        unreadable: `{name of a video that is left out: why}`.
        notes: what is unusual about the others, messages.
    """

    files: datasets.Dataset
    class_names: list[str]
    videos: dict[str, list[ListedVideo]]
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def digest(self, encoding):
        """A name for these videos stored like this."""
        videos = {
            split: [(video.name, video.num_frames, video.label) for video in videos]
            for split, videos in self.videos.items()
        }
        source = self.files.source, self.files.frame_pattern, self.files.first_frame
        what = json.dumps([self.class_names, videos, source, dataclasses.astuple(encoding)])
        return hashlib.sha256(what.encode()).hexdigest()[:16]


def find_contents(dataset, data_dir, *, num_classes, multi_label, files):
    """List the videos of a prepared data set.

    Args:
        dataset: its name in the catalogue.
        data_dir: its folder.
        num_classes: how many classes there must be; `None`: any number.
        multi_label: whether lists have several labels per video.
        files: values for fields of `datasets.Dataset` other than the catalogue's.

    Returns:
        `Contents`.

    Raises:
        UserError: lists or videos are missing or wrong.
    """
    found = datasets.locate(dataset, data_dir, **files)
    if found.source == "records":
        raise UserError(f"{data_dir} has records already; give the folder that they are made from")
    class_names = annotations.read_class_names(found.class_names)
    if num_classes not in (None, len(class_names)):
        raise UserError(
            f"{dataset} has {num_classes} classes, but {found.class_names} names "
            f"{len(class_names)}; make records of other classes with --dataset=frames"
        )
    sources = ((found.train_list, found.frames), (found.val_list, found.val_frames))
    places = dict(zip(SPLITS, sources, strict=True))
    if os.path.exists(found.test_list):
        places[TEST] = (found.test_list, found.test_frames)
    contents = Contents(found, class_names, {})
    for split, (path, root) in places.items():
        records = annotations.read_list(
            path, frames_root=root, num_classes=len(class_names), multi_label=multi_label
        )
        records = _readable(contents, records, root)
        contents.videos[split] = list(_videos(records, os.path.join(root, "")))
    return contents


def _readable(contents, records, root):
    """Records with the numbers of their frames, without those of videos that cannot be read."""
    kept = []
    examine = partial(_examine, contents.files)
    with (
        Progress(f"Examining the videos in {root}", len(records), "videos") as progress,
        ThreadPoolExecutor(num_cpus(), "examine") as threads,
    ):
        for record, found in zip(records, threads.map(examine, records), strict=True):
            if isinstance(found, FrameError):
                name = record.path.removeprefix(os.path.join(root, ""))
                contents.unreadable[name] = str(found)
            else:
                num_frames, notes = found
                kept.append(dataclasses.replace(record, num_frames=num_frames))
                contents.notes.extend(notes)
            progress.add(1)
    if not kept:
        reasons = listed(list(contents.unreadable.values()))
        raise UserError(f"none of the {len(records):,} videos in {root} can be read:{reasons}")
    return kept


def _examine(files, record):
    """The number of frames of a video and what is unusual about it; or why it cannot be read."""
    try:
        if files.source == "videos":
            # Decodes all, as it is too late for that when a frame is to be written.
            with VideoFile(record.path, decodable=True) as video:
                return video.num_frames, video.notes
        there = _files_with_content(record.path)
        for index in range(record.num_frames):
            name = files.frame_pattern.format(index + files.first_frame)
            if name not in there:
                read_image_file(os.path.join(record.path, name))  # says what is wrong
        return record.num_frames, ()
    except FrameError as error:
        return error


def _files_with_content(folder):
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.stat().st_size}
    except OSError:
        return set()


def _videos(records, root):
    first = 0
    for record in records:
        if not record.num_frames:
            raise UserError(f"{record.path} is a video file by its name, among folders of frames")
        name = record.path.removeprefix(root)
        yield ListedVideo(name, record.path, record.num_frames, record.label, first)
        first += record.num_frames


def cut_into_shards(videos):
    """Divide videos over files with about equally many frames: a list of lists."""
    total = sum(video.num_frames for video in videos)
    per_shard = max(FRAMES_PER_SHARD, -(-total // _MAX_SHARDS))
    shards: list[list[ListedVideo]] = []
    for video in videos:
        if video.first_frame >= len(shards) * per_shard:
            shards.append([])
        shards[-1].append(video)
    return shards


def video_examples(videos):
    """The examples of the part `videos`, with a key each."""
    for number, video in enumerate(videos):
        several = isinstance(video.label, tuple)
        labels = {"labels": list(video.label)} if several else {"label": video.label}
        numbers = {"num_frames": video.num_frames, "first_frame": video.first_frame}
        yield number, {"video": video.name} | labels | numbers


def frame_examples(files, encoding, videos):
    """The examples of the part `frames`, with a key each."""
    for video in videos:
        images = _from_file if files.source == "videos" else _from_folder
        for index, image in enumerate(images(files, encoding, video)):
            yield video.first_frame + index, {"video": video.name, "frame": index, "image": image}


@dataclasses.dataclass(frozen=True)
class _Image:
    """A frame as the file that TFDS takes it for."""

    load: Any

    def read(self):
        return self.load()


def _from_folder(files, _, video):
    for index in range(video.num_frames):
        name = files.frame_pattern.format(index + files.first_frame)
        yield _Image(functools.partial(read_image_file, os.path.join(video.path, name)))


def _from_file(_, encoding, video):
    decode = functools.lru_cache(maxsize=1)(functools.partial(_decode_some, encoding, video))
    for index in range(video.num_frames):
        part, position = divmod(index, _DECODED_AT_ONCE)
        yield _Image(lambda part=part, position=position: decode(part)[position])


def _decode_some(encoding, video, part):
    """The JPEGs of a part of the frames of a video file."""
    first = part * _DECODED_AT_ONCE
    indices = range(first, min(first + _DECODED_AT_ONCE, video.num_frames))
    with VideoFile(video.path) as file:
        decodable = file.num_frames != video.num_frames
    opening = partial(VideoFile, video.path, decodable=decodable)
    return read_video(opening, partial(_encode, encoding, indices))


def _encode(encoding, indices, file):
    images = []
    for _, frame in file.frames(indices):
        if 0 < encoding.short_side < min(frame.shape[:2]):
            frame = resize_short_side(frame, encoding.short_side)
        images.append(simplejpeg.encode_jpeg(frame, quality=encoding.quality))
    return images
