"""The models once more, in PyTorch: to verify converted weights, and to compare speed with.

They take the weights of mmaction2, mmpretrain and the original TRN under the names that these have
in their files. Importing this package needs PyTorch, so nothing else imports it unasked.
"""

import inspect
from functools import partial
from typing import Any

from trn_jax.errors import UserError

try:
    import torch
except (ImportError, OSError) as error:
    raise UserError(
        f"this needs PyTorch, which cannot be imported ({error}): pip install torch, or "
        'pip install -e ".[torch]"'
    ) from error

from trn_jax.models import MODELS
from trn_jax.models.recognizer import IMAGENET_MEAN, IMAGENET_STD
from trn_jax.torch_models.bninception import BNInception
from trn_jax.torch_models.densenet import DenseNet
from trn_jax.torch_models.heads import AverageHead, FrameHead, TRNHead
from trn_jax.torch_models.mobileone import MobileOne
from trn_jax.torch_models.recognizer import OriginalRecognizer, Recognizer, channels_last
from trn_jax.torch_models.resnet import BasicBlock, Bottleneck, ResNet, ResNeXt, SlowOnly
from trn_jax.torch_models.swin import Swin
from trn_jax.torch_models.temporal import interlaced, shifted
from trn_jax.torch_models.tpn import TPN

BACKBONES = {
    "resnet10": partial(ResNet, BasicBlock, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, BasicBlock, (3, 4, 6, 3)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "resnet101": partial(ResNet, Bottleneck, (3, 4, 23, 3)),
    "resnet152": partial(ResNet, Bottleneck, (3, 8, 36, 3)),
    "slowonly_resnet14": partial(SlowOnly, (1, 1, 1, 1)),
    "slowonly_resnet50": partial(SlowOnly, (3, 4, 6, 3)),
    "bninception": BNInception,
    "densenet161": partial(DenseNet, (6, 12, 36, 24), growth=48, width=96),
    "swin_base": partial(Swin, (2, 2, 18, 2), width=128),
    "resnext14_32x4d": partial(ResNeXt, (1, 1, 1, 1)),
    "resnext101_32x4d": partial(ResNeXt, (3, 4, 23, 3)),
    "mobileone_tiny": partial(MobileOne, (1, 2), (8, 16), stem_width=8, num_se_blocks=(0, 1)),
    "mobileone_s4": partial(
        MobileOne, (2, 8, 10, 1), (192, 448, 896, 2048), num_se_blocks=(0, 0, 5, 1)
    ),
}
TEMPORAL_OPS = {"tsm": shifted, "tin": interlaced}
NECKS = {"tpn": TPN}
HEADS = {
    "tsn": partial(AverageHead, dropout_rate=0.4),
    "trn": partial(TRNHead, multi_scale=False),
    "trn_multiscale": partial(TRNHead, multi_scale=True),
    "tsm": FrameHead,
    "tpn": partial(AverageHead, dropout_rate=0.5),
}
_REGISTRIES: dict[str, dict[str, Any]] = {
    "backbone": BACKBONES,
    "temporal_op": TEMPORAL_OPS,
    "neck": NECKS,
    "head": HEADS,
}
# Options of our models that say how they start, what they train or how they are computed.
_WITHOUT_EFFECT = {"dtype", "frozen_stages", "init_std", "norm_group", "partial_bn", "remat"}


def create_twin(name, *, num_classes, num_segments=8, **overrides):
    """Build the PyTorch twin of one of our models.

    Convolutions have their channels last in memory, which is PyTorch's fastest form on a CPU, with
    one exception, see `MobileOne`.

    Args:
        name: one of `trn_jax.list_models()`.
        num_classes: number of classes.
        num_segments: frames of a clip.
        **overrides: as in `trn_jax.create_model`. What concerns initial weights, frozen layers,
            groups of batch statistics, memory and the dtype has no effect here.

    Returns:
        A module that maps `[batch, frames, height, width, 3]` to logits `[batch, num_classes]`, in
        training mode.

    Raises:
        UserError: there is no such model, or no twin of this combination.
    """
    models: dict[str, Any] = MODELS
    if name not in models:
        raise UserError(f"unknown model {name!r}. Known: {', '.join(sorted(models))}")
    entry = dict(models[name])
    defaults = entry.pop("options", {})
    asked = {key: value for key, value in overrides.items() if value is not None}
    parts = {}
    for kind, registry in _REGISTRIES.items():
        choice = asked.pop(kind, entry.get(kind))
        if choice is not None:
            if choice not in registry:
                known = ", ".join(sorted(registry))
                kind = kind.replace("_", " ")
                raise UserError(f"there is no twin of the {kind} {choice!r}, only of {known}")
            parts[kind] = registry[choice]
    options = defaults | {k: v for k, v in asked.items() if k not in _WITHOUT_EFFECT}
    pixels = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    common = {"num_classes": num_classes, "num_segments": num_segments}
    used = set(pixels)

    def build(part, *arguments, **more):
        wanted = inspect.signature(part).parameters
        chosen = {key: value for key, value in options.items() if key in wanted}
        used.update(chosen)
        more |= {key: value for key, value in common.items() if key in wanted}
        return part(*arguments, **more | chosen)

    hook = {}
    if "temporal_op" in parts:
        if "wrap" not in inspect.signature(parts["backbone"]).parameters:
            raise UserError(f"the twin of {name!r} has no place for a temporal op")
        hook["wrap"] = partial(build, parts["temporal_op"])
    backbone = build(parts["backbone"], **hook)
    neck = build(parts["neck"], backbone.stage_channels) if "neck" in parts else None
    head = build(parts["head"], neck.out_channels if neck else backbone.stage_channels[-1])
    unknown = sorted(asked.keys() - used - _WITHOUT_EFFECT)
    if unknown:
        raise UserError(f"the twin of {name!r} has no option {', '.join(map(repr, unknown))}")
    recognizer = OriginalRecognizer if isinstance(backbone, BNInception) else Recognizer
    pixels |= {key: options[key] for key in pixels if key in options}
    twin = recognizer(backbone, head, neck, **pixels)
    return _channels_last(twin) if channels_last(backbone) else twin


def _channels_last(module):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return module
