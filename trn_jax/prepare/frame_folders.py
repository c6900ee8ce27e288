"""Folders of frames: names of frames, gaps, and fast listing of many thousands."""

import dataclasses
import os
from functools import partial

from trn_jax.data.frame_folders import guess_pattern
from trn_jax.errors import UserError
from trn_jax.prepare.folders import is_clutter, is_image
from trn_jax.prepare.worker_pool import Died, for_each
from trn_jax.progress import Progress

FOLDERS_PER_TASK = 500  # folders that a process lists at a time
MIN_PARALLEL = 20_000  # with fewer folders, starting processes takes longer than listing


@dataclasses.dataclass(frozen=True)
class FrameFolder:
    """A folder of frames without gaps.

    Attributes:
        num_frames: number of frames.
        pattern: file name of a frame for its number.
        first_frame: number of the first frame.
    """

    num_frames: int
    pattern: str
    first_frame: int


def frame_folder(names, usual=""):
    """Recognize the frames among the file names in a folder.

    Files that match the `usual` pattern are the frames, and other images, such as those of optical
    flow, are not. If none matches, the first image gives the pattern.

    Returns:
        A `FrameFolder`, or the reason why it is unreadable, such as a missing frame.
    """
    # Nearly all folders, in a fraction of the time.
    if names and set(names) == {usual.format(number) for number in range(1, len(names) + 1)}:
        return FrameFolder(len(names), usual, 1)
    images = [name for name in names if is_image(name) and not is_clutter(name)]
    if not images:
        return "a folder without images"
    pattern = usual
    numbers = {name: n for name in images if (n := _number(name)) is not None}
    frames = {name: n for name, n in numbers.items() if usual.format(n) == name}
    if not frames:
        pattern = guess_pattern(min(images))
        if pattern is None:
            return f"its first image, {min(images)!r}, has no number"
        frames = numbers
    first = min(frames.values())
    for number in range(first, first + len(frames)):
        if pattern.format(number) not in frames:
            return f"there is no frame {pattern.format(number)!r} among its {len(frames)} images"
    return FrameFolder(len(frames), pattern, first)


def _number(name):
    """The number that a file name ends in, or `None`."""
    stem = name[: name.rfind(".")]
    digits = stem[len(stem.rstrip("0123456789")) :]
    return int(digits) if digits else None


def list_frames(root, names, *, workers, usual=""):
    """List the frames in many folders in `root`: `{name: FrameFolder, or a reason}`.

    Missing folders are left out; for `usual`, see `frame_folder`.
    """
    chunks = [
        tuple(names[i : i + FOLDERS_PER_TASK]) for i in range(0, len(names), FOLDERS_PER_TASK)
    ]
    list_chunk, min_chunks = partial(_list_chunk, root, usual), MIN_PARALLEL // FOLDERS_PER_TASK
    folders = {}
    with Progress(f"Listing frames in {root}", len(names), "videos") as progress:
        for chunk, found in for_each(list_chunk, chunks, workers, min_items=min_chunks):
            if isinstance(found, Died):
                raise UserError(
                    "a process that listed frames was killed, perhaps for lack of memory; run the "
                    "same command again with a smaller --workers"
                )
            folders.update(found)
            progress.add(len(chunk))
    return folders


def _list_chunk(root, usual, names):
    folders = {}
    for name in names:
        folder = os.path.join(root, name)
        try:
            folders[name] = frame_folder(os.listdir(folder), usual)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unlistable(folder, error) from None
    return folders


def find_folders(root, names):
    """Find folders by name in `root`, which may be missing, and in its subfolders.

    Returns:
        `{name: path relative to root}` of those found.
    """
    names = set(names)
    found = {}
    for entry in _entries(root):
        if entry.name in names:
            found[entry.name] = entry.name
        elif entry.is_dir():
            inner = (inner.name for inner in _entries(entry.path))
            found.update((name, os.path.join(entry.name, name)) for name in inner if name in names)
    return found


def _entries(folder):
    """The entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unlistable(folder, error) from None


def _unlistable(folder, error):
    return UserError(
        f"cannot list {folder}: {error.strerror}; correct that and run the same command again"
    )
