"""Charades: frames at 24 per second, and the actions in every video with their times.

    Charades_v1_rgb/<video>/000001.jpg ...          annotations/Charades_v1_*
    categories.txt                                  the order of the class numbers, c000 first
    {train,test}_segments.txt                       lines <video> <first frame> <last frame> <label>
    {train,test}_frameno.txt                        lines <video> <number of frames>
    charades_{train,val}_list_rawframes.txt         lines <video> <number of frames> <label> ...

The segments are those of TRN, one per action. Training reads the last two lists, which have every
video once, with the labels of all its actions; the test videos of Charades are the validation set.
"""

import os
import pathlib
import re

from trn_jax.data.datasets import DATASETS
from trn_jax.errors import UserError
from trn_jax.files import read_stripped_lines
from trn_jax.prepare import annotation_files, lists, split_tar, unpacking
from trn_jax.prepare.dataset_writer import DatasetWriter
from trn_jax.prepare.list_files import default_files

_CHARADES = DATASETS["charades"]
_ARCHIVE = "Charades_v1_rgb"
_FILES = default_files("charades")
_CLASSES = "Charades_v1_classes.txt"
_TABLES = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}
_FRAMES_PER_SECOND = 24
_MIN_FRAMES = 5  # segments that end at most so many frames after their first one are left out


def prepare_charades(folder, to, *, workers, orders, check=True):
    """Unpack Charades and write its lists; see `prepare.PREPARATIONS`.

    Classes are numbered, so the only label order is "official".
    """
    if "official" not in orders:
        raise UserError(
            "the classes of Charades have numbers, c000 to c156, which are their labels everywhere;"
            " leave out --order"
        )
    writer = DatasetWriter(to)
    writer.changed |= unpacking.unpack(
        to, _ARCHIVE, lambda: split_tar.find_tar(folder, _ARCHIVE), _place, tree=_CHARADES.frames
    )
    writer.has(_CHARADES.frames)
    names = (_CLASSES, *_TABLES.values())
    paths = annotation_files.collect(
        writer, folder, "annotations", dict.fromkeys(names, ()), packed_in="Charades.zip"
    )
    class_names, labels = _read_classes(paths[_CLASSES])
    root = os.path.join(to, _CHARADES.frames)
    videos = {split: _read_videos(paths[table], labels) for split, table in _TABLES.items()}
    _check_frame_names(root, [name for split in videos.values() for name in split])
    roots = dict.fromkeys(_TABLES, _CHARADES.frames)
    counts, reasons = lists.find_frames(writer, "charades", roots, videos, workers=workers)
    lines = {
        split: _write_split(writer, split, found, counts[split], reasons[split], class_names)
        for split, found in videos.items()
    }
    if not any(lines.values()):
        raise UserError(
            f"no video of the annotations has frames and an action in {root}; archives and "
            "annotations must be of the same data set"
        )
    _FILES.write(writer, class_names, lines["train"], lines["test"])
    writer.then_train(
        "trn_sthv1",
        "charades",
        [_FILES],
        num_classes=len(class_names),
        recipe_classes=174,
        name_dataset=True,
        multi_label=True,
    )
    writer.list_left_out()
    return writer


def _place(name):
    """Strip the video from the names of its frames: `<video>/<video>-000001.jpg`."""
    path = pathlib.PurePosixPath(name)
    parts = path.parts[1:] if path.parts[0] == _ARCHIVE else path.parts
    frame = path.name.removeprefix(f"{path.parent.name}-")
    return os.path.join(_CHARADES.frames, *parts[:-1], frame)


def _check_frame_names(root, videos):
    """Check that frames unpacked by other means have no video in their names."""
    video = next((v for v in videos if os.path.isdir(os.path.join(root, v))), "")
    usual = _CHARADES.frame_pattern.format(1)
    if video and os.path.exists(os.path.join(root, video, f"{video}-{usual}")):
        raise UserError(
            f"{os.path.join(root, video)} has no {usual}, but {video}-{usual}; rename the frames, "
            f"or remove {root}, so that this command unpacks the archive and renames them"
        )


def _read_classes(path):
    """Read class names, and `{"c000": 0, ...}`, from lines `c000 <name>`."""
    names: list[str] = []
    labels: dict[str, int] = {}
    problems = []
    for number, line in enumerate(read_stripped_lines(path), start=1):
        code, _, name = line.partition(" ")
        if re.fullmatch(r"c\d+", code) and code not in labels and name:
            labels[code] = len(names)
            names.append(name.strip())
        else:
            problems.append(f"line {number}: {line!r}")
    if problems or not names:
        raise annotation_files.malformed(path, problems, "c000 <name>")
    return names, labels


def _read_videos(path, labels):
    """Read `{video: [(start, end, label), ...]}`, in seconds, from a table.

    Its column `actions` is like `c092 11.90 21.20;c147 0.00 12.60`.
    """
    videos, problems = {}, []
    for row in annotation_files.read_csv(path, ("id", "actions")):
        actions = [action for action in row["actions"].split(";") if action.strip()]
        try:
            videos[row["id"]] = [_read_action(action, labels) for action in actions]
        except (ValueError, KeyError):
            problems.append(f"{row['id']}: {row['actions']!r}")
    if problems:
        raise annotation_files.malformed(path, problems, "actions 'c000 <start> <end>;...'")
    annotation_files.check_names(path, videos)
    return videos


def _read_action(text, labels):
    code, start, end = text.split()
    return float(start), float(end), labels[code]


def _write_split(writer, split, videos, counts, reasons, class_names):
    """Write the segments of a split; returns the lines of its list of videos."""
    missing = {
        os.path.join(_CHARADES.frames, video): "; ".join(
            class_names[label] for label in _labels(actions)
        )
        for video, actions in videos.items()
        if video not in counts and video not in reasons
    }
    writer.miss(f"{split} videos without frames", missing)
    broken = {os.path.join(_CHARADES.frames, video): reason for video, reason in reasons.items()}
    writer.cannot_read(f"{split} videos that cannot be read", broken)
    official = lists.OFFICIAL_COUNTS["charades"]["train" if split == "train" else "val"]
    lists.compare_count(writer, split, len(videos), official)
    present = {video: actions for video, actions in videos.items() if video in counts}
    writer.skip(f"{split} videos without an action", [v for v in present if not present[v]])
    segments = [
        f"{video} {segment[0]} {segment[1]} {label}"
        for video, actions in present.items()
        for start, end, label in actions
        if (segment := _segment(start, end, counts[video]))
    ]
    writer.write(f"{split}_segments.txt", "\n".join(segments))
    writer.write(f"{split}_frameno.txt", "\n".join(f"{v} {counts[v]}" for v in present))
    num_actions = sum(map(len, present.values()))
    writer.note(
        f"{split}: frames of {len(present):,} of {len(videos):,} videos, {len(segments):,} of "
        f"{num_actions:,} actions long enough for a segment"
    )
    return [
        " ".join(map(str, (video, counts[video], *_labels(actions))))
        for video, actions in present.items()
        if actions
    ]


def _segment(start, end, num_frames):
    """First and last frame of an action, from 1; `None` if it is too short."""
    first = max(int(min(start * _FRAMES_PER_SECOND, num_frames)), 1)
    last = int(min(end * _FRAMES_PER_SECOND, num_frames))
    return (first, last) if last - first > _MIN_FRAMES else None


def _labels(actions):
    """The labels of actions without repetitions."""
    return list(dict.fromkeys(label for _, _, label in actions))
