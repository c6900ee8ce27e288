"""Scores of an evaluation: metrics from them, file formats, and fusion of several."""

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
from trn_jax.evaluation import metrics
from trn_jax.files import reading, write_bytes
from trn_jax.npz import read_npz

FORMATS = (".npz", ".json", ".torch.pkl", ".pkl")
_SHOWN = 3
_MAX_CLASSES = 5_000  # of a file; confusions take the square, and EPIC-KITCHENS-100 has 3,806


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of every video of a list, and everything that is needed to judge them.

    Attributes:
        scores: float32 `[videos, classes]`, usually probabilities.
        labels: int64 `[videos]`, or, where videos have several, float32 `[videos, classes]` of 0
            and 1.
        videos: names of the videos as they stand in the list; empty if they are not known.
        class_names: in the order of the labels; empty if they are not known.
        partners: `{class: the class that is this one backwards in time}`, where there are such.
        protocol: name of the protocol.
        about: where they come from (checkpoint, list, hashes): `{name: text or number}`.
        missing: whether a video could not be read, bool `[videos]`: its scores are 0, and it counts
            as wrong. `None`: all could.

    Raises:
        UserError: the numbers of videos or classes differ, labels are no numbers of classes (or,
            with several per video, not 0 and 1), two classes have the same name, or `partners` are
            no classes.
    """

    scores: np.ndarray
    labels: np.ndarray
    videos: list[str]
    class_names: list[str]
    partners: dict[int, int] = dataclasses.field(default_factory=dict)
    protocol: str = ""
    about: dict[str, str | int | float] = dataclasses.field(default_factory=dict)
    missing: np.ndarray | None = None

    def __post_init__(self):
        for name, array, kinds in (("scores", self.scores, "f"), ("labels", self.labels, "iuf")):
            if array.dtype.kind not in kinds:
                raise UserError(f"the {name} are of type {array.dtype}, expected real numbers")
        if self.scores.ndim != 2 or self.labels.ndim not in (1, 2):
            raise UserError(
                f"the scores have shape {list(self.scores.shape)} and the labels "
                f"{list(self.labels.shape)}, expected [videos, classes] and [videos]"
            )
        num_videos, num_classes = self.scores.shape
        for name, found, expected in (
            ("labels", len(self.labels), num_videos),
            ("video names", len(self.videos) or num_videos, num_videos),
            ("class names", len(self.class_names) or num_classes, num_classes),
            ("marks of missing videos", len(self.is_missing), num_videos),
        ):
            if found != expected:
                raise UserError(
                    f"there are {found} {name}, but scores of {num_videos} videos and "
                    f"{num_classes} classes"
                )
        if self.multi_label and self.labels.shape != self.scores.shape:
            raise UserError(
                f"the labels have shape {list(self.labels.shape)}, but the scores "
                f"{list(self.scores.shape)}"
            )
        self._check_labels(num_classes)
        self._check_classes(num_classes)

    def _check_labels(self, num_classes):
        highest = 1 if self.multi_label else num_classes - 1
        if not len(self.labels):
            return
        low, high = self.labels.min(), self.labels.max()
        if not 0 <= low <= high <= highest:
            raise UserError(f"the labels reach from {low:g} to {high:g}, expected 0..{highest}")
        parts = self.labels[self.labels != np.floor(self.labels)]
        if parts.size:
            raise UserError(
                f"{parts.size} labels are fractions, such as {parts[0]:g}; expected whole numbers "
                f"in 0..{highest}"
            )

    def _check_classes(self, num_classes):
        first = dict(zip(reversed(self.class_names), reversed(range(num_classes)), strict=False))
        twice = [
            f"{first[name]} and {label} are both {name!r}"
            for label, name in enumerate(self.class_names)
            if first[name] != label
        ]
        if twice:
            raise UserError("classes need names of their own:" + _some(twice))
        for pair in self.partners.items():
            if not all(0 <= label < num_classes for label in pair):
                raise UserError(f"partners has {pair}, expected classes in 0..{num_classes - 1}")

    @property
    def is_missing(self):
        """`missing`, bool `[videos]`, also where all videos could be read."""
        return np.zeros(len(self.scores), bool) if self.missing is None else self.missing

    @property
    def multi_label(self):
        """Whether videos have several labels."""
        return self.labels.ndim == 2

    def class_name(self, label):
        """Name of a class, made up if it is not known."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def metrics(self, top_k=(1, 5)):
        """All metrics, see `metrics.classification` and `metrics.multi_label`."""
        if self.multi_label:
            return metrics.multi_label(self.scores, self.labels, self.missing)
        return metrics.classification(self.scores, self.labels, self.partners, top_k, self.missing)

    def confusion(self):
        """Counts `[classes, classes]` of readable videos, rows true classes; one label each."""
        read = ~self.is_missing
        predictions = np.argmax(self.scores[read], axis=1)
        return metrics.confusion_matrix(predictions, self.labels[read], self.scores.shape[1])

    def per_class(self):
        """What became of every class.

        Returns:
            A list of dicts `label`, `name`, `videos` and `accuracy`; with several labels per video
            `average_precision` instead of the last, `None` for a class without videos.
        """
        if self.multi_label:
            counts = self.labels.sum(axis=0)
            ranked = np.where(self.is_missing[:, None], -np.inf, self.scores)
            found = metrics.per_class_average_precision(ranked, self.labels)
            values = [None if np.isnan(value) else float(value) for value in found]
            name = "average_precision"
        else:
            confusion = self.confusion()
            num_missing = np.bincount(self.labels[self.is_missing], minlength=self.scores.shape[1])
            counts = confusion.sum(axis=1) + num_missing
            values = metrics.per_class_accuracy(confusion, num_missing).tolist()
            name = "accuracy"
        return [
            {"label": label, "name": self.class_name(label), "videos": int(count), name: value}
            for label, (count, value) in enumerate(zip(counts, values, strict=True))
        ]


# Files -------------------------------------------------------------------------------------------


def dump_path(path, protocol, num_protocols):
    """Where the scores of a protocol go: `path`, or, of several, `<name>_<protocol>.<format>`."""
    if num_protocols == 1:
        return path
    extension = _format(path) or ""
    return f"{path.removesuffix(extension)}_{protocol}{extension}"


def _format(path):
    """The one of `FORMATS` that the end of `path` names, or `None`."""
    return next((extension for extension in FORMATS if path.endswith(extension)), None)


def check_dump(path):
    """Check that scores can be written to `path`, and make its folder.

    Raises:
        UserError: the format is not known, or there is no writing there.
    """
    if _format(path) is None:
        raise UserError(
            f"scores cannot be written as {path!r}; its end tells the format and has to be one of "
            f"{', '.join(FORMATS)}"
        )
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise UserError(f"cannot write to {path}; choose another place for the scores")


def write(path, found):
    """Write `Scores` in the format that the end of `path` names.

    `.npz`: the arrays `scores` `[videos, classes]`, `labels` `[videos]` (or `[videos, classes]` of
    0 and 1), `videos`, `class_names`, `partners` `[n, 2]`, `missing`, the rows of videos that could
    not be read, if there are such, and, without dimensions, `protocol` and one array per entry of
    `about`. `numpy.load` reads it without pickles.

    `.json`: an object of the same names; `labels` is a list of numbers, or of lists of them.

    `.pkl`: as mmaction2 1.x dumps them, a list of dicts, one per video in the order of the list,
    with NumPy arrays instead of tensors: `pred_score` float32 `[classes]`, `pred_label` and
    `gt_label` int64 `[1]` (with several labels `gt_label` is float32 `[classes]` of 0 and 1),
    `num_classes`, `video_id` and `about`, a dict with everything else, which all entries share.

    `.torch.pkl`: the same with tensors, which mmaction2's own tools expect; PyTorch is needed to
    load it, not to write it.

    Raises:
        UserError: it cannot be written.
    """
    check_dump(path)
    content = {
        ".npz": _npz_content,
        ".json": _json_content,
        ".pkl": _pickle_content,
        ".torch.pkl": _torch_content,
    }[_format(path)](found)
    write_bytes(path, content)


def read(path):
    """Read `Scores` that `write` wrote, or a `.pkl` file that mmaction2 1.x dumped.

    Nothing in a file is executed, pickles included.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
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
            f"{path} is no file of scores by its name; known are {', '.join(readers)}, as "
            "`python -m trn_jax.main --mode=eval --dump=scores.npz` writes them"
        )
    with reading(path, "a file of scores"):
        with open(path, "rb") as file:
            content = file.read()
        return reader(content)


def _plain(found):
    """Everything but scores, labels and videos, in what JSON and pickles can hold."""
    missing = np.flatnonzero(found.is_missing).tolist()
    return found.about | {
        "protocol": found.protocol,
        "class_names": found.class_names,
        "partners": [[a, b] for a, b in found.partners.items()],
        **({"missing": missing} if missing else {}),
    }


def _mask(rows, num_videos):
    """`Scores.missing` for numbers of rows, as files have them."""
    rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
    if not isinstance(rows, list | tuple) or not all(type(row) is int for row in rows):
        raise UserError(f"missing={rows!r:.40} must be numbers of rows")
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
    arrays["partners"] = np.array(list(found.partners.items()), np.int64).reshape(-1, 2)
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
        raise UserError(f"this is not the .npz of an evaluation, or corrupt ({error})") from None
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
        raise UserError(f"this is not JSON, or damaged ({error})") from None
    if not isinstance(values, dict):
        raise UserError("this is no object with scores and labels; " + _EXPECTED)
    return _from_plain(values)


_EXPECTED = "expected what `python -m trn_jax.main --mode=eval --dump=...` writes"


def _from_plain(values):
    """`Scores` from the entries of a `.npz` or `.json` file."""
    values = dict(values)
    missing = [name for name in ("scores", "labels", "videos", "class_names") if name not in values]
    if missing:
        found = ", ".join(sorted(values)[:10]) or "nothing"
        raise UserError(f"there is no {', '.join(missing)}, only {found}; {_EXPECTED}")
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
    """`Scores` from what a file of any format says; `rest` has everything else in it."""
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
            f"the scores of {len(bad)} of {len(scores)} videos are not finite numbers, the first "
            f"ones those of video {bad[0]} (from 0); evaluate again"
        )
    num_videos, num_classes = scores.shape
    about = {name: _scalar(value) for name, value in rest.items() if isinstance(name, str)}
    found = Scores(
        scores,
        labels,
        _names(videos, "videos", num_videos),
        _names(class_names, "class_names", num_classes),
        _partners(rest.get("partners", []), num_classes),
        about.pop("protocol", None) or "",
        {name: value for name, value in about.items() if value is not None},
        _mask(rest.get("missing", []), num_videos),
    )
    if not isinstance(found.protocol, str):
        raise UserError(f"protocol is {found.protocol!r}, expected a name")
    kind = np.float32 if found.multi_label else np.int64
    return dataclasses.replace(found, labels=labels.astype(kind))


def _numbers(value, name):
    """`value`, an array or a list of numbers or of lists of them, as an array of real numbers."""
    if isinstance(value, list):
        rows = value if value and isinstance(value[0], list) else [value]
        if not all(isinstance(row, list) for row in rows):
            raise UserError(f"{name} has lists and others side by side; {_EXPECTED}")
        strange = set(map(type, itertools.chain.from_iterable(rows))) - {int, float}
        if strange:
            kinds = ", ".join(sorted(kind.__name__ for kind in strange))
            raise UserError(f"{name} has entries of type {kinds}, expected numbers; {_EXPECTED}")
        if len(set(map(len, rows))) > 1:
            raise UserError(f"its entries do not fit: rows of {name} differ in length; {_EXPECTED}")
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufb":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{name} is of type {kind}, expected real numbers; {_EXPECTED}")
    # 0 and 1 of several labels may be kept as bits, but true is not the number of a class.
    if value.dtype.kind == "b" and (name, value.ndim) != ("labels", 2):
        raise UserError(f"{name} is of type bool, expected numbers; {_EXPECTED}")
    return value.astype(np.uint8) if value.dtype.kind == "b" else value


def _names(value, name, count):
    """`value`, an array or a list of `count` strings or none, as a list."""
    if isinstance(value, np.ndarray):
        if value.ndim != 1 or len(value) not in (0, count):
            raise UserError(f"{name} has shape {list(value.shape)}, expected {[count]} or none")
        value = value.tolist()
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise UserError(f"{name} is no list of names; {_EXPECTED}")
    return list(value)


def _partners(value, num_classes):
    """`{class: class}` from pairs."""
    if isinstance(value, np.ndarray) and value.ndim == 2 and len(value) <= num_classes:
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        pairs = {a: b for a, b in value if type(a) is type(b) is int}
        if len(pairs) == len(value):
            return pairs
    raise UserError("partners is no list of pairs of classes, each one once")


def _scalar(value):
    """The text or number that an entry is, else `None`."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.ndim == 0 else None
    return value if isinstance(value, str | int | float) else None


def _pickle_content(found):
    return pickle.dumps(_rows(found), protocol=4)


def _rows(found):
    """The entries of mmaction2's layout."""
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
    return rows


class _Tensor:
    """An array that is loaded from a pickle as a tensor of PyTorch, which writing does not need."""

    def __init__(self, array):
        self._array = array

    def __reduce__(self):
        return _from_numpy, (self._array,)


def _from_numpy(array):
    """Stands for `torch.from_numpy` until the pickle is written."""
    return array


def _torch_content(found):
    arrays = ("pred_score", "pred_label", "gt_label")
    rows = [row | {name: _Tensor(row[name]) for name in arrays} for row in _rows(found)]
    # Protocol 3 names a function once, in plain text, and later refers to that.
    content = pickle.dumps(rows, protocol=3)
    return content.replace(f"c{__name__}\n_from_numpy\n".encode(), b"ctorch\nfrom_numpy\n", 1)


def _read_pickle(content):
    # Here, because its package loads JAX, which no other format needs.
    from trn_jax.convert import dumps

    found = dumps.read_dump(content)
    labels = found["gt_label"]
    rest = dict(found["about"])
    return _checked(
        found["pred_score"],
        labels if labels.shape[1] > 1 else labels[:, 0],
        found["video_id"],
        rest.pop("class_names", []),
        rest,
    )


# Fusion ------------------------------------------------------------------------------------------


def fuse(parts, weights=None):
    """The weighted mean of several models' scores of the same videos.

    A video counts as missing if none of the models could read it; where some could not, the scores
    are those of the others, times their share of the weights.

    Args:
        parts: a list of pairs `(name, Scores)`, two at least; the order of the first one's videos
            becomes that of all.
        weights: a positive number or 0 per part; by default all are equal.

    Returns:
        A `Scores`.

    Raises:
        UserError: the weights do not fit, or the parts are about other videos, labels or classes.
    """
    weights = [1.0] * len(parts) if weights is None else weights
    if len(parts) < 2:
        raise UserError(f"a fusion needs at least two files, found {len(parts)}")
    if len(weights) != len(parts):
        raise UserError(f"there are {len(weights)} weights for {len(parts)} files; give one each")
    if not np.isfinite(weights).all() or min(weights) < 0 or sum(weights) == 0:
        raise UserError(
            f"the weights {', '.join(f'{w:g}' for w in weights)} have to be finite, none of them "
            "negative, and not all 0"
        )
    for name, part in parts:
        if not np.isfinite(part.scores).all():
            raise UserError(f"{name} has scores that are not finite numbers; evaluate it again")
    first_name, first = parts[0]
    shares = np.divide(weights, sum(weights))
    total, missing = shares[0] * first.scores, first.is_missing
    for share, (name, part) in zip(shares[1:], parts[1:], strict=True):
        try:
            places = _places(first, part)
        except UserError as error:
            raise UserError(f"{name} cannot be fused with {first_name}: {error}") from None
        total += share * part.scores[places]
        missing = missing & part.is_missing[places]
    terms = [f"{weight:g} x {name}" for weight, (name, _) in zip(weights, parts, strict=True)]
    return dataclasses.replace(
        first,
        scores=total.astype(np.float32),
        protocol="fusion",
        missing=missing if missing.any() else None,
        about={"fusion": " + ".join(terms)},
    )


def _places(first, other):
    """Where `other` has the videos of `first`, `[videos]`.

    Raises:
        UserError: the two cannot be laid beside each other.
    """
    if other.scores.shape[1] != first.scores.shape[1]:
        raise UserError(
            f"it has scores of {other.scores.shape[1]} classes, the other one of "
            f"{first.scores.shape[1]}"
        )
    if first.class_names and other.class_names:
        unlike = [
            f"class {label} is {theirs!r} there and {ours!r} here"
            for label, (ours, theirs) in enumerate(
                zip(other.class_names, first.class_names, strict=True)
            )
            if ours != theirs
        ]
        if unlike:
            raise UserError(f"they name {len(unlike)} classes differently:" + _some(unlike))
    ours, theirs = (metrics.are_probabilities(s.scores) for s in (other, first))
    if ours != theirs:
        raise UserError(
            "one has probabilities and the other one has not, so their mean says nothing; its "
            f"scores reach from {other.scores.min():g} to {other.scores.max():g}, those of the "
            f"other one from {first.scores.min():g} to {first.scores.max():g}"
        )
    places = _places_by_name(first, other)
    if other.labels.ndim != first.labels.ndim:
        raise UserError("one has one label per video, the other one several")
    unlike = other.labels[places] != first.labels
    rows = np.flatnonzero(unlike.any(axis=1) if first.multi_label else unlike)
    if len(rows):
        names = [first.videos[row] if first.videos else f"video {row}" for row in rows[:_SHOWN]]
        raise UserError(
            f"they give other labels to {len(rows)} of {len(first.labels)} videos, such as "
            f"{', '.join(names)}; they were evaluated on other lists"
        )
    return places


def _places_by_name(first, other):
    num_here, num_there = len(other.scores), len(first.scores)
    same_order = np.arange(num_here)
    if other.videos == first.videos and first.videos:
        return same_order
    if not other.videos or not first.videos:
        # A dump of mmaction2 names no videos; its order is that of the list.
        if num_here != num_there:
            raise UserError(
                f"it has {num_here} videos, the other one {num_there}, and without names of the "
                "videos in both nobody knows which are the same"
            )
        return same_order
    places = {name: row for row, name in enumerate(other.videos)}
    absent = [f"{name!r} is only there" for name in first.videos if name not in places]
    absent += [f"{name!r} is only here" for name in places.keys() - set(first.videos)]
    if absent:
        raise UserError(
            f"they are about other videos ({num_here} here, {num_there} there):" + _some(absent)
        )
    if len(places) < num_here or num_here != num_there:
        raise UserError(
            "their videos come in another order, and some names occur more than once, so that "
            "nobody knows which are the same"
        )
    return np.array([places[name] for name in first.videos])


def _some(lines):
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:_SHOWN], *more])
