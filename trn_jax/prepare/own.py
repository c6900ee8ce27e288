"""Own videos: from folders of classes, a table or a list to what a recipe reads.

What there may be:

    <folder>/<class>/<video>.mp4                 or folders of frames in the place of videos
    <folder>/train/<class>/..., <folder>/val/<class>/...
    <table>.csv       a video and the name of its class per line, and perhaps "train" or "val"
    <list>.txt        lines "<video> <class>", as mmaction2 has them

What comes out, beside a link to the videos, which stay where they are: `train_list.txt`,
`val_list.txt` and `label_map.txt`; and, if videos cannot be read, `unreadable.txt`, with lines
`<video><tab><reason>`.
"""

import csv
import dataclasses
import io
import os
import re
from functools import partial

import numpy as np

from trn_jax.data.datasets import Dataset
from trn_jax.data.decode import FrameError, guess_pattern
from trn_jax.data.videos import EXTENSIONS, VideoFiles, is_video, probe
from trn_jax.errors import UserError, listed
from trn_jax.prepare.names import is_line, printable
from trn_jax.prepare.outcome import Outcome, train_command
from trn_jax.prepare.processes import Died, in_processes
from trn_jax.prepare.progress import Progress

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "test", "testing"), "val"),
}
_HEADERS = {
    "path": ("path", "video", "file", "filename", "video_path", "name"),
    "label": ("label", "class", "category", "class_name"),
    "split": ("split", "subset", "set"),
}
_UNREADABLE = "unreadable.txt"
_WORTH_PROCESSES = 200  # with fewer videos, starting processes takes longer than opening them


@dataclasses.dataclass(frozen=True)
class Item:
    """A video with the name of its class.

    Attributes:
        path: relative to the folder of the videos.
        label: name of its class.
        split: "train", "val", or "" where that is still to be decided.
    """

    path: str
    label: str
    split: str = ""


def prepare(source, to, *, val_share=0.2, seed=0, workers=1):
    """Write the lists of own videos.

    Args:
        source: folder of class folders, `.csv` or `.txt`, see above.
        to: folder of the data set.
        val_share: share of the videos of each class for validation, unless the source says which.
        seed: of the choice of those.
        workers: processes that open videos.

    Returns:
        An `Outcome`.

    Raises:
        UserError: there is nothing that can be used, or the source is not as expected.
    """
    if not 0 < val_share < 1:
        raise UserError(f"--val-share={val_share} must be a share between 0 and 1, such as 0.2")
    outcome = Outcome(to)
    root, items = _find(outcome, os.path.abspath(source), os.path.abspath(to))
    items = _checked(source, items)
    found = _open_all(outcome, root, items, workers)
    kinds = {details.kind for details in found.values()}
    if len(kinds) > 1:
        raise UserError(
            f"{source} has both video files and folders of frames; keep one kind, or turn the "
            "videos into frames with scripts/extract_frames.py"
        )
    outcome.naming = _naming(found)
    labels = {name: label for label, name in enumerate(_class_names(found))}
    if len(labels) < 2:
        raise UserError(
            f"{source} has videos of one class only, {next(iter(labels))!r}; there must be a "
            "folder for each of several classes"
        )
    splits = _split(outcome, found, val_share, seed)
    kind = kinds.pop()
    _link(outcome, root, "videos" if kind == "video" else "rawframes")
    for split, chosen in splits.items():
        lines = [found[item].line(item.path, labels[item.label]) for item in chosen]
        outcome.write(f"{split}_list.txt", "".join(f"{line}\n" for line in lines))
        outcome.note(f"{split}: {len(chosen):,} videos")
    outcome.write("label_map.txt", "".join(f"{name}\n" for name in labels))
    outcome.note(f"{len(labels)} classes")
    command = train_command("finetune")
    command += [f"--config.data_dir={to}", f"--config.model.num_classes={len(labels)}"]
    command += [f"--workdir=runs/{os.path.basename(os.path.abspath(to))}"]
    outcome.then(*command, *(f"--config.data.{k}={v}" for k, v in outcome.naming.items()))
    outcome.note("weights to start from: add --config.init_from=<file> to the command")
    return outcome


# What there is -----------------------------------------------------------------------------------


def _find(outcome, source, to):
    """The folder that paths are relative to, and all items."""
    if os.path.isdir(source):
        return source, _in_class_folders(outcome, source, to)
    if not os.path.exists(source):
        raise UserError(f"{source} not found; expected a folder of class folders, a .csv or a .txt")
    readers = {".csv": _in_table, ".txt": _in_list}
    reader = readers.get(os.path.splitext(source)[1].lower())
    if reader is None:
        raise UserError(
            f"{source} is neither a folder of class folders nor a table (.csv) or list (.txt)"
        )
    items = reader(source)
    if not items:
        raise UserError(f"{source} is empty; expected a video and its class per line")
    return os.path.dirname(source), items


def _checked(source, items):
    """The items without repetitions; refuses what would become other labels, or two of them."""
    labels: dict[str, str] = {}
    problems = []
    for item in items:
        if not is_line(item.label):
            problems.append(f"the name of the class {item.label!r} is no single line of text")
        elif labels.setdefault(item.path, item.label) != item.label:
            classes = f"{labels[item.path]!r} and {item.label!r}"
            problems.append(f"{item.path} is of two classes, {classes}")
    if problems:
        found = listed(list(dict.fromkeys(problems)))
        raise UserError(f"{source} cannot be used, correct it:{found}")
    return list(dict.fromkeys(items))


def _in_class_folders(outcome, root, to):
    top = _folders(root, to)
    given = {name: _SPLITS[name.lower()] for name in top if name.lower() in _SPLITS}
    if set(given.values()) == {"train", "val"}:
        places = [
            (os.path.join(part, label), label, split)
            for part, split in given.items()
            for label in _folders(os.path.join(root, part), to)
        ]
    else:
        places = [(label, label, "") for label in top]
    items, others = [], []
    for folder, label, split in places:
        videos, strangers = _videos(os.path.join(root, folder))
        items += [Item(os.path.join(folder, name), label, split) for name in videos]
        others += [os.path.join(folder, name) for name in strangers]
    if not items:
        raise UserError(
            f"no videos in {root}: expected a folder per class, with video files "
            f"({', '.join(EXTENSIONS)}) or folders of frames in it"
            + (f"; found {len(others)} other files, such as {others[0]}" if others else "")
        )
    outcome.skip(f"files that are no videos by their names ({', '.join(EXTENSIONS)})", others)
    empty = {label for _, label, _ in places} - {item.label for item in items}
    outcome.skip("folders without videos, which are no classes then", sorted(empty))
    return items


def _folders(root, to):
    """The folders in a folder, in order, without hidden ones and the one that is written to."""
    with os.scandir(root) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir() and entry.name[0] != "." and os.path.abspath(entry.path) != to
        )


def _videos(folder):
    """What can be a video in the folder of a class, video files and folders; and what cannot."""
    with os.scandir(folder) as found:
        entries = [entry for entry in found if entry.name[0] != "."]
    videos = {entry.name for entry in entries if entry.is_dir() or is_video(entry.name)}
    return sorted(videos), sorted({entry.name for entry in entries} - videos)


def _read_text(path):
    """A table or list as text, with any line ends, with or without a byte order mark."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as that, "
            "which spreadsheets call 'CSV UTF-8'"
        ) from None


def _in_table(path):
    text = _read_text(path)
    # Where commas stand in numbers, spreadsheets put semicolons between cells.
    first = text.partition("\n")[0]
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    table = csv.reader(io.StringIO(text), delimiter=separator)
    try:
        rows = [row for row in table if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path} is no table: {error}") from None
    if not rows:
        return []
    columns = {
        name: next((i for i, cell in enumerate(rows[0]) if cell.strip().lower() in known), None)
        for name, known in _HEADERS.items()
    }
    if columns["path"] is None or columns["label"] is None:
        columns = {"path": 0, "label": 1, "split": 2 if len(rows[0]) > 2 else None}
    else:
        rows = rows[1:]
    items = []
    for number, row in enumerate(rows, start=1):
        known = {name: i for name, i in columns.items() if i is not None and i < len(row)}
        cells = {name: row[i].strip() for name, i in known.items()}
        split = cells.get("split", "").lower()
        if not cells.get("path") or not cells.get("label") or (split and split not in _SPLITS):
            raise UserError(
                f"row {number} of {path} is {','.join(row)!r}; expected a video, its class and "
                "perhaps 'train' or 'val'"
            )
        items.append(Item(cells["path"], cells["label"], _SPLITS.get(split, "")))
    return items


def _in_list(path):
    items = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name:
            raise UserError(f"line {number} of {path} is {line!r}; expected '<video> <class>'")
        items.append(Item(name.strip(), label))
    return items


# What can be read --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Details:
    """What opening a video told: its kind, and of folders of frames their number and names."""

    kind: str
    num_frames: int
    pattern: str = ""
    first_frame: int = 1
    notes: tuple[str, ...] = ()

    def line(self, path, label):
        """The line of a list."""
        return f"{path} {label}" if self.kind == "video" else f"{path} {self.num_frames} {label}"


def _open_all(outcome, root, items, workers):
    """Open all videos, and say which cannot be: `{item: _Details}`, in the order of the items."""
    if any(is_video(item.path) for item in items):
        VideoFiles()  # says what to install
    look = partial(_look, root)
    results = ((item, look(item)) for item in items)
    if workers > 1 and len(items) >= _WORTH_PROCESSES:
        results = in_processes(look, items, workers)
    found, broken = {}, {}
    with Progress(f"Opening the videos in {root}", len(items), "videos") as progress:
        for item, result in results:
            if isinstance(result, _Details):
                found[item] = result
            else:
                killed = "its decoder crashed" if isinstance(result, Died) else result
                broken[item] = killed
            progress.add(1)
    reasons = [(item.path, broken[item]) for item in items if item in broken]
    shown = [f"{path} ({reason})" for path, reason in reasons]
    if not found:
        raise UserError(
            f"none of the {len(items)} videos in {root} can be read, such as {shown[0]}"
        )
    outcome.skip("videos that cannot be read", shown, _UNREADABLE)
    notes = [printable(note) for item in items if item in found for note in found[item].notes]
    if notes:
        outcome.note(f"{len(notes):,} notes on videos that are used all the same:{listed(notes)}")
    if reasons:
        lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in reasons)
        outcome.write(_UNREADABLE, "".join(lines))
    else:
        outcome.remove(_UNREADABLE)
    return {item: found[item] for item in items if item in found}


def _look(root, item):
    """Open a video: `_Details`, or what is wrong with it."""
    path = os.path.join(root, item.path)
    if not is_line(item.path):
        return "its name is no single line of text in UTF-8, as lists must have; rename it"
    try:
        if os.path.isdir(path):
            return _look_at_frames(path)
        found = probe(path)
        return _Details("video", found.num_frames, notes=found.notes)
    except FrameError as error:
        return str(error)


def _look_at_frames(folder):
    files = sorted(name for name in os.listdir(folder) if name.lower().endswith(_IMAGES))
    if not files:
        return "a folder without images"
    pattern = guess_pattern(files[0])
    if pattern is None:
        return f"its first image, {files[0]!r}, has no number"
    first = int(re.findall(r"\d+", os.path.splitext(files[0])[0])[-1])
    expected = {pattern.format(first + index) for index in range(len(files))}
    missing = sorted(expected - set(files))
    if missing:
        return f"there is no frame {missing[0]!r} among its {len(files)} images"
    return _Details("frames", len(files), pattern, first)


def _naming(found):
    """How frames are called, if not as in the catalogue; folders that differ are an error."""
    names = {(d.pattern, d.first_frame): item for item, d in found.items() if d.kind == "frames"}
    if len(names) > 1:
        shown = "; ".join(
            f"{pattern!r} from {first} on in {item.path}"
            for (pattern, first), item in sorted(names.items())
        )
        raise UserError(f"folders call their frames differently: {shown}; rename some of them")
    usual = Dataset()
    naming: dict[str, str | int] = {}
    for pattern, first in names:
        if pattern != usual.frame_pattern:
            naming["frame_pattern"] = pattern
        if first != usual.first_frame:
            naming["first_frame"] = first
    return naming


# Classes and splits ------------------------------------------------------------------------------


def _class_names(found):
    """The classes in order: numbers by their value, names by the alphabet."""
    names = {item.label for item in found}
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _split(outcome, found, val_share, seed):
    """The items of each split; those of unknown split are divided class by class."""
    chosen: dict[str, list[Item]] = {"train": [], "val": []}
    classes: dict[str, list[Item]] = {}
    for item in found:
        if item.split:
            chosen[item.split].append(item)
        else:
            classes.setdefault(item.label, []).append(item)
    alone = []
    for label, items in sorted(classes.items()):
        # Neither the order of the files nor other classes decide.
        order = np.random.default_rng([seed, *label.encode()]).permutation(len(items))
        num_val = min(max(round(val_share * len(items)), 1), len(items) - 1)
        if not num_val:
            alone.append(label)
        val = set(order[:num_val].tolist())
        for index, item in enumerate(sorted(items, key=lambda item: item.path)):
            chosen["val" if index in val else "train"].append(item)
    outcome.skip("classes with one video, which is for training, in validation", alone)
    for split, items in chosen.items():
        if not items:
            raise UserError(f"there are no videos for {split}; each class needs at least two")
    return {split: sorted(items, key=lambda item: item.path) for split, items in chosen.items()}


def _link(outcome, root, name):
    """Make the videos appear in the data set under the name that the catalogue has for them."""
    target = os.path.join(outcome.to, name)
    outcome.has(name)
    if os.path.isdir(target) and os.path.realpath(target) == os.path.realpath(root):
        return
    try:
        os.symlink(root, target)
    except OSError as error:
        raise UserError(
            f"cannot make {target} a link to {root}: {error.strerror}; remove what is there, or "
            "choose another folder with --to"
        ) from None
    outcome.changed = True
