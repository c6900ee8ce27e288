"""Features of clips on disk, in pieces that are complete or not there.

They are float32, as the network gives them: then scores of the cached features are those of an
evaluation, and no network's features are too large for the format. Pieces are mapped into memory,
so only what is used of them takes memory, and the system can drop it.
"""

import json
import os

import numpy as np

from trn_jax.errors import UserError
from trn_jax.files import differences, open_atomic, reading, write_text

_ROWS = 64  # of a piece: an interruption costs as many clips at most
_ABOUT = "about.json"


class FeatureCache:
    """The features of a list of clips or videos, each with its label.

    Args:
        folder: where they are; created if it is missing.
        about: what makes them, a dict that JSON can hold.
        shape: of the features of one of them.
        num_rows: how many there are.
        label_shape: of a label: `()` for a number, `(classes,)` for several labels.

    Raises:
        UserError: the folder has features of another model, view or list.
    """

    def __init__(self, folder, about, *, shape, num_rows, label_shape=()):
        self._folder = folder
        self._num_rows = num_rows
        self._pieces: dict[int, np.ndarray] = {}
        kind = np.float32 if label_shape else np.int32
        self._dtype = np.dtype(
            [
                ("features", np.float32, tuple(shape)),
                ("label", kind, label_shape),
                ("readable", np.bool_),
            ]
        )
        about = json.loads(json.dumps(about))
        path = os.path.join(folder, _ABOUT)
        if os.path.exists(path):
            _check_same(path, about)
        else:
            os.makedirs(folder, exist_ok=True)
            write_text(path, json.dumps(about, indent=1) + "\n")

    @property
    def missing(self):
        """Numbers of the rows that have to be computed, ascending, int `[rows]`."""
        found = [
            np.arange(first, min(first + _ROWS, self._num_rows))
            for first in range(0, self._num_rows, _ROWS)
            if not os.path.exists(self._path(first // _ROWS))
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def writer(self):
        """What receives rows, see `PieceWriter`."""
        return PieceWriter(self)

    def rows(self, numbers):
        """Rows by their numbers: an array with the fields `features`, `label` and `readable`."""
        found = np.empty(len(numbers), self._dtype)
        for place, number in enumerate(numbers):
            piece, row = divmod(int(number), _ROWS)
            found[place] = self._piece(piece)[row]
        return found

    def messages(self):
        """Messages about videos that could not be read, or lost frames; in order, each once."""
        found: list[str] = []
        for piece in range(-(-self._num_rows // _ROWS)):
            path = f"{self._path(piece)}.json"
            if os.path.exists(path):
                with reading(path, "messages"), open(path, encoding="utf-8") as file:
                    found += json.load(file)
        return list(dict.fromkeys(found))

    def piece_of(self, number):
        """The piece of a row, and the numbers of all rows in it, a `range`."""
        piece = number // _ROWS
        return piece, range(piece * _ROWS, min((piece + 1) * _ROWS, self._num_rows))

    def write(self, piece, rows, messages):
        """Write a piece.

        Args:
            piece: its number.
            rows: tuples of features, label, and whether the video is readable.
            messages: see `messages`.

        Raises:
            UserError: features are not finite, or the disk is full.
        """
        array = np.empty(len(rows), self._dtype)
        for place, row in enumerate(rows):
            array[place] = row
        if not np.isfinite(array["features"]).all():
            raise UserError(
                "the backbone gives features that are not finite (NaN or infinite): no head can be "
                "trained on them; are its weights those of a trained model?"
            )
        if messages:
            text = json.dumps(messages, indent=1)
            write_text(f"{self._path(piece)}.json", text + "\n")
        with open_atomic(self._path(piece)) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def _path(self, piece):
        return os.path.join(self._folder, f"{piece:06d}.npy")

    def _piece(self, piece):
        if piece not in self._pieces:
            path = self._path(piece)
            with reading(path, "cached features; remove the file to compute them again"):
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                _, numbers = self.piece_of(piece * _ROWS)
                if array.dtype != self._dtype or array.shape != (len(numbers),):
                    raise UserError(
                        f"it has {array.shape} rows of {array.dtype}, expected {len(numbers)} of "
                        f"{self._dtype}; remove it to compute them again"
                    )
            self._pieces[piece] = array
        return self._pieces[piece]


class PieceWriter:
    """Writes rows that come in any order; a piece as soon as it is complete."""

    def __init__(self, cache):
        self._cache = cache
        self._rows: dict[int, dict] = {}
        self._messages: dict[int, list[str]] = {}

    def note(self, number, message):
        """Add a message about a row, before the row."""
        if message:
            self._messages.setdefault(self._cache.piece_of(number)[0], []).append(message)

    def add(self, number, features, label, *, readable=True):
        """Add a row."""
        piece, numbers = self._cache.piece_of(number)
        rows = self._rows.setdefault(piece, {})
        rows[number] = features, label, readable
        if len(rows) == len(numbers):
            del self._rows[piece]
            messages = self._messages.pop(piece, [])
            self._cache.write(piece, [rows[each] for each in numbers], messages)


def _check_same(path, about):
    with reading(path, "a description of cached features"), open(path, encoding="utf-8") as file:
        before = json.load(file)
    if differing := differences(before, about):
        raise UserError(
            f"{os.path.dirname(path)} has features of another run ({differing}); choose another "
            "--workdir, or remove this folder"
        )
