"""All models by name, and `create_model`, which puts their parts together."""

import fnmatch
import inspect
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.errors import UserError, did_you_mean
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tin import TemporalInterlace
from trn_jax.models.tpn import TPN, TPNHead
from trn_jax.models.trn import TRNHead
from trn_jax.models.tsm import TemporalShift, TSMHead
from trn_jax.models.tsn import TSNHead

# What lets the frames of a clip talk to each other inside the backbone: constructors `(channels, *,
# num_segments, dtype, rngs, ...)` of maps of `[batch * segments, height, width, channels]`.
TEMPORAL_OPS: dict[str, Callable[..., nnx.Module]] = {
    "tsm": TemporalShift,
    "tin": TemporalInterlace,
}

# From the features of all stages to those that the head sees, see `Recognizer`.
NECKS = {"tpn": TPN}

HEADS = {
    "tsn": TSNHead,
    "trn": partial(TRNHead, multi_scale=False),
    "trn_multiscale": partial(TRNHead, multi_scale=True),
    "tsm": TSMHead,
    "tpn": TPNHead,
}

# TIN interlaces every block of networks of any depth, and drops more than TSM.
_TIN = dict(shift_every=1, dropout_rate=0.8)

# `options` are defaults in place of those of the parts; one that no part takes, because a part was
# replaced, lapses.
# Caffe's networks were trained on BGR pixels minus a mean; here both are in RGB order, and the
# conversion of weights reverses the channels of the first kernel.
_CAFFE_PIXELS = dict(mean=(128.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))

MODELS = {
    "tsn_resnet10": dict(backbone="resnet10", head="tsn"),
    "tsn_resnet18": dict(backbone="resnet18", head="tsn"),
    "tsn_resnet34": dict(backbone="resnet34", head="tsn"),
    "tsn_resnet50": dict(backbone="resnet50", head="tsn"),
    "tsn_resnet101": dict(backbone="resnet101", head="tsn"),
    "tsn_resnet152": dict(backbone="resnet152", head="tsn"),
    "tsn_densenet161": dict(backbone="densenet161", head="tsn"),
    "tsn_swin_base": dict(backbone="swin_base", head="tsn"),
    "tsn_bninception": dict(
        backbone="bninception", head="tsn", options=dict(dropout_rate=0.8, **_CAFFE_PIXELS)
    ),
    "tsn_resnext101_32x4d": dict(backbone="resnext101_32x4d", head="tsn"),
    "tsn_mobileone_s4": dict(backbone="mobileone_s4", head="tsn"),
    "trn_resnet10": dict(backbone="resnet10", head="trn_multiscale"),
    "trn_resnet18": dict(backbone="resnet18", head="trn_multiscale"),
    "trn_resnet50": dict(backbone="resnet50", head="trn_multiscale"),
    "tsm_resnet10": dict(backbone="resnet10", temporal_op="tsm", head="tsm"),
    "tsm_resnet18": dict(backbone="resnet18", temporal_op="tsm", head="tsm"),
    "tsm_resnet50": dict(backbone="resnet50", temporal_op="tsm", head="tsm"),
    "tsm_resnet101": dict(backbone="resnet101", temporal_op="tsm", head="tsm"),
    "tsm_mobileone_s4": dict(backbone="mobileone_s4", temporal_op="tsm", head="tsm"),
    "tin_resnet10": dict(backbone="resnet10", temporal_op="tin", head="tsm", options=_TIN),
    "tin_resnet50": dict(backbone="resnet50", temporal_op="tin", head="tsm", options=_TIN),
    "tpn_slowonly_resnet14": dict(backbone="slowonly_resnet14", neck="tpn", head="tpn"),
    "tpn_slowonly_resnet50": dict(backbone="slowonly_resnet50", neck="tpn", head="tpn"),
    "tpn_tsm_resnet10": dict(backbone="resnet10", temporal_op="tsm", neck="tpn", head="tpn"),
    "tpn_tsm_resnet50": dict(backbone="resnet50", temporal_op="tsm", neck="tpn", head="tpn"),
    "trn_bninception": dict(backbone="bninception", head="trn_multiscale", options=_CAFFE_PIXELS),
}

# For the synthetic data and for tests: no numbers were published of them, and they are not listed.
_SMALL = {
    *("tsn_resnet10", "trn_resnet10", "tsm_resnet10", "tin_resnet10"),
    *("tpn_slowonly_resnet14", "tpn_tsm_resnet10"),
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
    """Names of the models that match a shell-style `pattern`, sorted.

    The networks of the synthetic recipes, such as `trn_resnet10`, are listed by their whole name
    only.
    """
    return sorted(
        name for name in fnmatch.filter(MODELS, pattern) if name not in _SMALL or name == pattern
    )


def create_model(name, *, num_classes, num_segments=8, rngs=None, dtype=jnp.float32, **overrides):
    """Build a model with freshly drawn parameters.

    Wrap the call in `nnx.eval_shape` to get shapes only, or in `jax.jit` to draw faster.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes; 0 for a model without a head, which gives the features of
            every frame, see `Recognizer.features`.
        num_segments: frames of a clip. Heads that average take any number later, unless there is a
            `temporal_op`.
        rngs: source of the `params` keys; `nnx.Rngs(0)` by default.
        dtype: dtype of the computation, e.g. `"bfloat16"`; parameters stay in float32.
        **overrides: `backbone`, `temporal_op`, `neck` and `head` replace a part of the model by
            another one of that name, or by a constructor with the arguments of those in the
            registries here, such as a head of one's own; every other keyword is an option of the
            recognizer or of one of the parts, such as `norm_group`, `partial_bn` or `dropout_rate`.
            `None` means "as the model has it".

    Returns:
        A `Recognizer`.

    Raises:
        UserError: for an unknown name or option (the message lists the known ones), or for parts
            that do not fit together.
    """
    entry = dict(_look_up(MODELS, "model", name))
    defaults = entry.pop("options", {})
    options = {key: value for key, value in overrides.items() if value is not None}
    parts = {}
    for kind, registry in _REGISTRIES.items():
        chosen = options.pop(kind, entry.get(kind))
        if chosen is not None:
            entry[kind] = chosen
            part = chosen if callable(chosen) else _look_up(registry, _spoken(kind), chosen)
            parts[kind] = part
    if not num_classes:
        parts.pop("head")

    names = {kind: _options(part) for kind, part in parts.items()} | {
        "recognizer": _options(Recognizer)
    }
    known = sorted(set().union(*names.values()))
    unknown = sorted(set(options).difference(known))
    if unknown:
        built = ", ".join(f"{_spoken(kind)} {choice!r}" for kind, choice in entry.items())
        raise UserError(
            f"model {name!r} ({built}) has no option {', '.join(map(repr, unknown))}; its options "
            f"are {', '.join(known)}"
        )

    options = {key: value for key, value in defaults.items() if key in known} | options

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
    head = build("head", (neck or backbone).out_channels) if "head" in parts else None
    chosen = {key: value for key, value in options.items() if key in names["recognizer"]}
    if hook:
        chosen["num_segments"] = num_segments
    return Recognizer(backbone, head, neck=neck, **chosen)


def _options(part):
    parameters = _parameters(part).values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - _OWN_ARGUMENTS


def _parameters(part):
    part = getattr(part, "func", part)  # registries hold classes and partial applications of them
    return inspect.signature(part.__init__).parameters  # NNX hides the signature of the class


def _spoken(kind):
    return kind.replace("_", " ")


def _look_up(registry, kind, name):
    if name not in registry:
        hint = did_you_mean(name, registry)
        raise UserError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(registry))}")
    return registry[name]
