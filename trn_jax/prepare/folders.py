"""Search for videos in folders with many thousands of entries."""

import dataclasses
import os
import pathlib

from trn_jax.data.frame_folders import guess_pattern
from trn_jax.data.videos import is_video
from trn_jax.errors import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
# Left behind by operating systems and archive programs.
_CLUTTER = {
    *("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"),
    *("system volume information", "lost+found"),
}


@dataclasses.dataclass
class FoundFiles:
    """Contents of a folder, as sorted paths relative to it.

    Attributes:
        videos: video files and folders of frames.
        others: other files.
        folders: folders that are not folders of frames.
        broken: `(path, reason)` of broken links, pipes and devices.
        closed: `(path, reason)` of unreadable folders.
        repeated: links to folders that were searched already, or that contain this one.
    """

    videos: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    folders: list[str] = dataclasses.field(default_factory=list)
    broken: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    closed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    repeated: list[str] = dataclasses.field(default_factory=list)


def search(root, *, depth=None, leave_out="", frames=True):
    """Search a folder and its subfolders for videos.

    Links to folders are followed last, and no folder is searched twice, so loops of links end.
    Hidden files and system files (`._clip.mp4`, `.DS_Store`, `Thumbs.db`, `__MACOSX`) are skipped.

    Args:
        root: the folder.
        depth: levels of subfolders to search; `None` for all.
        leave_out: a folder to skip.
        frames: whether folders of numbered images count as videos.

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
    """Find video files by extension in `root`, which may be missing, and `depth` levels below.

    Returns:
        Sorted paths relative to `root`.

    Raises:
        UserError: a folder is unreadable.
    """
    if not os.path.exists(root):
        return []
    found = search(root, depth=depth, frames=False)
    for path, reason in found.closed:
        raise UserError(
            f"{os.path.join(root, path)} {reason}; correct that and run the same command again"
        )
    # Broken ones stay in: opening them raises an error that names them.
    return sorted(found.videos + [path for path, _ in found.broken if is_video(path)])


def visible_entries(folder):
    """Entries of a folder except clutter, as `os.DirEntry`s sorted by name."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not is_clutter(e.name)), key=lambda e: e.name)


def is_clutter(name):
    """Whether a file or folder is hidden or a system file."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_image(name):
    """Whether a file is an image by its extension."""
    return name.lower().endswith(IMAGES)


def _identity(folder):
    """Device and inode of a folder; its path if it is unreadable."""
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
    if any(map(_is_folder, entries)):  # a cover image beside folders is no video
        return len(images) > 1 and all(map(guess_pattern, images))
    return bool(images)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _add_file(found, path, entry):
    # Most file systems list the types of entries, which saves a `stat` for each.
    if (not entry.is_symlink() and entry.is_file()) or os.path.isfile(entry.path):
        (found.videos if is_video(entry.name) else found.others).append(path)
    elif entry.is_symlink() and not os.path.exists(entry.path):
        found.broken.append((path, f"is a broken link, to {os.readlink(entry.path)}"))
    else:
        found.broken.append((path, "is a pipe, a socket or a device"))
