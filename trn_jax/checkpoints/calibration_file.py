"""The calibration of a checkpoint's scores: `calibration.json`, beside its items.

It is no part of the checksums of the checkpoint, as it comes after the evaluation and can be fitted
again. So it has a checksum of its own, and that of the checkpoint that it belongs to.
"""

import dataclasses
import json

from trn_jax.allowed import NOT_NEGATIVE, SHARE, Range
from trn_jax.checkpoints import checksums
from trn_jax.errors import UserError
from trn_jax.files import reading, write_text

NAME = "calibration.json"
TEMPERATURES = Range(0.05, 20)
_MAX_BYTES = 4 << 20  # thresholds of 5,000 classes with long names take a tenth
_TEXTS = ("protocol", "split", "list_sha256")
_MEASURES = ("ece", "nll")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """How the scores of a checkpoint become probabilities, and which of them are high enough.

    Attributes:
        temperature: by which logits are divided, see `evaluation.calibration.calibrated`.
        threshold: of calibrated scores, for all classes.
        thresholds: `{class name: threshold of its calibrated score}`, in the order of the scores.
        multi_label: scores are sigmoids, one decision per class.
        protocol: the view that the scores are of.
        split: the list of the videos: "val", "test" or "train".
        num_videos: readable videos of the list.
        list_sha256: hash of the list; "" if it is gone.
        before: of the scores of these videos, `ece` (expected calibration error) and `nll`
            (negative log likelihood).
        after: the same of the calibrated scores.

    Raises:
        UserError: a value is out of range or of another type.
    """

    temperature: float
    threshold: float
    thresholds: dict[str, float]
    multi_label: bool
    protocol: str
    split: str
    num_videos: int
    list_sha256: str
    before: dict[str, float]
    after: dict[str, float]

    def __post_init__(self):
        _require(TEMPERATURES.allows(self.temperature), self, "temperature", TEMPERATURES)
        _require(SHARE.allows(self.threshold), self, "threshold", SHARE)
        each = self.thresholds
        allowed = isinstance(each, dict) and each and all(map(SHARE.allows, each.values()))
        _require(allowed, self, "thresholds", f"a number per class, each {SHARE}")
        _require(isinstance(self.multi_label, bool), self, "multi_label", "true or false")
        for name in _TEXTS:
            _require(isinstance(getattr(self, name), str), self, name, "text")
        count = self.num_videos
        _require(type(count) is int and count > 0, self, "num_videos", "a positive number")
        for name in ("before", "after"):
            found = getattr(self, name)
            allowed = isinstance(found, dict) and found.keys() == set(_MEASURES)
            allowed = allowed and all(map(NOT_NEGATIVE.allows, found.values()))
            _require(allowed, self, name, f"{' and '.join(_MEASURES)}, each {NOT_NEGATIVE}")

    def thresholds_of(self, class_names):
        """The thresholds of classes in their order, a tuple.

        Raises:
            UserError: the calibration is of other classes.
        """
        if self.thresholds.keys() != set(class_names):
            missing = [name for name in class_names if name not in self.thresholds]
            other = [name for name in self.thresholds if name not in set(class_names)]
            raise UserError(
                f"the calibration is of other classes: it has {len(self.thresholds)}, expected "
                f"{len(set(class_names))}; the first that differs is {(missing + other)[0]!r:.80}"
            )
        return tuple(float(self.thresholds[name]) for name in class_names)

    def to_dict(self):
        """The same as a dict that JSON can hold."""
        return dataclasses.asdict(self)

    def __str__(self):
        several = "" if self.num_videos == 1 else "s"
        return (
            f"temperature {self.temperature:.3g} and thresholds of {len(self.thresholds)} classes, "
            f"from {self.num_videos:,} video{several} of {self.split} by {self.protocol}"
        )


def _require(allowed, calibration, name, expected):
    if not allowed:
        raise UserError(f"{name}={getattr(calibration, name)!r:.80}: expected {expected}")


def from_dict(values, class_names):
    """The `Calibration` of what `to_dict` made; it may have been edited or made elsewhere.

    Args:
        values: from JSON; further entries don't matter.
        class_names: of the scores.

    Raises:
        UserError: something is missing or out of range, or it is of other classes.
    """
    if not isinstance(values, dict):
        raise UserError(f"the calibration is {values!r:.80}, expected an object")
    names = [field.name for field in dataclasses.fields(Calibration)]
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"the calibration has no {', '.join(missing)}")
    found = Calibration(**{name: values[name] for name in names})
    found.thresholds_of(class_names)
    return found


def write(directory, calibration):
    """Write the `Calibration` of a checkpoint, complete or not at all.

    Args:
        directory: folder of the checkpoint, a `pathlib.Path`.
        calibration: replaces the one that is there.

    Raises:
        UserError: it can't be written.
    """
    content = {
        "calibration": calibration.to_dict(),
        "checkpoint": checksums.of_folder(directory),
    }
    content["crc32"] = checksums.crc32_of(content)
    write_text(directory / NAME, json.dumps(content, indent=1) + "\n")


def read(directory, class_names):
    """The `Calibration` of a checkpoint, or `None` if it has none.

    Args:
        directory: folder of the checkpoint, a `pathlib.Path`.
        class_names: of its scores.

    Raises:
        UserError: the file is corrupt or malformed, or belongs to another checkpoint.
    """
    path = directory / NAME
    if not path.exists():
        return None
    with reading(path, "the calibration of a checkpoint"):
        if not path.is_file():
            raise UserError("this is no file")
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise UserError(f"it has more than {_MAX_BYTES:,} bytes")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise UserError("it holds no object")
        if content.pop("crc32") != checksums.crc32_of(content):
            raise UserError("its content doesn't match its checksum")
        if content["checkpoint"] != checksums.of_folder(directory):
            raise UserError("it belongs to another checkpoint")
        return from_dict(content["calibration"], class_names)
