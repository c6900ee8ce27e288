"""Registry of models, and `create_model`, which assembles their parts."""

import fnmatch
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.backbones.adapter import adapted
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.errors import UserError, did_you_mean
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tin import TemporalInterlace
from trn_jax.models.tpn import TPN, TPNHead
from trn_jax.models.trn import TRNHead
from trn_jax.models.tsm import TemporalShift, TSMHead
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.precision import compute_dtype

# Exchange features between the frames of a clip inside the backbone: constructors `(channels, *,
# num_segments, dtype, rngs, ...)` of maps of `[batch * segments, height, width, channels]`.
TEMPORAL_OPS: dict[str, Callable[..., nnx.Module]] = {
    "tsm": TemporalShift,
    "tin": TemporalInterlace,
}

# From the features of all stages to the input of the head, see `Recognizer`.
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

# Caffe's networks were trained on BGR pixels minus a mean. Here both are in RGB order: converting
# weights reverses the channels of the first kernel.
_CAFFE_PIXELS = dict(mean=(128.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))

# Pixels of Inception-v3 are in -1..1.
_UNIT_PIXELS = dict(mean=(127.5,) * 3, std=(127.5,) * 3)

# `options` override the defaults of the parts; those that no part has any more, because a part was
# replaced, are ignored.
MODELS: dict[str, dict[str, Any]] = {
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
    "tsn_mobilenetv2": dict(backbone="mobilenetv2", head="tsn"),
    "trn_resnet10": dict(backbone="resnet10", head="trn_multiscale"),
    "trn_resnet18": dict(backbone="resnet18", head="trn_multiscale"),
    "trn_resnet50": dict(backbone="resnet50", head="trn_multiscale"),
    "trn_mobilenetv2": dict(backbone="mobilenetv2", head="trn_multiscale"),
    "tsm_resnet10": dict(backbone="resnet10", temporal_op="tsm", head="tsm"),
    "tsm_resnet18": dict(backbone="resnet18", temporal_op="tsm", head="tsm"),
    "tsm_resnet50": dict(backbone="resnet50", temporal_op="tsm", head="tsm"),
    "tsm_resnet101": dict(backbone="resnet101", temporal_op="tsm", head="tsm"),
    "tsm_mobileone_s4": dict(backbone="mobileone_s4", temporal_op="tsm", head="tsm"),
    "tsm_mobilenetv2": dict(backbone="mobilenetv2", temporal_op="tsm", head="tsm"),
    "tin_resnet10": dict(backbone="resnet10", temporal_op="tin", head="tsm", options=_TIN),
    "tin_resnet50": dict(backbone="resnet50", temporal_op="tin", head="tsm", options=_TIN),
    "tpn_slowonly_resnet14": dict(backbone="slowonly_resnet14", neck="tpn", head="tpn"),
    "tpn_slowonly_resnet50": dict(backbone="slowonly_resnet50", neck="tpn", head="tpn"),
    "tpn_tsm_resnet10": dict(backbone="resnet10", temporal_op="tsm", neck="tpn", head="tpn"),
    "tpn_tsm_resnet50": dict(backbone="resnet50", temporal_op="tsm", neck="tpn", head="tpn"),
    "trn_bninception": dict(backbone="bninception", head="trn_multiscale", options=_CAFFE_PIXELS),
    "tsn_swin_tiny": dict(backbone="swin_tiny", head="tsn"),
    "tsn_swin_small": dict(backbone="swin_small", head="tsn"),
    "tsn_swin_large": dict(backbone="swin_large", head="tsn"),
    "tsn_resnext50_32x4d": dict(backbone="resnext50_32x4d", head="tsn"),
    "tsn_convnext_tiny": dict(backbone="convnext_tiny", head="tsn"),
    "tsn_convnext_base": dict(backbone="convnext_base", head="tsn"),
    "tsn_efficientnet_b0": dict(backbone="efficientnet_b0", head="tsn"),
    "tsn_mobilenetv3_large": dict(backbone="mobilenetv3_large", head="tsn"),
    "tsn_vit_base": dict(backbone="vit_base", head="tsn"),
    "tsn_inceptionv3": dict(backbone="inceptionv3", head="tsn", options=_UNIT_PIXELS),
    "trn_inceptionv3": dict(backbone="inceptionv3", head="trn_multiscale", options=_UNIT_PIXELS),
}

# For synthetic data and tests, without published numbers: not listed.
_SMALL = {
    *("tsn_resnet10", "trn_resnet10", "tsm_resnet10", "tin_resnet10"),
    *("tpn_slowonly_resnet14", "tpn_tsm_resnet10"),
}

# Arguments that create_model sets itself; all other keyword arguments of a part are options.
_OWN_ARGUMENTS = {
    *("dtype", "multi_scale", "num_classes", "num_segments", "op", "rngs", "stage_channels"),
    "temporal",
}

_REGISTRIES = {
    "backbone": BACKBONES,
    "temporal_op": TEMPORAL_OPS,
    "neck": NECKS,
    "head": HEADS,
}


def list_models(pattern="*"):
    """Names of the models that match a shell-style `pattern`, sorted.

    The networks of the synthetic recipes, such as `trn_resnet10`, match by their full name only.
    """
    return sorted(
        name for name in fnmatch.filter(MODELS, pattern) if name not in _SMALL or name == pattern
    )


def list_backbones(pattern="*"):
    """Names of the backbones that match a shell-style `pattern`, sorted.

    Those that no model of `list_models()` has, such as `resnet10`, match by their full name only.
    """
    listed = {MODELS[name]["backbone"] for name in list_models()}
    found = fnmatch.filter(BACKBONES, pattern)
    return sorted(name for name in found if name in listed or name == pattern)


def create_model(name, *, num_classes, num_segments=8, rngs=None, dtype=jnp.float32, **overrides):
    """Build a model with randomly initialised parameters.

    Wrap the call in `nnx.eval_shape` to get shapes only, or in `jax.jit` to initialise faster.

    Args:
        name: one of `list_models()`.
        num_classes: number of classes; 0 for a feature extractor without a head, see
            `Recognizer.features`.
        num_segments: frames of a clip. Models without `temporal_op` and `non_local` whose head
            averages frames accept any number later.
        rngs: source of the `params` keys; `nnx.Rngs(0)` by default.
        dtype: dtype of the computation, e.g. `"bfloat16"`; parameters stay in float32. `"auto"` is
            bfloat16 on TPUs and on GPUs that have it, see `nn.precision.compute_dtype`.
        **overrides: `backbone`, `temporal_op`, `neck` and `head` replace a part of the model: a
            name, or a constructor with the arguments of those in the registries here. `backbone`
            may also be any NNX module, or its constructor, that maps `[n, height, width, 3]` to
            `[n, height', width', channels]` or `[n, channels]`, see `AdaptedBackbone`; TSM and TIN
            need a constructor that takes `temporal`, see `TemporalHook`. Every other keyword is an
            option of the recognizer or of a part, such as `norm_group`, `non_local`,
            `partial_bn`, `shift_place` or `dropout_rate`. `None` keeps the default.

    Returns:
        A `Recognizer`.

    Raises:
        UserError: for an unknown name or option, with the known ones, or for parts that do not fit
            together.
    """
    entry = dict(_look_up(MODELS, "model", name))
    defaults = entry.pop("options", {})
    overrides = {key: value for key, value in overrides.items() if value is not None}
    entry |= {kind: overrides.pop(kind) for kind in _REGISTRIES if kind in overrides}
    parts = {kind: _part(kind, choice) for kind, choice in entry.items()}
    if not num_classes:
        del parts["head"]
    options = _check_options(name, entry, parts, defaults, overrides)
    options |= dict(num_segments=num_segments, num_classes=num_classes)
    dtype = jnp.dtype(compute_dtype(dtype))
    options |= dict(dtype=dtype, rngs=nnx.Rngs(0) if rngs is None else rngs)
    build = partial(_build, options)

    has_op = "temporal_op" in parts
    hook = dict(temporal=_temporal_hook(entry, parts, build)) if has_op else {}
    backbone = parts["backbone"]
    if not isinstance(backbone, nnx.Module):
        _check_constructor(backbone)
        backbone = build(backbone, **hook)
    backbone = adapted(backbone, num_frames=num_segments if has_op else 1, dtype=options["dtype"])
    neck = build(parts["neck"], backbone.stage_channels) if "neck" in parts else None
    head = build(parts["head"], (neck or backbone).out_channels) if "head" in parts else None
    mixes = has_op or getattr(backbone, "mixes_frames", False)
    options["num_segments"] = num_segments if mixes else None
    return build(Recognizer, backbone, head, neck=neck)


def _build(options, part, *arguments, **more):
    """Call the constructor of a part with those of the options that it takes."""
    wanted = _parameters(part)
    more |= {key: value for key, value in options.items() if key in wanted}
    return part(*arguments, **more)


def _temporal_hook(entry, parts, build):
    """The `TemporalHook` for the backbone.

    Raises:
        UserError: the backbone has no place for it.
    """
    if not takes_temporal_op(parts["backbone"]):
        raise UserError(
            f"backbone {_named(entry['backbone'])} has no place for a temporal op such as "
            f"{_named(entry['temporal_op'])}; its constructor would take temporal=, a "
            "trn_jax.backbones.temporal_hook.TemporalHook"
        )
    return build(TemporalHook, op=partial(build, parts["temporal_op"]))


def takes_temporal_op(backbone):
    """Whether the constructor of a backbone, such as one in `BACKBONES`, has a place for TSM."""
    return "temporal" in _parameters(backbone)


def _check_options(name, entry, parts, defaults, overrides):
    """All options, `{name: value}`: the defaults that apply, and the overrides.

    Raises:
        UserError: no part has an option that is overridden.
    """
    built = [Recognizer, *parts.values(), *([TemporalHook] if "temporal_op" in parts else [])]
    known = set().union(*map(_options, built))
    if unknown := sorted(overrides.keys() - known):
        described = ", ".join(f"{_spoken(kind)} {_named(choice)}" for kind, choice in entry.items())
        raise UserError(
            f"model {name!r} ({described}) has no option {', '.join(map(repr, unknown))}; its "
            f"options are {', '.join(sorted(known))}"
        )
    return {key: value for key, value in defaults.items() if key in known} | overrides


def _options(part):
    parameters = _parameters(part).values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - _OWN_ARGUMENTS


def _parameters(part):
    """Parameters of a constructor; none of a module that exists already."""
    if isinstance(part, nnx.Module):
        return {}
    part = getattr(part, "func", part)  # registries hold classes and partial applications of them
    # NNX hides the signature of the class.
    return inspect.signature(part if inspect.isroutine(part) else part.__init__).parameters


def _check_constructor(backbone):
    """Check that `create_model` has all arguments that the constructor of a backbone needs."""
    given = {"self", "dtype", "rngs", "temporal"}
    needed = [
        name
        for name, parameter in _parameters(backbone).items()
        if parameter.default is parameter.empty and name not in given
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if needed and not isinstance(backbone, partial):
        raise UserError(
            f"backbone {_named(backbone)} needs {', '.join(map(repr, needed))}: give them with "
            "functools.partial, or give a module that is built already"
        )


def _part(kind, choice):
    if isinstance(choice, nnx.Module) and kind != "backbone":
        raise UserError(
            f"{_spoken(kind)} {_named(choice)} is a module; expected its constructor, which gets "
            "the number of channels, or a name"
        )
    return choice if callable(choice) else _look_up(_REGISTRIES[kind], _spoken(kind), choice)


def _named(choice):
    """A part in a message: its name in a registry, or that of its class."""
    choice = getattr(choice, "func", choice)
    if isinstance(choice, str):
        return repr(choice)
    return getattr(choice, "__name__", type(choice).__name__)


def _spoken(kind):
    return kind.replace("_", " ")


def _look_up(registry, kind, name):
    if name not in registry:
        hint = did_you_mean(name, registry)
        raise UserError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(registry))}")
    return registry[name]
