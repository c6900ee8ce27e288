"""All models by name, and `create_model`, which puts their parts together."""

import difflib
import fnmatch
import inspect
from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.errors import UserError
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tpn import TPN, TPNHead
from trn_jax.models.trn import TRNHead
from trn_jax.models.tsn import TSNHead

# What lets the frames of a clip talk to each other inside the backbone: constructors `(channels, *,
# num_segments, dtype, rngs, ...)` of maps of `[batch * segments, height, width, channels]`.
TEMPORAL_OPS: dict = {}

# From the features of all stages to those that the head sees, see `Recognizer`.
NECKS = {"tpn": TPN}

HEADS = {
    "tsn": TSNHead,
    "trn": partial(TRNHead, multi_scale=False),
    "trn_multiscale": partial(TRNHead, multi_scale=True),
    "tpn": TPNHead,
}

MODELS = {
    "tsn_resnet10": dict(backbone="resnet10", head="tsn"),
    "tsn_resnet18": dict(backbone="resnet18", head="tsn"),
    "tsn_resnet34": dict(backbone="resnet34", head="tsn"),
    "tsn_resnet50": dict(backbone="resnet50", head="tsn"),
    "tsn_resnet101": dict(backbone="resnet101", head="tsn"),
    "tsn_resnet152": dict(backbone="resnet152", head="tsn"),
    "trn_resnet10": dict(backbone="resnet10", head="trn_multiscale"),
    "trn_resnet18": dict(backbone="resnet18", head="trn_multiscale"),
    "trn_resnet50": dict(backbone="resnet50", head="trn_multiscale"),
    "tpn_slowonly_resnet14": dict(backbone="slowonly_resnet14", neck="tpn", head="tpn"),
    "tpn_slowonly_resnet50": dict(backbone="slowonly_resnet50", neck="tpn", head="tpn"),
    "tpn_tsm_resnet50": dict(backbone="resnet50", temporal_op="tsm", neck="tpn", head="tpn"),
}

# What create_model hands to the parts itself; everything else a part takes by keyword is an option.
_OWN_ARGUMENTS = {
    "dtype",
    "multi_scale",
    "num_classes",
    "num_segments",
    "rngs",
    "stage_channels",
    "temporal_op",
}


_REGISTRIES = {
    "backbone": BACKBONES,
    "temporal_op": TEMPORAL_OPS,
    "neck": NECKS,
    "head": HEADS,
}


def list_models(pattern="*"):
    """Names of the models that match a shell-style `pattern`, sorted."""
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(name, *, num_classes, num_segments=8, rngs=None, dtype=jnp.float32, **overrides):
    """Build a model with freshly drawn parameters.

    Wrap the call in `nnx.eval_shape` to get shapes only, or in `jax.jit` to draw faster.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes.
        num_segments: frames of a clip in training (heads that average take any number later).
        rngs: source of the `params` keys; `nnx.Rngs(0)` by default.
        dtype: dtype of the computation, e.g. `"bfloat16"`; parameters stay in float32.
        **overrides: `backbone`, `temporal_op`, `neck` and `head` replace a part of the model by
            another one of that name; every other keyword is an option of the recognizer or of one
            of the parts, such as `norm_group`, `partial_bn` or `dropout_rate`. `None` means "as the
            model has it".

    Returns:
        A `Recognizer`.

    Raises:
        UserError: for an unknown name or option; the message lists the known ones.
    """
    entry = dict(_look_up(MODELS, "model", name))
    options = entry.pop("options", {}) | {k: v for k, v in overrides.items() if v is not None}
    parts = {}
    for kind, registry in _REGISTRIES.items():
        chosen = options.pop(kind, entry.get(kind))
        if chosen is not None:
            entry[kind] = chosen
            parts[kind] = _look_up(registry, kind.replace("_", " "), chosen)

    names = {kind: _options(part) for kind, part in parts.items()} | {
        "recognizer": _options(Recognizer)
    }
    unknown = sorted(set(options).difference(*names.values()))
    if unknown:
        known = sorted(set().union(*names.values()))
        built = ", ".join(f"{kind.replace('_', ' ')} {choice!r}" for kind, choice in entry.items())
        raise UserError(
            f"model {name!r} ({built}) has no option {', '.join(map(repr, unknown))}; its options "
            f"are {', '.join(known)}"
        )

    common = dict(
        dtype=jnp.dtype(dtype),
        rngs=nnx.Rngs(0) if rngs is None else rngs,
        num_segments=num_segments,
        num_classes=num_classes,
    )

    def build(kind, *arguments, **more):
        part = parts[kind]
        wanted = _parameters(part)
        more |= {key: value for key, value in common.items() if key in wanted}
        more |= {key: value for key, value in options.items() if key in names[kind]}
        return part(*arguments, **more)

    hook = {}
    if "temporal_op" in parts:
        if "temporal_op" not in _parameters(parts["backbone"]):
            raise UserError(
                f"backbone {entry['backbone']!r} has no place for a temporal op, so it cannot take "
                f"{entry['temporal_op']!r}"
            )
        hook["temporal_op"] = lambda channels: build("temporal_op", channels)
    backbone = build("backbone", **hook)
    neck = build("neck", backbone.stage_channels) if "neck" in parts else None
    head = build("head", (neck or backbone).out_channels)
    chosen = {key: value for key, value in options.items() if key in names["recognizer"]}
    return Recognizer(backbone, head, neck=neck, **chosen)


def _options(part):
    parameters = _parameters(part).values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - _OWN_ARGUMENTS


def _parameters(part):
    part = getattr(part, "func", part)  # registries hold classes and partial applications of them
    return inspect.signature(part.__init__).parameters  # NNX hides the signature of the class


def _look_up(registry, kind, name):
    if name not in registry:
        close = difflib.get_close_matches(str(name), registry, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(registry))}")
    return registry[name]
