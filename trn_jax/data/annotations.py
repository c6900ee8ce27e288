"""Lists of labelled videos, and the names of their classes."""

import dataclasses
import os

from trn_jax.errors import UserError

_SHOWN_PROBLEMS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One labelled video.

    Attributes:
        index: its position in the list, from 0.
        folder: folder of its frames.
        num_frames: number of frames, at least 1.
        label: number of its class, from 0.
    """

    index: int
    folder: str
    num_frames: int
    label: int


def read_list(path, *, frames_root, num_classes):
    """Read lines `<folder> <num_frames> <label>`, the format of mmaction2 and TRN-pytorch.

    Args:
        path: the list.
        frames_root: what relative folders in the list are relative to.
        num_classes: labels must be below this.

    Returns:
        A list of `Record`.

    Raises:
        UserError: the list is missing, empty, or has malformed lines (all are reported at once).
    """
    lines = _read_lines(path, "list of videos")
    records: list[Record] = []
    problems = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            folder, num_frames, label = line.rsplit(None, 2)
            count, label = int(num_frames), int(label)
        except ValueError:
            problems.append(f"line {number}: {line!r} is not '<folder> <num_frames> <label>'")
            continue
        if count < 1:
            problems.append(f"line {number}: {folder} has {count} frames, expected at least 1")
        if not 0 <= label < num_classes:
            problems.append(
                f"line {number}: label {label} of {folder} is not in 0..{num_classes - 1} "
                f"(num_classes is {num_classes})"
            )
        records.append(Record(len(records), os.path.join(frames_root, folder), count, label))
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        raise UserError(
            f"{path} has {len(problems)} wrong lines:\n  "
            + "\n  ".join(problems[:_SHOWN_PROBLEMS])
            + (f"\n  and {more} more" if more > 0 else "")
        )
    if not records:
        raise UserError(f"{path} is empty; expected lines '<folder> <num_frames> <label>'")
    return records


def read_class_names(path):
    """Read class names, one per line in the order of their labels."""
    return [line.strip() for line in _read_lines(path, "class names") if line.strip()]


def _read_lines(path, what):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}; check data_dir and the names in data") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}") from None
