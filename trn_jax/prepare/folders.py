"""Looking through folders of videos and of frames, with many thousands of entries."""

import os
from collections.abc import Iterable
from functools import partial

from trn_jax.data.videos import is_video
from trn_jax.errors import UserError
from trn_jax.prepare.processes import Died, in_processes
from trn_jax.prepare.progress import Progress

_CHUNK = 500  # folders that a process counts at a time
_WORTH_PROCESSES = 20_000  # with fewer folders, starting processes takes longer than counting


def count_frames(root, names, *, workers):
    """Count the JPEGs in many folders.

    Args:
        root: folder that has the others.
        names: the others.
        workers: number of processes.

    Returns:
        `{name: number of JPEGs}` of the folders that exist.
    """
    chunks = [tuple(names[i : i + _CHUNK]) for i in range(0, len(names), _CHUNK)]
    count = partial(_count_chunk, root)
    results: Iterable = ((chunk, count(chunk)) for chunk in chunks)
    if workers > 1 and len(names) >= _WORTH_PROCESSES:
        results = in_processes(count, chunks, workers)
    counts = {}
    with Progress(f"Counting frames in {root}", len(names), "videos") as progress:
        for chunk, found in results:
            if isinstance(found, Died):
                raise UserError(
                    "a process that counted frames was killed, perhaps for want of memory; run "
                    "the same command again with a smaller --workers"
                )
            counts.update(found)
            progress.add(len(chunk))
    return counts


def _count_chunk(root, names):
    counts = {}
    for name in names:
        folder = os.path.join(root, name)
        try:
            with os.scandir(folder) as entries:
                counts[name] = sum(entry.name.endswith(".jpg") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UserError(
                f"cannot look into {folder}: {error.strerror}; mend that and run the same command "
                "again"
            ) from None
    return counts


def find_videos(root, depth=2):
    """Find the video files in a folder, by their extensions.

    Args:
        root: the folder; one that does not exist has none.
        depth: levels of folders in it that are looked through, too.

    Returns:
        Their paths relative to `root`, sorted.
    """
    return sorted(_videos(root, "", depth))


def _videos(root, below, depth):
    for entry in _entries(os.path.join(root, below)):
        path = os.path.join(below, entry.name)
        if entry.is_dir():
            if depth:
                yield from _videos(root, path, depth - 1)
        elif is_video(entry.name):
            yield path


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
