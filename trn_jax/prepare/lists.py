"""Lists of labelled videos in the two label orders of the field.

mmaction2 numbers the classes of Something-Something V1 and of Jester in the official order, that of
the lines of the file with the labels; TRN-pytorch and its version for MindSpore in alphabetical
order. The same list and the same weights mean other classes in the other order, so the names of the
classes are written beside every list.
"""

import dataclasses
import os

from trn_jax.errors import UserError
from trn_jax.prepare.folders import count_frames, find_videos

ORDERS = ("official", "alphabetical")
_SPLITS = {"train": "training", "val": "validation"}
_SHOWN_PROBLEMS = 5


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

    Raises:
        UserError: there is no class, one is named twice, or videos are of unknown classes.
    """

    class_names: list[str]
    splits: dict[str, list[Video]]
    source: str

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

    def write(self, outcome, class_names, train, val):
        """Write the three files from their lines with an `Outcome`."""
        for name, lines in ((self.classes, class_names), (self.train, train), (self.val, val)):
            outcome.write(name, self.text(lines))

    def text(self, lines):
        """Lines as the content of a file."""
        return "\n".join(lines) + ("\n" if lines and self.final_newline else "")


# What TRN-pytorch calls its lists, which are in alphabetical order.
TRN_LISTS = ListFiles(
    "train_videofolder.txt", "val_videofolder.txt", "category.txt", final_newline=False
)


def write_frame_lists(outcome, annotations, roots, files, orders, *, workers):
    """Write lists `<folder> <number of frames> <label>`.

    Args:
        outcome: the `Outcome` to write with.
        annotations: the `Annotations`.
        roots: folder of the frame folders of each split, below that of the data set.
        files: `{label order: ListFiles}`.
        orders: which of them to write.
        workers: processes that count frames.

    Raises:
        UserError: no video has frames.
    """
    counts = {
        split: count_frames(
            os.path.join(outcome.to, roots[split]), [v.name for v in videos], workers=workers
        )
        for split, videos in annotations.splits.items()
    }
    what = "frames", "a folder of frames"
    _write(outcome, annotations, roots, files, orders, counts, what, "{name} {found}".format)


def write_video_lists(outcome, annotations, roots, files, orders):
    """Write lists `<file> <label>` of the videos that are there, as `write_frame_lists`."""
    paths = {
        split: {
            os.path.splitext(path)[0]: path for path in find_videos(os.path.join(outcome.to, root))
        }
        for split, root in roots.items()
    }
    what = "files", "a file"
    _write(outcome, annotations, roots, files, orders, paths, what, "{found}".format)


def _write(outcome, annotations, roots, files, orders, found, what, columns):
    """Write lists of the videos that something was found of: `found`, `{split: {name: that}}`.

    All columns but that of the label come from `columns(name=..., found=...)`.
    """
    present = {
        split: _present(outcome, annotations, split, found[split], what[0]) for split in _SPLITS
    }
    _check_any(present, outcome, roots, what[1])
    for order in orders:
        names = annotations.ordered(order)
        labels = {name: label for label, name in enumerate(names)}
        train, val = (
            [
                f"{columns(name=video.name, found=found[split][video.name])} {labels[video.label]}"
                for video in present[split]
            ]
            for split in _SPLITS
        )
        files[order].write(outcome, names, train, val)


def _present(outcome, annotations, split, found, what):
    """The videos of a split that are on the disk: what was found for them is neither 0 nor ""."""
    videos = annotations.splits[split]
    present = [video for video in videos if found.get(video.name)]
    called = _SPLITS[split]
    outcome.note(f"{called}: {what} of {len(present):,} of {len(videos):,} videos")
    missing = [video.name for video in videos if video.name not in found]
    outcome.skip(f"{called} videos without {what}, which are not there", missing)
    empty = [video.name for video in videos if found.get(video.name) == 0]
    outcome.skip(f"{called} videos with an empty folder", empty)
    return present


def _check_any(present, outcome, roots, what):
    if not any(present.values()):
        places = ", ".join(sorted({os.path.join(outcome.to, root) for root in roots.values()}))
        raise UserError(
            f"no video of the annotations has {what} in {places}; archives and annotations must "
            "be of the same data set"
        )
