"""Lists of labelled videos in the two label orders of the field.

mmaction2 numbers the classes of Something-Something V1 and of Jester in the official order, that of
the lines of the file with the labels; TRN-pytorch and its version for MindSpore in alphabetical
order. The same list and the same weights mean other classes in the other order, so the names of the
classes are written beside every list.
"""

import collections
import dataclasses
import os
from functools import partial

from trn_jax.data.datasets import DATASETS
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.videos import VideoFile, VideoFiles
from trn_jax.errors import UserError
from trn_jax.prepare.folders import FrameFolder, find_videos, list_frames
from trn_jax.prepare.progress import Progress
from trn_jax.prepare.workers import CRASHED, Died, for_each

ORDERS = ("official", "alphabetical")
_SPLITS = {"train": "training", "val": "validation"}
_SHOWN_PROBLEMS = 5
_WORTH_PROCESSES = 200  # with fewer videos, starting processes takes longer than opening them
# Videos of the annotations.
OFFICIAL = {
    "jester": {"train": 118_562, "val": 14_787, "test": 14_743},
    "sthv1": {"train": 86_017, "val": 11_522, "test": 10_960},
    "sthv2": {"train": 168_913, "val": 24_777, "test": 27_157},
    "charades": {"train": 7_985, "val": 1_863},
    "moments": {"train": 802_264, "val": 33_900},
}


@dataclasses.dataclass(frozen=True)
class Video:
    """A video of the annotations: its path in the folder of its split, and its class.

    The path is that of its folder of frames, or that of its file without the extension.
    """

    name: str
    label: str


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The labelled videos of a data set.

    Attributes:
        class_names: in the official order.
        splits: the videos of "train" and of "val".
        source: where they come from, for messages.
        official: how many videos the splits officially have, where that is known.

    Raises:
        UserError: there is no class, one is named twice, or videos are of unknown classes.
    """

    class_names: list[str]
    splits: dict[str, list[Video]]
    source: str
    official: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known = set(self.class_names)
        if not known:
            raise UserError(f"{self.source} names no class; get it again")
        if len(known) < len(self.class_names):
            twice = sorted({name for name in known if self.class_names.count(name) > 1})
            raise UserError(f"{self.source} names classes twice: {', '.join(twice)}")
        videos = [video for split in self.splits.values() for video in split]
        unknown = [video for video in videos if video.label not in known]
        if unknown:
            shown = ", ".join(f"{v.label!r} of {v.name}" for v in unknown[:_SHOWN_PROBLEMS])
            raise UserError(
                f"{len(unknown)} of {len(videos)} videos are of classes that are not among the "
                f"{len(known)} of {self.source}: {shown}; all annotations must be of one version"
            )

    def ordered(self, order):
        """The names of the classes in a label order."""
        return sorted(self.class_names) if order == "alphabetical" else self.class_names


@dataclasses.dataclass(frozen=True)
class ListFiles:
    """What the lists of one label order are called.

    Attributes:
        train: list of the training videos.
        val: list of the validation videos.
        classes: names of the classes, in the order of their labels.
        final_newline: whether the last lines end with one; those of TRN do not.
    """

    train: str
    val: str
    classes: str
    final_newline: bool = True

    def write(self, writer, class_names, train, val):
        """Write the three files from their lines with an `DatasetWriter`."""
        for name, lines in ((self.classes, class_names), (self.train, train), (self.val, val)):
            writer.write(name, self.text(lines))

    def text(self, lines):
        """Lines as the content of a file."""
        return "\n".join(lines) + ("\n" if lines and self.final_newline else "")


# What TRN-pytorch calls its lists, which are in alphabetical order.
TRN_LISTS = ListFiles(
    "train_videofolder.txt", "val_videofolder.txt", "category.txt", final_newline=False
)


def write_frame_lists(writer, annotations, roots, files, orders, *, dataset, workers):
    """Write lists `<folder> <number of frames> <label>` of the videos whose frames are all there.

    Args:
        writer: the `DatasetWriter` to write with.
        annotations: the `Annotations`.
        roots: folder of the frame folders of each split, below that of the data set.
        files: `{label order: ListFiles}`.
        orders: which of them to write.
        dataset: name in the catalogue, which says how frames are called.
        workers: processes that list frames.

    Returns:
        `{split: number of videos in its list}`.

    Raises:
        UserError: no video has frames.
    """
    names = {split: [v.name for v in videos] for split, videos in annotations.splits.items()}
    counts, reasons = find_frames(writer, dataset, roots, names, workers=workers)
    columns = {
        split: {name: f"{name} {count}" for name, count in found.items()}
        for split, found in counts.items()
    }
    left_out = {
        split: {name: (name, reason) for name, reason in found.items()}
        for split, found in reasons.items()
    }
    what = "frames", "a folder of frames"
    return _write(writer, annotations, roots, files, orders, columns, left_out, what)


def find_frames(writer, dataset, roots, names, *, workers):
    """Count the frames of videos, and find out how frames are called (`writer.naming`).

    Args:
        writer: an `DatasetWriter`.
        dataset: name in the catalogue, which says how frames usually are called.
        roots: `{split: folder of the frame folders, below that of the data set}`.
        names: `{split: names of the videos}`, lists or dicts.
        workers: processes that list frames.

    Returns:
        `{split: {name: number of frames}}` and `{split: {name: reason}}` of videos that can't be
        read; those that aren't there are in neither.
    """
    usual = DATASETS[dataset]
    found = {}
    for split, videos in names.items():
        root = os.path.join(writer.to, roots[split])
        found[split] = list_frames(root, list(videos), workers=workers, usual=usual.frame_pattern)
    names_of = {
        split: {
            name: (folder.pattern, folder.first_frame)
            for name, folder in folders.items()
            if isinstance(folder, FrameFolder)
        }
        for split, folders in found.items()
    }
    common = usual.frame_pattern, usual.first_frame
    number = collections.Counter(
        each
        for named in names_of.values()
        for each in named.values()
        if each[1] in (0, 1)  # where frames are counted from; others have lost their first ones
    )
    common = max(number, key=lambda each: (number[each], each == common), default=common)
    counts, reasons = {}, {}
    for split, folders in found.items():
        named = names_of[split]
        counts[split] = {
            name: folders[name].num_frames for name, each in named.items() if each == common
        }
        reasons[split] = {name: reason for name, reason in folders.items() if name not in named}
        reasons[split] |= {
            name: f"its first frame is {_frame(*each)}, and should be {_frame(*common)}"
            for name, each in named.items()
            if each != common
        }
    keys = zip(("frame_pattern", "first_frame"), common, strict=True)
    writer.naming = {key: value for key, value in keys if value != getattr(usual, key)}
    return counts, reasons


def _frame(pattern, number):
    return repr(pattern.format(number))


def write_video_lists(writer, annotations, roots, files, orders, *, workers, check):
    """Write lists `<file> <label>` of the videos that are there, as `write_frame_lists`.

    With `check`, files are opened, and left out if they can't be read.
    """
    paths, left_out = {}, {}
    for split, root in roots.items():
        folder = os.path.join(writer.to, root)
        on_disk = {os.path.splitext(path)[0]: path for path in find_videos(folder)}
        names = [video.name for video in annotations.splits[split] if video.name in on_disk]
        broken = open_videos(writer, root, [on_disk[n] for n in names], workers) if check else {}
        paths[split] = {n: on_disk[n] for n in names if on_disk[n] not in broken}
        left_out[split] = {
            n: (on_disk[n], broken[on_disk[n]]) for n in names if on_disk[n] in broken
        }
    what = "files", "a file"
    return _write(writer, annotations, roots, files, orders, paths, left_out, what)


def open_videos(writer, root, paths, workers):
    """Open video files and decode the first frame of each, unless that was done before.

    `trn-jax check --deep` decodes all frames.

    Args:
        writer: an `DatasetWriter`, which remembers what was opened.
        root: folder that paths are relative to, below that of the data set.
        paths: of the files.
        workers: processes that open files.

    Returns:
        `{path: reason}` of those that can't be read.
    """
    folder = os.path.join(writer.to, root)
    known = writer.opened.setdefault(root, {})
    waiting = [path for path in paths if path not in known]
    if waiting:
        VideoFiles()  # says what to install
    notes = {}
    with Progress(f"Opening the videos in {folder}", len(waiting), "videos") as progress:
        look = partial(_look, folder)
        for path, result in for_each(look, waiting, workers, worth=_WORTH_PROCESSES):
            known[path] = CRASHED if isinstance(result, Died) else result[0]
            if not isinstance(result, Died) and result[1]:
                notes[path] = result[1]
            progress.add(1)
    writer.note_used([note for path in sorted(notes) for note in notes[path]])
    return {path: known[path] for path in paths if known[path]}


def _look(folder, path):
    """The reason why a video file can't be read, or ""; and notes on it."""

    def look(video):
        for _ in video.frames({0}):
            pass
        return video.notes

    try:
        return "", read_video(lambda: VideoFile(os.path.join(folder, path)), look)
    except FrameError as error:
        return str(error), ()


def _write(writer, annotations, roots, files, orders, columns, left_out, what):
    """Write lists of the videos that have `columns`, which are all but that of the label.

    `columns` are `{split: {name: columns}}`, and `left_out`, of videos that can't be read,
    `{split: {name: (path, reason)}}`; others don't have `what`.
    """
    present = {
        split: _present(writer, annotations, roots, split, columns[split], left_out[split], what)
        for split in _SPLITS
    }
    _check_any(present, writer, roots, what[1])
    for order in orders:
        names = annotations.ordered(order)
        labels = {name: label for label, name in enumerate(names)}
        train, val = (
            [f"{columns[split][video.name]} {labels[video.label]}" for video in present[split]]
            for split in _SPLITS
        )
        files[order].write(writer, names, train, val)
    return {split: len(videos) for split, videos in present.items()}


def _present(writer, annotations, roots, split, columns, left_out, what):
    """The videos of a split that can be used."""
    videos, root, called = annotations.splits[split], roots[split], _SPLITS[split]
    present = [video for video in videos if video.name in columns]
    writer.note(f"{called}: {what[0]} of {len(present):,} of {len(videos):,} videos")
    compare_count(writer, called, len(videos), annotations.official.get(split))
    missing = {
        os.path.join(root, video.name): video.label
        for video in videos
        if video.name not in columns and video.name not in left_out
    }
    writer.miss(f"{called} videos without {what[0]}, which are not there", missing)
    broken = {os.path.join(root, path): reason for path, reason in left_out.values()}
    writer.cannot_read(f"{called} videos that cannot be read", broken)
    return present


def compare_count(writer, called, found, official):
    """Note the number of videos in the annotations of a split where it isn't the official one."""
    if official is not None and found != official:
        writer.note(f"{called}: {found:,} videos in the annotations, officially {official:,}")


def _check_any(present, writer, roots, what):
    if not any(present.values()):
        places = ", ".join(sorted({os.path.join(writer.to, root) for root in roots.values()}))
        raise UserError(
            f"no video of the annotations has {what} that can be read in {places}; archives and "
            "annotations must be of the same data set"
        )
