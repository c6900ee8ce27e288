"""Lists of labelled videos in the two label orders of the field.

For Something-Something V1 and Jester, mmaction2 numbers the classes in the official order, that of
the file of labels, and TRN-pytorch and its version for MindSpore in alphabetical order. In the
other order, the same list and weights mean other classes, so class names are written beside every
list.
"""

import collections
import dataclasses
import os
from functools import partial

from trn_jax.data.datasets import DATASETS
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.videos import VideoFile, VideoFiles
from trn_jax.errors import UserError
from trn_jax.prepare.examples import Example
from trn_jax.prepare.folders import find_videos
from trn_jax.prepare.frame_folders import FrameFolder, list_frames
from trn_jax.prepare.worker_pool import CRASHED, Died, for_each
from trn_jax.progress import Progress

ORDERS = ("official", "alphabetical")
_SPLITS = {"train": "training", "val": "validation"}
_NUM_SHOWN = 5  # examples in a message
# Numbers of videos in the official annotations.
OFFICIAL_COUNTS = {
    "jester": {"train": 118_562, "val": 14_787, "test": 14_743},
    "sthv1": {"train": 86_017, "val": 11_522, "test": 10_960},
    "sthv2": {"train": 168_913, "val": 24_777, "test": 27_157},
    "charades": {"train": 7_985, "val": 1_863},
    "moments": {"train": 802_264, "val": 33_900},
}


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The labelled videos of a data set.

    Attributes:
        class_names: in the official order.
        splits: `{"train": [Example, ...], "val": ...}`, each with one label, and with a path below
            the folder of its split: that of the frames, or of the video file without extension.
        source: the annotation file, for messages.
        official: official numbers of videos by split, where known.

    Raises:
        UserError: there is no class, a name is repeated, or videos have unknown classes.
    """

    class_names: list[str]
    splits: dict[str, list[Example]]
    source: str
    official: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known = set(self.class_names)
        if not known:
            raise UserError(f"{self.source} names no class; download it again")
        if len(known) < len(self.class_names):
            repeated = sorted({name for name in known if self.class_names.count(name) > 1})
            raise UserError(f"{self.source} names classes twice: {', '.join(repeated)}")
        examples = [example for split in self.splits.values() for example in split]
        unknown = [example for example in examples if example.labels[0] not in known]
        if unknown:
            shown = ", ".join(f"{e.labels[0]!r} of {e.path}" for e in unknown[:_NUM_SHOWN])
            raise UserError(
                f"{len(unknown)} of {len(examples)} videos have classes that are not among the "
                f"{len(known)} of {self.source}: {shown}; use annotations of one version"
            )

    def ordered(self, order):
        """Class names in a label order."""
        return sorted(self.class_names) if order == "alphabetical" else self.class_names


def write_frame_lists(writer, annotations, roots, files, orders, *, dataset, workers):
    """Write lists `<folder> <number of frames> <label>` of the videos that have all frames.

    Args:
        writer: a `DatasetWriter`.
        annotations: the `Annotations`.
        roots: `{split: folder of the frame folders, below that of the data set}`.
        files: `{label order: ListFiles}`.
        orders: label orders to write.
        dataset: name in `datasets.DATASETS`, for the usual names of frames.
        workers: processes that list frames.

    Returns:
        `{split: number of videos in its list}`.

    Raises:
        UserError: no video has frames.
    """
    paths = {split: [e.path for e in annotations.splits[split]] for split in _SPLITS}
    counts, reasons = find_frames(writer, dataset, roots, paths, workers=workers)
    lines = {s: {path: f"{path} {n}" for path, n in counts[s].items()} for s in _SPLITS}
    unreadable = {s: {path: (path, why) for path, why in reasons[s].items()} for s in _SPLITS}
    what = "frames", "a folder of frames"
    return _write(writer, annotations, roots, files, orders, lines, unreadable, what)


def find_frames(writer, dataset, roots, paths, *, workers):
    """Count the frames in folders, and set `writer.naming` to the most common names of frames.

    `paths` are `{split: frame folders}`; for the others, see `write_frame_lists`.

    Returns:
        `{split: {path: number of frames}}` and `{split: {path: reason}}` of the unreadable ones;
        missing ones are in neither.
    """
    usual = DATASETS[dataset]
    found, named = {}, {}
    for split, folders in paths.items():
        root = os.path.join(writer.to, roots[split])
        found[split] = list_frames(root, list(folders), workers=workers, usual=usual.frame_pattern)
        named[split] = {
            path: (folder.pattern, folder.first_frame)
            for path, folder in found[split].items()
            if isinstance(folder, FrameFolder)
        }
    number = collections.Counter(
        naming
        for folders in named.values()
        for naming in folders.values()
        if naming[1] in (0, 1)  # folders that begin later have lost their first frames
    )
    common = usual.frame_pattern, usual.first_frame
    common = max(number, key=lambda naming: (number[naming], naming == common), default=common)
    counts, reasons = {}, {}
    for split, folders in found.items():
        counts[split] = {
            path: folders[path].num_frames for path, each in named[split].items() if each == common
        }
        reasons[split] = {path: why for path, why in folders.items() if path not in named[split]}
        reasons[split] |= {
            path: f"its first frame is {_frame(*each)}, and should be {_frame(*common)}"
            for path, each in named[split].items()
            if each != common
        }
    keys = zip(("frame_pattern", "first_frame"), common, strict=True)
    writer.naming = {key: value for key, value in keys if value != getattr(usual, key)}
    return counts, reasons


def _frame(pattern, number):
    return repr(pattern.format(number))


def write_video_lists(writer, annotations, roots, files, orders, *, workers, check):
    """Write lists `<file> <label>` of the videos that exist; see `write_frame_lists`.

    With `check`, videos that can't be opened are left out.
    """
    lines, unreadable = {}, {}
    for split, root in roots.items():
        folder = os.path.join(writer.to, root)
        on_disk = {os.path.splitext(path)[0]: path for path in find_videos(folder)}
        stems = [e.path for e in annotations.splits[split] if e.path in on_disk]
        broken = open_videos(writer, root, [on_disk[s] for s in stems], workers) if check else {}
        lines[split] = {s: on_disk[s] for s in stems if on_disk[s] not in broken}
        unreadable[split] = {
            s: (on_disk[s], broken[on_disk[s]]) for s in stems if on_disk[s] in broken
        }
    what = "files", "a file"
    return _write(writer, annotations, roots, files, orders, lines, unreadable, what)


def open_videos(writer, root, paths, workers):
    """Open video files below `root` and decode their first frames: `{unreadable path: reason}`.

    `writer.opened` caches the results. `trn-jax check --deep` decodes all frames.
    """
    folder = os.path.join(writer.to, root)
    opened = writer.opened.setdefault(root, {})
    waiting = [path for path in paths if path not in opened]
    if waiting:
        VideoFiles()  # raises if PyAV is missing
    notes: dict[str, tuple[str, ...]] = {}
    with Progress(f"Opening the videos in {folder}", len(waiting), "videos") as progress:
        for path, result in for_each(partial(_open, folder), waiting, workers):
            opened[path], notes[path] = (CRASHED, ()) if isinstance(result, Died) else result
            progress.add(1)
    writer.note_used([note for path in sorted(notes) for note in notes[path]])
    return {path: opened[path] for path in paths if opened[path]}


def _open(folder, path):
    """The reason why a video file is unreadable, or "", and notes on it."""

    def decode_first(video):
        for _ in video.frames({0}):
            pass
        return video.notes

    try:
        return "", read_video(lambda: VideoFile(os.path.join(folder, path)), decode_first)
    except FrameError as error:
        return str(error), ()


def _write(writer, annotations, roots, files, orders, lines, unreadable, what):
    """Write the lists of the videos that have a line.

    `lines` are `{split: {path: line without label}}` and `unreadable` `{split: {path: (path on
    disk, reason)}}`; all others lack `what`, in plural and singular.
    """
    present = {
        split: _present(writer, annotations, roots, split, lines[split], unreadable[split], what[0])
        for split in _SPLITS
    }
    if not any(present.values()):
        places = ", ".join(sorted({os.path.join(writer.to, root) for root in roots.values()}))
        raise UserError(
            f"no video of the annotations has {what[1]} that can be read in {places}; archives and "
            "annotations must be of the same data set"
        )
    for order in orders:
        names = annotations.ordered(order)
        labels = {name: label for label, name in enumerate(names)}
        train, val = (
            [f"{lines[split][e.path]} {labels[e.labels[0]]}" for e in present[split]]
            for split in _SPLITS
        )
        files[order].write(writer, names, train, val)
    return {split: len(examples) for split, examples in present.items()}


def _present(writer, annotations, roots, split, lines, unreadable, what):
    """The examples of a split that have a line; the others are added to the summary."""
    examples, root, name = annotations.splits[split], roots[split], _SPLITS[split]
    present = [example for example in examples if example.path in lines]
    writer.note(f"{name}: {what} of {len(present):,} of {len(examples):,} videos")
    compare_count(writer, name, len(examples), annotations.official.get(split))
    missing = {
        os.path.join(root, example.path): example.labels[0]
        for example in examples
        if example.path not in lines and example.path not in unreadable
    }
    writer.miss(f"{name} videos without {what}", missing)
    broken = {os.path.join(root, path): reason for path, reason in unreadable.values()}
    writer.cannot_read(f"{name} videos that cannot be read", broken)
    return present


def compare_count(writer, split, found, official):
    """Note the number of videos in the annotations of a split if it isn't the official one."""
    if official is not None and found != official:
        writer.note(f"{split}: {found:,} videos in the annotations, officially {official:,}")
