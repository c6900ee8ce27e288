"""A folder of predictions: scores per video, from which events are found again, and captions."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import zipfile
import zlib

import numpy as np

from trn_jax.checkpoints import calibration_file
from trn_jax.errors import UserError
from trn_jax.evaluation.events import write_events
from trn_jax.files import as_text, differences, reading, write_bytes, write_text
from trn_jax.npz import read_npz
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.contract import EARLIER

_SCORES, _CAPTIONS, _EVENTS, _FILMS = "scores", "captions", "events.csv", "videos"
_FRAMES = "frames"
_PIECE = re.compile(r"(.*?)(?:\.(\d{5,}))?\.npz", re.DOTALL)
_MAX_NAME = 80  # characters of a video's name in the name of a file


class PredictionFolder:
    """The results of a command in a folder, which it continues when it is run again.

    `scores/<video>.npz` has the arrays `start`, `end` (seconds; NaN: unknown) and `scores`
    `[windows, classes]`, not calibrated, `class_names`, and `about`, JSON with the name of the
    video and what made and calibrates them. Those of streams are written in pieces as they come;
    `scores/<video>.00001.npz` is the second. `captions/<video>.vtt` are its events as WebVTT,
    `events.csv` all events, `videos/<video>.mp4` the films that `render` makes,
    `frames/<video>.png` and `.json` the frames that decide.

    Args:
        path: the folder.
        about: what makes the scores (checkpoint, sampling contract), a dict that JSON can hold;
            `None` to read whatever there is.
    """

    def __init__(self, path, about=None):
        self.path = os.fspath(path)
        self._about = about

    def read(self, video, path):
        """The `Answer`s of a video, or `None` if there are none yet; `path`: its file or folder.

        Raises:
            UserError: they are of another model, other settings or another file, or corrupt.
        """
        mine = json.loads(json.dumps(self._about | {"path": path and os.path.abspath(path)}))
        calibrated = mine.pop("calibration", None)
        answers: list[Answer] = []
        for piece in itertools.count():
            file = self._file(video, piece)
            if not os.path.exists(file):
                break
            found, about = _read(file)
            before = {key: about.get(key, EARLIER.get(key)) for key in mine}
            if differing := differences(before, mine):
                raise UserError(
                    f"{file} was made otherwise: {differing}; choose another folder with --to, or "
                    "remove this one"
                )
            if about.get("calibration") != calibrated:  # the scores are the same
                self.write(found, about["path"], piece=piece)
            answers += found
        return answers or None

    def has(self, video):
        """Whether there are scores of a video."""
        return os.path.exists(self._file(video))

    def write(self, answers, path, *, piece=0):
        """Write the `Answer`s of a readable video, or a piece of them.

        Args:
            answers: a list of `Answer`.
            path: its file or folder, "" for a stream.
            piece: number of the piece.
        """
        about = self._about | {
            "video": answers[0].video,
            "path": path and os.path.abspath(path),
            "windows": answers[0].is_window,
        }
        file = io.BytesIO()
        ends = [np.nan if answer.end is None else answer.end for answer in answers]
        np.savez_compressed(
            file,
            allow_pickle=False,
            start=np.array([answer.start for answer in answers]),
            end=np.array(ends),
            scores=np.stack([answer.scores for answer in answers]),
            class_names=np.array(answers[0].class_names, str),
            about=np.array(json.dumps(about)),
        )
        path = self._file(answers[0].video, piece)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_bytes(path, file.getvalue())

    def all(self):
        """The `Answer`s of every video, sorted by name.

        Yields:
            `(answers, about)`.

        Raises:
            UserError: there are none, or a file is corrupt.
        """
        folder = os.path.join(self.path, _SCORES)
        try:
            names = sorted(filter(_PIECE.fullmatch, os.listdir(folder)), key=_piece_of)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        except OSError as error:
            raise UserError(f"cannot read {folder}: {error.strerror}") from None
        if not names:
            raise UserError(
                f"there are no scores in {folder}; expected a folder that `trn-jax predict --to` "
                "has written"
            )
        found: dict[str, tuple] = {}
        for name in names:
            answers, about = _read(os.path.join(folder, name))
            found.setdefault(about["video"], ([], about))[0].extend(answers)
        yield from (found[video] for video in sorted(found))

    def write_events(self, events, paths):
        """Write events as a table, with paths relative to it, and as captions.

        Args:
            events: `{video: events}`.
            paths: `{video: its file or folder}`; "" for streams.
        """
        rows = []
        for video, found in events.items():
            place = self._relative(paths[video]) if paths[video] else video
            rows += [dataclasses.replace(event, video=place) for event in found]
        os.makedirs(os.path.join(self.path, _CAPTIONS), exist_ok=True)
        write_events(os.path.join(self.path, _EVENTS), rows)
        for video, found in events.items():
            path = os.path.join(self.path, _CAPTIONS, f"{_file_name(video)}.vtt")
            write_text(path, web_vtt(found))

    def film(self, video):
        """Path of the film of a video, see `render`."""
        return os.path.join(self.path, _FILMS, f"{_file_name(video)}.mp4")

    def frames(self, video):
        """Path of the files of a video's deciding frames, without an extension."""
        return os.path.join(self.path, _FRAMES, _file_name(video))

    def _relative(self, path):
        """A path as a table in the folder names it, so that `prepare` finds it."""
        try:
            return os.path.relpath(path, self.path)
        except ValueError:  # another drive of Windows
            return os.path.abspath(path)

    def _file(self, video, piece=0):
        number = f".{piece:05d}" if piece else ""
        return os.path.join(self.path, _SCORES, f"{_file_name(video)}{number}.npz")


def _piece_of(name):
    """What sorts the pieces of a video."""
    match = _PIECE.fullmatch(name)
    return (match[1], int(match[2] or 0)) if match else (name, 0)


def with_calibration(calibration, answers):
    """The same `Answer`s with another `Calibration`, or `None`."""
    return [dataclasses.replace(answer, calibration=calibration) for answer in answers]


def _file_name(video):
    """A name that no other video has, and that every file system takes."""
    plain = re.sub(r"[^\w.-]+", "_", os.path.splitext(os.path.basename(video))[0])[:_MAX_NAME]
    digest = hashlib.sha256(as_text(video).encode()).hexdigest()[:8]
    return f"{plain.strip('.') or 'video'}-{digest}"


def _read(path):
    with reading(path, "scores of `trn-jax predict`"):
        with open(path, "rb") as file:
            content = file.read()
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                arrays = read_npz(archive, len(content))
        except (EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"it is corrupt ({error}); remove it to predict it again") from None
        about = json.loads(str(arrays["about"]))
        about.setdefault("path", "")
        if not all(isinstance(about[key], str) for key in ("video", "path")):
            raise UserError(f"its video is {about['video']!r:.80}, of {about['path']!r:.80}")
        starts, ends, scores = arrays["start"], arrays["end"], arrays["scores"]
        names = tuple(map(str, arrays["class_names"]))
        calibration = about.get("calibration")
        calibration = calibration and calibration_file.from_dict(calibration, names)
        if not (len(starts) == len(ends) == len(scores) and scores.shape[1:] == (len(names),)):
            raise UserError(
                f"it has {len(starts)} windows and {len(names)} classes, but scores of shape "
                f"{list(scores.shape)}"
            )
        answers = [
            Answer(
                about["video"],
                float(start),
                None if np.isnan(end) else float(end),
                row.astype(np.float32),
                names,
                is_window=bool(about["windows"]),
                calibration=calibration,
            )
            for start, end, row in zip(starts, ends, scores, strict=True)
        ]
        return answers, about


def web_vtt(events):
    """Events as captions, WebVTT: the name of the class during the event."""
    blocks = ["WEBVTT\n"]
    for event in sorted(events, key=lambda event: (event.start, event.end)):
        # Two characters have a meaning in captions; a blank line would end one.
        label = event.label.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
        blocks.append(f"{_clock(event.start)} --> {_clock(event.end)}\n{label}\n")
    return "\n".join(blocks)


def _clock(seconds):
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{thousandths / 1000:06.3f}"
