"""Extraction of videos to folders of JPEGs.

Every video becomes a folder of the same path without the extension, complete or not there. For
each, `manifest.jsonl` has a line with its hash and settings. At the end, the lines are in the order
of the videos, so interrupted and uninterrupted runs leave the same bytes.
"""

import dataclasses
import json
import math
import os
import re
import shutil
from functools import partial

from trn_jax.data.decode import FrameError
from trn_jax.data.videos import EXTENSIONS, is_video
from trn_jax.errors import UserError
from trn_jax.files import read_json_lines, read_stripped_lines, write_text
from trn_jax.prepare.folders import find_videos
from trn_jax.prepare.frame_writer import write_frames
from trn_jax.prepare.left_out import UNREADABLE, is_line, reason_lines
from trn_jax.prepare.worker_pool import Died, in_processes
from trn_jax.progress import Progress

MANIFEST = "manifest.jsonl"
_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How frames are written.

    Attributes:
        short_side: pixels of the shorter side after scaling; 0 keeps the size.
        quality: of the JPEGs, 1 to 100.
        fps: frames written per second of the video; `None` for all frames.
        pattern: file name of a frame for its number, from 1.

    Raises:
        UserError: a value is impossible.
    """

    short_side: int = 256
    quality: int = 95
    fps: float | None = None
    pattern: str = "img_{:05d}.jpg"

    def __post_init__(self):
        if self.short_side < 0:
            raise UserError(f"--short-side={self.short_side}: expected pixels, or 0 for no change")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality={self.quality}: expected a JPEG quality of 1 to 100")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise UserError(f"--fps={self.fps}: expected a positive number of frames per second")
        self._check_pattern()

    def _check_pattern(self):
        try:
            names = {self.pattern.format(number) for number in (1, 2, 10, 100_000)}
        except (LookupError, ValueError):
            names = set()
        if len(names) < 4 or not all(re.fullmatch(r"[^/\\]+\.jpe?g", name) for name in names):
            raise UserError(
                f"--pattern={self.pattern!r} does not give every number a file name of its own; "
                "expected something like 'img_{:05d}.jpg'"
            )


def find_sources(source):
    """Find the videos to extract.

    Args:
        source: a folder to search; a video file; or a list with the path of a video per line,
            relative to the list, with or without labels.

    Returns:
        `(root, names)`: the videos are `root/name`.

    Raises:
        UserError: no video is found, or two would become the same folder.
    """
    if os.path.isdir(source):
        root, names = source, find_videos(source, depth=8)
    elif is_video(source):
        root, name = os.path.split(source)
        names = [name]
    elif not os.path.exists(source):
        raise UserError(f"{source} not found; expected a folder, a video or a list of videos")
    else:
        root, names = _read_list(source)
    if not names:
        raise UserError(
            f"no videos found in {source}; expected files that end in {', '.join(EXTENSIONS)}"
        )
    _check_folders(root, names)
    return root, names


def _check_folders(root, names):
    """Check that every video gets a folder of its own, outside of the others."""
    videos: dict[str, str] = {}
    for name in names:
        other = videos.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            raise UserError(
                f"{other} and {name} in {root} would become the same folder; rename one of them"
            )
    for name in names:
        folder = os.path.dirname(name)
        if folder in videos:
            raise UserError(
                f"the folder of {name} in {root} has the name of the frames of {videos[folder]}; "
                "rename one of them"
            )


def _read_list(path):
    lines = read_stripped_lines(path)
    folder = os.path.dirname(os.path.abspath(path))
    paths = [os.path.join(folder, _without_labels(folder, line)) for line in lines]
    videos = [os.path.normpath(path) for path in paths]
    # Names below the list stay as they are; others lose their common folder.
    if all(video.startswith(os.path.join(folder, "")) for video in videos):
        root = folder
    else:
        root = os.path.commonpath([os.path.dirname(video) for video in videos])
    return root, list(dict.fromkeys(os.path.relpath(video, root) for video in videos))


def _without_labels(folder, line):
    """Strip numbers until a file is found, as a path may have spaces and digits itself."""
    path = line
    while not os.path.exists(os.path.join(folder, path)):
        path, _, field = path.rpartition(" ")
        if not field.isdecimal():
            return re.sub(r"( +\d+)+$", "", line)
    return path


def extract(root, names, to, settings, *, workers, report):
    """Write the frames of videos, except those that are complete.

    Args:
        root: folder of the videos.
        names: their paths below it.
        to: folder of the folders of frames.
        settings: `Settings`.
        workers: processes that decode.
        report: called with a line for every unreadable video, and for every one that has lost
            frames, has several video streams or changes its frame size.

    Returns:
        `(number of videos written, number of complete ones, {unreadable video: reason})`.

    Raises:
        UserError: frames with other settings or of unknown origin are there, or the disk is full.
    """
    done = _read_manifest(to, settings)
    waiting = [name for name in names if not _is_done(root, name, to, done)]
    unknown = [n for n in waiting if n not in done and os.path.isdir(_folder(to, n))]
    if unknown:
        raise UserError(
            f"{len(unknown)} folders in {to} are not in {MANIFEST}: {', '.join(unknown[:3])}; move "
            "them, or choose another folder"
        )
    unreadable: dict[str, str] = {}
    if waiting:
        _write_manifest(to, done)  # without a truncated last line
    work = partial(_extract_one, root, to, settings)
    with (
        Progress("Extracting frames", len(waiting), "videos") as progress,
        open(os.path.join(to, MANIFEST), "a", encoding="utf-8") as manifest,
    ):
        for name, entry in in_processes(work, waiting, workers):
            if isinstance(entry, Died):
                entry = "the process that decoded it died, twice"
            if isinstance(entry, str):
                unreadable[name] = entry
                report(f"unreadable: {os.path.join(root, name)}: {entry}")
            else:
                # The line comes first: a folder without a line would be of unknown origin.
                print(json.dumps(entry), file=manifest, flush=True)
                _publish(_folder(to, name))
                done[name] = entry
                for note in entry.get("notes", ()):
                    report(f"note: {note}")
            progress.add()
    _finish(to, done, unreadable)
    num_written = len(waiting) - len(unreadable)
    return num_written, len(names) - len(waiting), unreadable


def _folder(to, name):
    return os.path.join(to, os.path.splitext(name)[0])


def _is_done(root, name, to, done):
    entry = done.get(name)
    if entry is None or not os.path.isdir(_folder(to, name)):
        return False
    path = os.path.join(root, name)
    return not os.path.exists(path) or os.path.getsize(path) == entry["bytes"]


def _publish(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(folder + _PARTIAL, folder)


def _extract_one(root, to, settings, name):
    """Write the frames of a video to a partial folder; returns its entry, or why it is unreadable.

    Runs in a worker process.
    """
    if not is_line(name):
        return "has a name that is not a single line of UTF-8 text; rename it"
    path = os.path.join(root, name)
    partial_folder = _folder(to, name) + _PARTIAL
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        os.makedirs(partial_folder)
        entry = write_frames(path, partial_folder, settings)
    except FrameError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        return str(error).replace(f"{path} ", "", 1).replace(f" {path}", "", 1)
    except OSError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise UserError(
            f"cannot write the frames of {path} to {partial_folder}: {error.strerror or error}; "
            "make room or choose another place, and run the same command again to resume"
        ) from None
    return {"video": name, **entry, "settings": dataclasses.asdict(settings)}


# Manifest


def _read_manifest(to, settings):
    """Read `{video: entry}`, without truncated lines."""
    path = os.path.join(to, MANIFEST)
    lines, _ = read_json_lines(path, video=str) if os.path.exists(path) else ([], 0)
    wanted = dataclasses.asdict(settings)
    for entry in lines:
        if entry.get("settings") != wanted:
            raise UserError(
                f"{to} has frames with other settings: {entry.get('settings')}, expected {wanted}; "
                "choose another folder, or the settings of these frames"
            )
    return {entry["video"]: entry for entry in lines}


def _finish(to, done, unreadable):
    _write_manifest(to, done)
    path = os.path.join(to, UNREADABLE)
    if unreadable:
        write_text(path, reason_lines(dict(sorted(unreadable.items()))))
    elif os.path.exists(path):
        os.remove(path)


def _write_manifest(to, done):
    """Write the manifest, unless it is up to date."""
    path = os.path.join(to, MANIFEST)
    text = "".join(json.dumps(done[name]) + "\n" for name in sorted(done))
    try:
        with open(path, "rb") as file:
            if file.read() == text.encode():
                return
    except OSError:
        pass
    write_text(path, text)
