"""Videos to folders of JPEGs.

Every video becomes a folder of the same path without the extension, complete or not there. For
each, `manifest.jsonl` has a line that tells what it was made from and how. At the end the lines are
in the order of the videos, so that work that was interrupted ends with the same bytes.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
from functools import partial

import cv2
import simplejpeg

from trn_jax.data.decode import FrameError
from trn_jax.data.videos import EXTENSIONS, VideoFile, is_video
from trn_jax.errors import UserError
from trn_jax.files import write_text
from trn_jax.prepare.folders import find_videos
from trn_jax.prepare.left_out import UNREADABLE, is_line, reason_lines
from trn_jax.prepare.progress import Progress
from trn_jax.prepare.workers import Died, in_processes

MANIFEST = "manifest.jsonl"
_PARTIAL = ".partial"
_CHUNK = 1 << 20  # bytes
_USUAL_RATE = 25.0  # frames per second, where a video says nothing
_CLOCK_STEP = 1e-3  # seconds; some containers round times to it


@dataclasses.dataclass(frozen=True)
class Settings:
    """How frames are written.

    Attributes:
        short_side: pixels that the shorter side is scaled to; 0 keeps the size.
        quality: of the JPEGs, 1 to 100.
        fps: frames per second of the video that are written; `None` for all of them.
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
    """Find the videos to take frames from.

    Args:
        source: a folder, which is searched for video files; or a list with the path of a video per
            line, relative to the list, behind which labels may stand.

    Returns:
        `(root, names)`: the videos are `root/name`.

    Raises:
        UserError: there is no video, or two would become the same folder.
    """
    if os.path.isdir(source):
        root, names = source, find_videos(source, depth=8)
    elif is_video(source):
        root, name = os.path.split(source)
        names = [name]
    else:
        root, names = _read_list(source)
    if not names:
        raise UserError(
            f"no videos found in {source}; expected files that end in {', '.join(EXTENSIONS)}"
        )
    _check_folders(root, names)
    return root, names


def _check_folders(root, names):
    """Refuse videos that would become one folder, or a folder among the frames of another."""
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
                f"the folder of {name} in {root} has the name that the frames of {videos[folder]} "
                "will have; rename one of them"
            )


def _read_list(path):
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path} as a folder or a list of videos: {error}; give one of the two"
        ) from None
    folder = os.path.dirname(os.path.abspath(path))
    paths = [os.path.join(folder, _without_labels(folder, line)) for line in lines]
    videos = [os.path.normpath(path) for path in paths]
    # Names below the list stay as they are; others are shortened by what they have in common.
    if all(video.startswith(os.path.join(folder, "")) for video in videos):
        root = folder
    else:
        root = os.path.commonpath([os.path.dirname(video) for video in videos])
    return root, list(dict.fromkeys(os.path.relpath(video, root) for video in videos))


def _without_labels(folder, line):
    """A path may have spaces and digits itself, so fields go until a file is found."""
    path = line
    while not os.path.exists(os.path.join(folder, path)):
        path, _, field = path.rpartition(" ")
        if not field.isdecimal():
            return re.sub(r"( +\d+)+$", "", line)
    return path


def extract(root, names, to, settings, *, workers, report):
    """Write the frames of videos, but for those that are there already.

    Args:
        root: folder of the videos.
        names: their paths below it.
        to: folder of the folders of frames.
        settings: `Settings`.
        workers: processes that decode.
        report: called with a line for every video that cannot be read, and about each that has
            lost frames, has several video streams or changes its frame size.

    Returns:
        `(number of videos written, number that were there, {unreadable video: reason})`.

    Raises:
        UserError: frames with other settings or of unknown origin are there, or the disk is full.
    """
    done = _read_manifest(to, settings)
    waiting = [name for name in names if not _is_done(root, name, to, done)]
    unknown = [n for n in waiting if n not in done and os.path.isdir(_folder(to, n))]
    if unknown:
        raise UserError(
            f"{len(unknown)} folders in {to} are not from this command, as they are not in "
            f"{MANIFEST}: {', '.join(unknown[:3])}; move them, or choose another folder"
        )
    unreadable: dict[str, str] = {}
    if waiting:
        _write_manifest(to, done)  # without a line that a kill has cut
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
                # The line comes first: what a kill leaves without its folder is made anew.
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


def _read_manifest(to, settings):
    """`{video: entry}`; a line that a kill has cut is left out."""
    entries = {}
    try:
        with open(os.path.join(to, MANIFEST), encoding="utf-8") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
            entries[entry["video"]] = entry
        except (ValueError, TypeError, KeyError):
            continue
    wanted = dataclasses.asdict(settings)
    for entry in entries.values():
        found = entry.get("settings")
        if found != wanted:
            raise UserError(
                f"{to} has frames with other settings: {found}, asked for: {wanted}; "
                "choose another folder, or ask for what is there"
            )
    return entries


def _finish(to, done, unreadable):
    _write_manifest(to, done)
    path = os.path.join(to, UNREADABLE)
    if unreadable:
        write_text(path, reason_lines(dict(sorted(unreadable.items()))))
    elif os.path.exists(path):
        os.remove(path)


def _write_manifest(to, done):
    path = os.path.join(to, MANIFEST)
    text = "".join(json.dumps(done[name]) + "\n" for name in sorted(done))
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    except (OSError, UnicodeDecodeError):
        pass
    write_text(path, text)


# One video, in a process of its own


def _extract_one(root, to, settings, name):
    """Write the frames of a video beside their place; gives its entry, or why there is none."""
    if not is_line(name):
        return "has a name that is no single line of text in UTF-8; rename it"
    path = os.path.join(root, name)
    partial_folder = _folder(to, name) + _PARTIAL
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        os.makedirs(partial_folder)
        entry = _write_frames(path, partial_folder, settings)
    except FrameError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        return str(error).replace(f"{path} ", "", 1).replace(f" {path}", "", 1)
    except OSError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise UserError(
            f"cannot write the frames of {path} to {partial_folder}: {error.strerror or error}; "
            "mend that (make room, if the disk is full) and run the same command again, which "
            "goes on from here"
        ) from None
    return {"video": name, **entry, "settings": dataclasses.asdict(settings)}


def _write_frames(path, folder, settings):
    """Write the frames of a video; gives what the manifest tells about it."""
    cv2.setNumThreads(1)
    count, size = 0, None
    with VideoFile(path, count=False) as video:
        num_bytes, sha256 = _hash(path)
        rate = video.rate or _USUAL_RATE
        frames = _timed(video.stream(), rate)
        if settings.fps is not None:
            frames = _at_rate(frames, settings.fps)
        for count, (_, frame) in enumerate(frames, start=1):
            frame = _scale(frame, settings.short_side)
            size = (frame.shape[1], frame.shape[0])
            data = simplejpeg.encode_jpeg(frame, settings.quality, "RGB", "420")
            with open(os.path.join(folder, settings.pattern.format(count)), "wb") as file:
                file.write(data)
        notes = list(video.notes)
    return {
        "sha256": sha256,
        "bytes": num_bytes,
        "frames": count,
        "size": size,
        "fps": settings.fps or rate,
        **({"notes": notes} if notes else {}),
    }


def _hash(path):
    """Size and SHA-256 of a file."""
    sha256, num_bytes = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                num_bytes += len(chunk)
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from None
    return num_bytes, sha256.hexdigest()


def _timed(frames, rate):
    """Frames of `VideoFile.stream` as pairs `(seconds, frame)`, at increasing times from 0."""
    first, last = None, -math.inf
    for frame, seconds in frames:
        if first is None:
            first = seconds = seconds or 0.0
        seconds = last if seconds is None else seconds - first
        if seconds <= last:  # the last frames of some codecs come without a time
            seconds = last + 1 / rate
        last = seconds
        yield seconds, frame


def _at_rate(frames, fps):
    """What is on the screen at the times 0, 1 / fps, 2 / fps, ..."""
    count, shown = 0, None
    for seconds, frame in frames:
        while shown is not None and count / fps < seconds - _CLOCK_STEP:
            yield count / fps, shown
            count += 1
        shown = frame
    if shown is not None and count / fps <= seconds + _CLOCK_STEP:
        yield count / fps, shown


def _scale(frame, short_side):
    height, width = frame.shape[:2]
    if not short_side or min(height, width) == short_side:
        return frame
    scale = short_side / min(height, width)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
