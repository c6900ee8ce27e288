"""Contents of records: the videos of prepared lists, whose frames are read only when written."""

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
from trn_jax.data.class_names import read_class_names
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.frame_folders import read_image_file
from trn_jax.data.records import SPLITS, TEST, StoredVideo
from trn_jax.data.videos import VideoFiles
from trn_jax.data.workers import num_cpus
from trn_jax.errors import UserError, listed
from trn_jax.progress import Progress

# A shard holds whole videos, so that a clip is in one file.
FRAMES_PER_SHARD = 16384
_MAX_SHARDS = 512  # readers keep all of them open
_NUM_DECODED = 64  # frames of a video file decoded at once


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How frames of video files are stored; frames of folders are copied.

    Attributes:
        short_side: pixels that larger frames are scaled down to; 0 keeps the size.
        quality: of JPEG, from 1 to 100.
    """

    short_side: int = 0
    quality: int = 95

    def __post_init__(self):
        if self.short_side < 0 or not 1 <= self.quality <= 100:
            raise UserError(
                f"short_side={self.short_side} must be a number of pixels (0 keeps the size) "
                f"and quality={self.quality} from 1 to 100"
            )


@dataclasses.dataclass(frozen=True)
class Contents:
    """The videos of a data set.

    Attributes:
        files: the `Dataset` with absolute paths.
        class_names: in label order.
        videos: `{split: [StoredVideo, ...]}`.
        unreadable: `{name of a video that is left out: reason}`.
        notes: messages on unusual videos.
    """

    files: datasets.Dataset
    class_names: list[str]
    videos: dict[str, list[StoredVideo]]
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def digest(self, encoding):
        """Hash of the videos and their encoding."""
        videos = {
            split: [(video.name, video.num_frames, video.label) for video in videos]
            for split, videos in self.videos.items()
        }
        source = self.files.source, self.files.frame_pattern, self.files.first_frame
        what = json.dumps([self.class_names, videos, source, dataclasses.astuple(encoding)])
        return hashlib.sha256(what.encode()).hexdigest()[:16]


def find_contents(dataset, data_dir, *, num_classes, multi_label, files):
    """Find the `Contents` of a prepared data set.

    Args:
        dataset: name in `datasets.DATASETS`.
        data_dir: its folder.
        num_classes: number of classes; `None` for any number.
        multi_label: whether lists have several labels per video.
        files: fields of `datasets.Dataset` that differ from the defaults of the data set.

    Raises:
        UserError: lists or videos are missing or malformed.
    """
    found = datasets.locate(dataset, data_dir, **files)
    if found.source == "records":
        raise UserError(f"{data_dir} has records already; give the folder of lists and videos")
    class_names = read_class_names(found.class_names)
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
            path,
            frames_root=root,
            num_classes=len(class_names),
            multi_label=multi_label,
            with_offset=found.with_offset,
        )
        records = _readable(contents, records, root)
        contents.videos[split] = list(_stored_videos(records, split, root))
    return contents


def _readable(contents, records, root):
    """The readable records, with their numbers of frames."""
    kept = []
    unusual: dict[str, None] = {}  # notes, those on a video once for all of its parts
    # Parts of a video are examined one after the other: threads must not decode it several times.
    of_video: dict[str, list] = {}
    for record in records:
        of_video.setdefault(record.path, []).append(record)
    with (
        Progress(f"Examining the videos in {root}", len(records), "videos") as progress,
        ThreadPoolExecutor(num_cpus(), "examine") as threads,
    ):
        examine = partial(_examine_all, contents.files)
        for examined in threads.map(examine, of_video.values()):
            for record, found in examined:
                if isinstance(found, FrameError):
                    contents.unreadable[record.named(root)] = str(found)
                else:
                    num_frames, notes = found
                    kept.append(dataclasses.replace(record, num_frames=num_frames))
                    unusual |= dict.fromkeys(notes)
                progress.add(1)
    contents.notes.extend(unusual)
    if not kept:
        reasons = listed(list(contents.unreadable.values()))
        raise UserError(f"none of the {len(records):,} videos in {root} is readable:{reasons}")
    return sorted(kept, key=lambda record: record.index)


def _examine_all(files, records):
    return [(record, _examine(files, record)) for record in records]


def _examine(files, record):
    """The number of frames of a video and notes on it, or a `FrameError`."""
    try:
        if files.source == "videos":
            # Decodes all frames, as it is too late to count them when they are written.
            with VideoFiles().open(record, decodable=True) as video:
                return video.num_frames, video.notes
        there = _files_with_content(record.path)
        for name in _frame_names(files, record):
            if name not in there:
                read_image_file(os.path.join(record.path, name))  # raises, with the reason
        return record.num_frames, ()
    except FrameError as error:
        return error


def _frame_names(files, record):
    """Names of the frames of a folder, or of the part of it."""
    first = files.first_frame + (record.offset or 0)
    return map(files.frame_pattern.format, range(first, first + record.num_frames))


def _files_with_content(folder):
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.stat().st_size}
    except OSError:
        return set()


def _stored_videos(records, split, root):
    first = 0
    for record in records:
        if not record.num_frames:
            raise UserError(f"{record.path} is a video file by its name, among folders of frames")
        place = dict(split=split, name=record.named(root), first_frame=first)
        yield StoredVideo(**dataclasses.asdict(record), **place)
        first += record.num_frames


def cut_into_shards(videos):
    """Divide videos into shards of about equally many frames: a list of lists."""
    total = sum(video.num_frames for video in videos)
    per_shard = max(FRAMES_PER_SHARD, -(-total // _MAX_SHARDS))
    shards: list[list[StoredVideo]] = []
    for video in videos:
        if video.first_frame >= len(shards) * per_shard:
            shards.append([])
        shards[-1].append(video)
    return shards


def video_examples(videos):
    """Yield `(key, example)` of the part `videos`."""
    for number, video in enumerate(videos):
        several = isinstance(video.label, tuple)
        labels = {"labels": list(video.label)} if several else {"label": video.label}
        numbers = {"num_frames": video.num_frames, "first_frame": video.first_frame}
        yield number, {"video": video.name} | labels | numbers


def frame_examples(files, encoding, videos):
    """Yield `(key, example)` of the part `frames`."""
    for video in videos:
        if files.source == "videos":
            images = _from_file(encoding, video)
        else:
            images = _from_folder(files, video)
        for index, image in enumerate(images):
            yield video.first_frame + index, {"video": video.name, "frame": index, "image": image}


@dataclasses.dataclass(frozen=True)
class _Image:
    """A frame as a file object for TFDS, which calls `read`."""

    read: Any


def _from_folder(files, video):
    for name in _frame_names(files, video):
        yield _Image(partial(read_image_file, os.path.join(video.path, name)))


def _from_file(encoding, video):
    decode = functools.lru_cache(maxsize=1)(partial(_decode_some, encoding, video))
    for index in range(video.num_frames):
        part, position = divmod(index, _NUM_DECODED)
        yield _Image(lambda part=part, position=position: decode(part)[position])


def _decode_some(encoding, video, part):
    """The JPEGs of a part of the frames of a video file."""
    first = part * _NUM_DECODED
    indices = range(first, min(first + _NUM_DECODED, video.num_frames))
    source = VideoFiles()
    with source.open(video) as file:
        decodable = file.num_frames != video.num_frames
    opening = partial(source.open, video, decodable=decodable)
    return read_video(opening, partial(_encode, encoding, indices))


def _encode(encoding, indices, file):
    images = []
    for _, frame in file.frames(indices):
        if 0 < encoding.short_side < min(frame.shape[:2]):
            frame = resize_short_side(frame, encoding.short_side)
        images.append(simplejpeg.encode_jpeg(frame, quality=encoding.quality))
    return images
