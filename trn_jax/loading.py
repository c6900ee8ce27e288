"""Models with weights, from a checkpoint or from a file of another project."""

import dataclasses
import os
from typing import Any

from flax import nnx

from trn_jax import models
from trn_jax.allowed import Range
from trn_jax.errors import UserError
from trn_jax.settings import from_dict, resolved

# Orbax takes a second to import, so a model without weights doesn't import it.


@dataclasses.dataclass(frozen=True, eq=False)
class Info:
    """Metadata of a loaded model, `model.info`.

    Attributes:
        path: the checkpoint.
        step: training steps it was taken after; 0 for converted weights.
        class_names: in the order of the logits; empty if unknown.
        views: `{protocol: settings}`, how its evaluation samples clips, see
            `trn_jax.config.ViewKeys`.
        sampling: how long training examples lasted: `num_frames`, `seconds` and `frame_rate`;
            `None` where unknown.
        config: the whole configuration, as nested dictionaries.
        metrics: of its validation, such as `{"top1": 0.5}`; empty if not evaluated.
        source: the file that it was converted from, with its SHA-256, and as `hub` the address with
            the commit that it was downloaded from; empty if trained here.
        calibration: temperature and thresholds of its scores, a
            `checkpoints.calibration_file.Calibration`; `None` if it has none.
    """

    path: str
    step: int
    class_names: tuple
    views: dict
    sampling: dict
    config: dict
    metrics: dict
    source: dict
    calibration: Any = None


def load_model(path, *, mesh=None, **overrides):
    """Rebuild the model of a checkpoint, on any number of devices.

    Args:
        path: a checkpoint; the working directory of a training, for its newest one; with `@best` or
            `@<step>` behind it for another one; a hub folder; or `hf:<user>/<name>[@<revision>]`,
            one on the Hugging Face hub.
        mesh: where the parameters go, replicated; by default all devices.
        **overrides: arguments of `create_model` that replace those of the checkpoint's
            configuration, such as `eval_relations` or `dtype`. `deploy=True` fuses the branches of
            a trained MobileOne.

    Returns:
        The `Recognizer`, with `model.info`, see `Info`.

    Raises:
        UserError: there is no checkpoint, it is corrupt, or it doesn't fit its configuration.
    """
    from trn_jax.checkpoints import checkpoint

    found = checkpoint.open_checkpoint(path)
    model = found.load(mesh=mesh, **overrides)
    model.info = info_of(found)
    return model


def info_of(found):
    """The `Info` of an opened `checkpoints.checkpoint.Checkpoint`."""
    about = found.info
    return Info(
        path=str(found.directory),
        step=about.get("step") or 0,
        class_names=tuple(about["class_names"]),
        views=_protocols(about["config"]),
        sampling=_sampling(about.get("sampling")),
        config=about["config"],
        metrics=about.get("metrics") or {},
        source=about.get("source") or {},
        calibration=found.calibration(),
    )


def _sampling(stored):
    """The lengths of training examples that a checkpoint has; `None` where it has none."""
    stored = stored if isinstance(stored, dict) else {}
    positive = Range(0, excluded="low")
    return {
        key: float(stored[key]) if positive.allows(stored.get(key)) else None
        for key in ("num_frames", "seconds", "frame_rate")
    }


def _protocols(values):
    """The protocols of a configuration, with inherited values."""
    return resolved(from_dict(values)).protocols.to_dict()


def create_model(name, *, num_classes, weights=None, init_head=False, **options):
    """Build a model with freshly drawn parameters, or with weights.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes; 0 for a model without a head, which gives features.
        weights: what the backbone starts from, as `config.init_from` does: a .pth or
            .safetensors file of another project, or a checkpoint.
        init_head: load neck and head, too; from a checkpoint, as far as they have the same
            shapes.
        **options: see `trn_jax.models.create_model`.

    Returns:
        A `Recognizer`.

    Raises:
        UserError: see `trn_jax.models.create_model`; or the weights do not fit.
    """
    model = models.create_model(name, num_classes=num_classes, **options)
    if weights is None:
        return model
    from trn_jax import convert
    from trn_jax.checkpoints import checkpoint, finding

    backbone_only = not (init_head and num_classes)
    if not finding.is_stored(weights):
        if not os.path.exists(weights):
            raise UserError(f"weights={weights}: there is neither such a file nor a checkpoint")
        state = convert.read_torch_file(weights)
        convert.load_state_dict(model, state, backbone_only=backbone_only, reset_temporal_op=None)
        return model
    values = checkpoint.open_checkpoint(weights).weights()
    graph, state = nnx.split(model)
    (tree,), _ = checkpoint.take_weights((nnx.as_pure(state),), values, backbone_only=backbone_only)
    return nnx.merge(graph, tree)
