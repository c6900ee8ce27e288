"""Score files: `.npz`, `.json`, and pickles as mmaction2 dumps them."""

import dataclasses
import io
import itertools
import json
import os
import pickle
import zipfile
import zlib

import numpy as np

from trn_jax.data.annotations import multi_hot
from trn_jax.errors import UserError
from trn_jax.evaluation.scores import Scores
from trn_jax.files import reading, write_bytes
from trn_jax.npz import read_npz

FORMATS = (".npz", ".json", ".pkl")
_MAX_CLASSES = 5_000  # a confusion matrix takes the square; EPIC-KITCHENS-100 has 3,806


def dump_path(path, protocol, num_protocols):
    """The file for the scores of a protocol: `path`, or of several `<name>_<protocol>.<format>`."""
    if num_protocols == 1:
        return path
    extension = _format(path) or ""
    return f"{path.removesuffix(extension)}_{protocol}{extension}"


def _format(path):
    """The extension of `path` that is in `FORMATS`, or `None`."""
    return next((extension for extension in FORMATS if path.endswith(extension)), None)


def check_dump(path):
    """Check that scores can be written to `path`, and make its folder.

    Raises:
        UserError: the extension is unknown, or the folder can't be written to.
    """
    if _format(path) is None:
        raise UserError(
            f"{path!r} has an extension that is not a score format; use {', '.join(FORMATS)}"
        )
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise UserError(f"can't write to {path}; choose another file for the scores")


def write(path, found):
    """Write `Scores` in the format of the extension of `path`.

    `.npz`: the arrays `scores` `[videos, classes]`, `labels` `[videos]` (or multi-hot
    `[videos, classes]`), `videos`, `class_names`, `partners` `[n, 2]` (pairs of
    `Scores.reversed_class`), `missing` (rows of unreadable videos, if any) and, without dimensions,
    `protocol` and the entries of `about`. `numpy.load` reads it without pickles.

    `.json`: an object with the same names; `labels` is a list of numbers, or of lists of them.

    `.pkl`: as mmaction2 1.x dumps them, a list of dicts, one per video in the order of the list,
    with NumPy arrays instead of tensors: `pred_score` float32 `[classes]`, `pred_label` and
    `gt_label` int64 `[1]` (multi-label: `gt_label` is multi-hot float32 `[classes]`),
    `num_classes`, `video_id` and `about`, a dict with everything else that all entries share.

    Raises:
        UserError: it can't be written.
    """
    check_dump(path)
    content = {
        ".npz": _npz_content,
        ".json": _json_content,
        ".pkl": _pickle_content,
    }[_format(path)](found)
    write_bytes(path, content)


def read(path):
    """Read `Scores` that `write` wrote, or a `.pkl` file that mmaction2 1.x dumped.

    Nothing in a file is executed, not even in pickles.

    Raises:
        UserError: the file is missing, corrupt, or holds something else.
    """
    readers = {
        ".npz": _read_npz,
        ".json": _read_json,
        ".pkl": _read_pickle,
        ".pickle": _read_pickle,
    }
    reader = readers.get(os.path.splitext(path)[1])
    if reader is None:
        raise UserError(
            f"{path} has an extension that is not a score format, one of {', '.join(readers)}, as "
            "`trn-jax eval --dump=scores.npz` writes them"
        )
    with reading(path, "a file of scores"):
        with open(path, "rb") as file:
            content = file.read()
        return reader(content)


def _plain(found):
    """Everything but scores, labels and videos, in types of JSON."""
    missing = np.flatnonzero(found.is_missing).tolist()
    return found.about | {
        "protocol": found.protocol,
        "class_names": found.class_names,
        "partners": [[a, b] for a, b in found.reversed_class.items()],
        **({"missing": missing} if missing else {}),
    }


def _mask(rows, num_videos):
    """`Scores.missing` from the numbers of the rows."""
    rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
    if not isinstance(rows, list | tuple) or not all(type(row) is int for row in rows):
        raise UserError(f"missing={rows!r:.40} must be row numbers")
    if not rows:
        return None
    if not 0 <= min(rows) <= max(rows) < num_videos:
        raise UserError(f"missing names row {max(rows)} of {num_videos}")
    mask = np.zeros(num_videos, bool)
    mask[list(rows)] = True
    return mask


def _npz_content(found):
    arrays = {name: np.array(value) for name, value in _plain(found).items()}
    arrays["class_names"] = np.array(found.class_names, str)
    arrays["partners"] = np.array(list(found.reversed_class.items()), np.int64).reshape(-1, 2)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        allow_pickle=False,
        scores=found.scores,
        labels=found.labels,
        videos=np.array(found.videos, str),
        **arrays,
    )
    return file.getvalue()


def _read_npz(content):
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrays = read_npz(archive, len(content))
    except (EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"this is no .npz of an evaluation, or corrupt ({error})") from None
    return _from_plain(arrays)


def _json_content(found):
    labels = found.labels
    labels = [np.flatnonzero(row) for row in labels] if found.multi_label else labels
    content = _plain(found) | {
        "videos": found.videos,
        "labels": [label.tolist() for label in labels],
        "scores": found.scores.tolist(),
    }
    return json.dumps(content).encode()


def _read_json(content):
    try:
        values = json.loads(content)
    except ValueError as error:
        raise UserError(f"this is no JSON, or corrupt ({error})") from None
    if not isinstance(values, dict):
        raise UserError("this is no JSON object; " + _EXPECTED)
    return _from_plain(values)


_EXPECTED = "expected what `trn-jax eval --dump=...` writes"


def _from_plain(values):
    """`Scores` from the entries of a `.npz` or `.json` file."""
    values = dict(values)
    missing = [name for name in ("scores", "labels", "videos", "class_names") if name not in values]
    if missing:
        found = ", ".join(sorted(values)[:10]) or "nothing"
        raise UserError(f"it has no {', '.join(missing)}, only {found}; {_EXPECTED}")
    scores = _numbers(values.pop("scores"), "scores")
    labels = values.pop("labels")
    if isinstance(labels, list) and labels and all(isinstance(row, list) for row in labels):
        if scores.ndim != 2 or len(labels) != len(scores):
            raise UserError(f"there are {len(labels)} labels, but scores of {len(scores)} videos")
        labels = multi_hot(labels, scores.shape[1])
    return _checked(
        scores, _numbers(labels, "labels"), values.pop("videos"), values.pop("class_names"), values
    )


def _checked(scores, labels, videos, class_names, rest):
    """`Scores` from the entries of a file; `rest` are the optional ones."""
    if scores.ndim != 2 or not 1 <= scores.shape[1] <= _MAX_CLASSES:
        raise UserError(
            f"the scores have shape {list(scores.shape)}, expected [videos, classes] with at most "
            f"{_MAX_CLASSES:,} classes"
        )
    with np.errstate(over="ignore"):
        scores = scores.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise UserError(
            f"the scores of {len(bad)} of {len(scores)} videos are not finite, first of video "
            f"{bad[0]} (from 0); evaluate again"
        )
    num_videos, num_classes = scores.shape
    about = {name: _scalar(value) for name, value in rest.items() if isinstance(name, str)}
    found = Scores(
        scores,
        labels,
        _names(videos, "videos", num_videos),
        _names(class_names, "class_names", num_classes),
        _pairs(rest.get("partners", []), num_classes),
        about.pop("protocol", None) or "",
        {name: value for name, value in about.items() if value is not None},
        _mask(rest.get("missing", []), num_videos),
    )
    if not isinstance(found.protocol, str):
        raise UserError(f"protocol is {found.protocol!r}, expected a name")
    kind = np.float32 if found.multi_label else np.int64
    return dataclasses.replace(found, labels=labels.astype(kind))


def _numbers(value, name):
    """An array or nested list as an array of real numbers."""
    if isinstance(value, list):
        rows = value if value and isinstance(value[0], list) else [value]
        if not all(isinstance(row, list) for row in rows):
            raise UserError(f"{name} mixes lists and numbers; {_EXPECTED}")
        strange = set(map(type, itertools.chain.from_iterable(rows))) - {int, float}
        if strange:
            kinds = ", ".join(sorted(kind.__name__ for kind in strange))
            raise UserError(f"{name} has entries of type {kinds}, expected numbers; {_EXPECTED}")
        if len(set(map(len, rows))) > 1:
            raise UserError(f"rows of {name} differ in length; {_EXPECTED}")
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufb":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{name} is of type {kind}, expected real numbers; {_EXPECTED}")
    # Multi-hot labels may be stored as bits, but true is no class number.
    if value.dtype.kind == "b" and (name, value.ndim) != ("labels", 2):
        raise UserError(f"{name} is of type bool, expected numbers; {_EXPECTED}")
    return value.astype(np.uint8) if value.dtype.kind == "b" else value


def _names(value, name, count):
    """An array or list of `count` strings, or of none, as a list."""
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or len(value) not in (0, count):
            raise UserError(f"{name} has shape {list(value.shape)}, expected {[count]} or none")
        value = value.tolist()
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UserError(f"{name} is no list of strings; {_EXPECTED}")
    return list(value)


def _pairs(value, num_classes):
    """`{class: class}` from pairs."""
    if isinstance(value, np.ndarray) and value.ndim == 2 and len(value) <= num_classes:
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        pairs = {a: b for a, b in value if type(a) is type(b) is int}
        if len(pairs) == len(value):
            return pairs
    raise UserError("partners is no list of pairs of classes, each class once")


def _scalar(value):
    """The text or number of an entry, else `None`."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.ndim == 0 else None
    return value if isinstance(value, str | int | float) else None


def _pickle_content(found):
    about = _plain(found)
    labels = found.labels if found.multi_label else found.labels[:, None]
    rows = [
        {
            "pred_score": score,
            "pred_label": np.argmax(score, keepdims=True),
            "gt_label": label,
            "num_classes": len(score),
            "about": about,
        }
        for score, label in zip(found.scores, labels, strict=True)
    ]
    if found.videos:
        rows = [row | {"video_id": name} for row, name in zip(rows, found.videos, strict=True)]
    return pickle.dumps(rows, protocol=4)


def _read_pickle(content):
    # Imported here: its package loads JAX, which no other format needs.
    from trn_jax.convert.prediction_dump import read_prediction_dump

    found = read_prediction_dump(content)
    labels = found["gt_label"]
    rest = dict(found["about"])
    return _checked(
        found["pred_score"],
        labels if labels.shape[1] > 1 else labels[:, 0],
        found["video_id"],
        rest.pop("class_names", []),
        rest,
    )
