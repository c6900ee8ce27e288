"""How a model samples videos: a view of its recipe, and the lengths that it was trained on."""

import dataclasses
import math
import os
import pathlib

from trn_jax.checkpoints import checksums
from trn_jax.data.views import View
from trn_jax.errors import UserError, did_you_mean
from trn_jax.evaluation.evaluate import cheapest_protocol
from trn_jax.loading import load_model
from trn_jax.settings import from_dict, protocol_names, resolved_views

_LONG = 3  # times the length of a training example: such videos get a timeline


@dataclasses.dataclass(frozen=True)
class Contract:
    """The sampling contract of a checkpoint, with what flags changed.

    Attributes:
        protocol: the protocol whose view is used.
        view: the `View`.
        section: the same as a section of the configuration.
        num_frames: typical number of frames of a training example; `None` if unknown.
        seconds: typical length of a training example; `None` if unknown.
        frame_rate: typical frame rate of training examples, per second; `None` if unknown.
        changes: messages about what differs from the checkpoint.
    """

    protocol: str
    view: View
    section: dict
    num_frames: float | None
    seconds: float | None
    frame_rate: float | None
    changes: tuple[str, ...] = ()

    def is_long(self, seconds):
        """Whether a video of so many seconds (`None`: unknown) is longer than an example by far."""
        return bool(seconds and self.seconds and seconds > _LONG * self.seconds)

    def __str__(self):
        view, known = self.view, []
        if self.seconds:
            known.append(f"training examples of {self.seconds:.3g} s")
        elif self.num_frames:
            known.append(f"training examples of {self.num_frames:g} frames")
        if self.frame_rate:
            known.append(f"{self.frame_rate:.3g} frames per second")
        return ", ".join(
            [
                f"protocol {self.protocol}: {view.num_segments} frames (sampling={view.sampling})",
                f"{view.crop} crop of {view.crop_size} pixels",
                *known,
            ]
        )

    def to_dict(self):
        """What a file of scores keeps of it."""
        return {
            "protocol": self.protocol,
            "view": self.section,
            "num_frames": self.num_frames,
            "seconds": self.seconds,
            "frame_rate": self.frame_rate,
        }


def open_model(model, *, dtype=None):
    """A model that was loaded from a checkpoint.

    Args:
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        dtype: of the computation instead of that of its configuration.

    Returns:
        The `Recognizer` and its configuration.

    Raises:
        UserError: the model was not loaded from a checkpoint, or is already loaded in a dtype.
    """
    if isinstance(model, str | os.PathLike):
        model = load_model(model, **({} if dtype is None else {"dtype": dtype}))
    elif dtype is not None:
        raise UserError(f"dtype={dtype}: the model is loaded; use load_model(..., dtype=...)")
    if model.info is None:
        raise UserError(
            "this model has no sampling contract; load it with trn_jax.load_model, or give the "
            "path of a checkpoint"
        )
    return model, from_dict(model.info.config)


# Of files from before they had these keys, see `origin`.
EARLIER = {"dtype": "float32"}


def origin(model, contract):
    """What makes the features of a loaded model, with its `Contract`, for a file."""
    return {
        "step": model.info.step,
        "checksum": checksums.of_folder(pathlib.Path(model.info.path)),
        "dtype": model.dtype,
        "contract": contract.to_dict(),
    }


def check_every(every):
    """Check a distance of windows or frames in time; `None` is the usual one.

    Raises:
        UserError: it is no positive number of seconds.
    """
    if every is not None and not (every > 0 and math.isfinite(every)):
        raise UserError(f"every={every}: expected a positive number of seconds")


def contract_of(info, *, protocol=None, seconds=None, frame_rate=None, **view):
    """The contract of a loaded model.

    Args:
        info: its `loading.Info`.
        protocol: name of a protocol of its recipe; by default the one with the fewest views, of
            several the first.
        seconds: length of a window instead of that of training examples.
        frame_rate: of training examples, per second.
        **view: keys of `config.ViewKeys` to change; `None` changes nothing.

    Raises:
        UserError: there is no such protocol, or values are invalid.
    """
    config = from_dict(info.config)
    name = protocol or cheapest_protocol(config)
    if protocol_names(config, name) != [name]:
        raise UserError(f"--protocol={name}: expected one of them: {', '.join(config.protocols)}")
    section = resolved_views(config)[f"protocols.{name}"].to_dict()
    changed = {key: value for key, value in view.items() if value is not None}
    for key in changed:
        if key not in section:
            hint = did_you_mean(key, section, all_of="keys")
            raise UserError(f"a view has no key {key!r}{hint}")
    changes = [
        f"{key}={value!r} instead of {section[key]!r} of the checkpoint"
        for key, value in changed.items()
        if value != section[key]
    ]
    section |= changed
    lengths = dict(info.sampling)
    for key, value in (("seconds", seconds), ("frame_rate", frame_rate)):
        if value is None:
            continue
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{key}={value}: expected a positive number")
        if lengths[key] not in (None, value):
            changes.append(f"{key}={value:g} instead of {lengths[key]:g} of the checkpoint")
        lengths[key] = value
    return Contract(
        protocol=name, view=View(**section), section=section, **lengths, changes=tuple(changes)
    )
