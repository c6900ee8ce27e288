"""Searching folders of videos and of frames, with many thousands of entries."""

import dataclasses
import os
import pathlib
from functools import partial

from trn_jax.data.decode import guess_pattern
from trn_jax.data.videos import is_video
from trn_jax.errors import UserError
from trn_jax.prepare.progress import Progress
from trn_jax.prepare.workers import Died, for_each

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# What operating systems and archive programs leave beside the files of people.
_CLUTTER = {
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found"),
}
_CHUNK = 500  # folders that a process lists at a time
_WORTH_PROCESSES = 20_000  # with fewer folders, starting processes takes longer than listing


# Videos ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class FoundFiles:
    """What a folder holds, in paths relative to it, sorted.

    Attributes:
        videos: video files, and folders of frames.
        others: files that are neither videos nor parts of a folder of frames.
        folders: folders in which videos or other folders can lie.
        broken: `(path, reason)` of links to nothing, pipes and devices.
        closed: `(path, reason)` of folders that can't be read.
        repeated: links to folders that were searched already, or that contain this one.
    """

    videos: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    broken: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    closed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    repeated: list[str] = dataclasses.field(default_factory=list)


def search(root, *, depth=None, leave_out="", frames=True):
    """Search a folder and all folders in it for videos.

    Links to folders are followed, after everything that is there itself, and no folder is searched
    twice, so that a loop of links ends. Hidden files and what systems leave behind (`._clip.mp4`,
    `.DS_Store`, `Thumbs.db`, `__MACOSX`) are passed over.

    Args:
        root: the folder.
        depth: levels of folders that are searched below it; `None` for all.
        leave_out: a folder that isn't searched.
        frames: whether folders of numbered images are videos, which aren't searched.

    Returns:
        `FoundFiles`.
    """
    found = FoundFiles()
    # A link to a folder that contains the root would bring in everything beside the root.
    visited = {_identity(folder) for folder in (leave_out, *_with_parents(root))}
    waiting, links = [("", 0)], list[tuple[str, int]]()
    while waiting or links:
        if not waiting:
            path, level = links.pop(0)
            if _identity(os.path.join(root, path)) in visited:
                found.repeated.append(path)
                continue
            waiting.append((path, level))
        below, level = waiting.pop()
        visited.add(_identity(os.path.join(root, below)))
        try:
            entries = visible_entries(os.path.join(root, below))
        except OSError as error:
            found.closed.append((below, f"can't be read: {error.strerror}"))
            continue
        if below and frames and _is_frames(entries):
            found.videos.append(below)
            continue
        found.folders += [below] if below else []
        for entry in entries:
            path = os.path.join(below, entry.name)
            if not _is_folder(entry):
                _add_file(found, path, entry)
            elif depth is not None and level >= depth:
                continue
            elif entry.is_symlink():
                links.append((path, level + 1))
            elif _identity(entry.path) not in visited:
                waiting.append((path, level + 1))
    for field in dataclasses.fields(found):
        getattr(found, field.name).sort()
    return found


def find_videos(root, depth=2):
    """Find the video files in a folder, by their extensions.

    Args:
        root: the folder; one that doesn't exist has none.
        depth: levels of folders in it that are searched, too.

    Returns:
        Their paths relative to `root`, sorted.

    Raises:
        UserError: a folder can't be read.
    """
    if not os.path.exists(root):
        return []
    found = search(root, depth=depth, frames=False)
    for path, reason in found.closed:
        raise UserError(
            f"{os.path.join(root, path)} {reason}; mend that and run the same command again"
        )
    # Broken ones stay in: opening them raises an error that names them.
    return sorted(found.videos + [path for path, _ in found.broken if is_video(path)])


def visible_entries(folder):
    """The entries of a folder that people put there, as `os.DirEntry`s in order."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not is_clutter(e.name)), key=lambda e: e.name)


def is_clutter(name):
    """Whether a file or folder is hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_image(name):
    """Whether a file is an image of a kind that frames have, by its name."""
    return name.lower().endswith(IMAGES)


def _identity(folder):
    """The identity of a folder under any of its names; its path where it can't be read."""
    try:
        status = os.stat(folder)
    except OSError:
        return folder
    return status.st_dev, status.st_ino


def _with_parents(folder):
    path = pathlib.Path(os.path.realpath(folder))
    return path, *path.parents


def _is_frames(entries):
    """Whether a folder with these entries is a video: numbered images, and no video beside them."""
    if any(is_video(entry.name) for entry in entries):
        return False
    images = [entry.name for entry in entries if is_image(entry.name)]
    if any(map(_is_folder, entries)):  # a cover picture beside folders is no video
        return len(images) > 1 and all(map(guess_pattern, images))
    return bool(images)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _add_file(found, path, entry):
    # Most file systems list the kinds of entries, so that not each needs a `stat`.
    if (not entry.is_symlink() and entry.is_file()) or os.path.isfile(entry.path):
        (found.videos if is_video(entry.name) else found.others).append(path)
    elif entry.is_symlink() and not os.path.exists(entry.path):
        found.broken.append((path, f"is a broken link, to {os.readlink(entry.path)}"))
    else:
        found.broken.append((path, "is no file, but a pipe, a socket or a device"))


# Frames ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FrameFolder:
    """A folder of frames without gaps.

    Attributes:
        num_frames: how many there are.
        pattern: name of a frame for its number.
        first_frame: number of the first frame.
    """

    num_frames: int
    pattern: str
    first_frame: int


def frame_folder(names, usual=""):
    """Recognize the frames among the names in a folder.

    Args:
        names: of its files.
        usual: pattern that the frames have if any file has it; others are no frames then, such as
            those of optical flow. Else the first image has the pattern of all.

    Returns:
        A `FrameFolder`; or the reason why it can't be read, such as a frame that is missing.
    """
    # Nearly all folders, at a fraction of the time.
    if names and set(names) == {usual.format(number) for number in range(1, len(names) + 1)}:
        return FrameFolder(len(names), usual, 1)
    images = [name for name in names if is_image(name) and not is_clutter(name)]
    if not images:
        return "a folder without images"
    pattern = usual
    frames = {name: number for name in images if (number := _number_in(usual, name)) is not None}
    if not frames:
        pattern = guess_pattern(min(images))
        if pattern is None:
            return f"its first image, {min(images)!r}, has no number"
        frames = {name: number for name in images if (number := _number(name)) is not None}
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


def _number_in(pattern, name):
    """The number of the frame of a file name; `None` if it is not of the pattern."""
    number = _number(name)
    return number if number is not None and pattern.format(number) == name else None


def list_frames(root, names, *, workers, usual=""):
    """List the frames in many folders.

    Args:
        root: folder that has the others.
        names: the others.
        workers: number of processes.
        usual: how frames are called, see `frame_folder`.

    Returns:
        `{name: FrameFolder, or a reason}` of the folders that exist.
    """
    chunks = [tuple(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK)]
    function, worth = partial(_list_chunk, root, usual), _WORTH_PROCESSES // _CHUNK
    folders = {}
    with Progress(f"Listing frames in {root}", len(names), "videos") as progress:
        for chunk, found in for_each(function, chunks, workers, worth=worth):
            if isinstance(found, Died):
                raise UserError(
                    "a process that listed frames was killed, perhaps for want of memory; run "
                    "the same command again with a smaller --workers"
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
            raise UserError(
                f"cannot look into {folder}: {error.strerror}; mend that and run the same command "
                "again"
            ) from None
    return folders


def find_folders(root, names):
    """Find folders by their names, in a folder and in those in it.

    Args:
        root: the folder; one that does not exist has none.
        names: of what is looked for.

    Returns:
        `{name: path relative to root}` of those that are there.
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
    """What is in a folder, in order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"cannot look into {folder}: {error.strerror}; mend that and run the same command again"
        ) from None
