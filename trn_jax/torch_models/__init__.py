"""PyTorch counterparts of all models, to verify converted weights and to compare speed.

Parameters have the names that mmaction2, mmpretrain and the original TRN have in their files.
Importing this package needs PyTorch, so other modules import it only on demand.
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
from trn_jax.torch_models.convnext import ConvNeXt
from trn_jax.torch_models.densenet import DenseNet
from trn_jax.torch_models.heads import AverageHead, FrameHead, TRNHead
from trn_jax.torch_models.inceptionv3 import InceptionV3
from trn_jax.torch_models.mbconv import EfficientNetB0, MobileNetV3Large
from trn_jax.torch_models.mobilenet import MobileNetV2
from trn_jax.torch_models.mobileone import MobileOne
from trn_jax.torch_models.recognizer import OriginalRecognizer, Recognizer, channels_last
from trn_jax.torch_models.resnet import BasicBlock, Bottleneck, ResNet, ResNeXt, SlowOnly
from trn_jax.torch_models.swin import Swin
from trn_jax.torch_models.temporal import interlaced, shifted
from trn_jax.torch_models.tpn import TPN
from trn_jax.torch_models.vit import ViT

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
    "swin_tiny": partial(Swin, (2, 2, 6, 2), width=96),
    "swin_small": partial(Swin, (2, 2, 18, 2), width=96),
    "swin_base": partial(Swin, (2, 2, 18, 2), width=128),
    "swin_large": partial(Swin, (2, 2, 18, 2), width=192),
    "resnext14_32x4d": partial(ResNeXt, (1, 1, 1, 1)),
    "resnext50_32x4d": partial(ResNeXt, (3, 4, 6, 3)),
    "resnext101_32x4d": partial(ResNeXt, (3, 4, 23, 3)),
    "mobilenetv2": MobileNetV2,
    "mobilenetv2_tiny": partial(MobileNetV2, ((1, 8, 1, 1), (2, 16, 2, 2)), ((1,), (2,))),
    "mobileone_tiny": partial(MobileOne, (1, 2), (8, 16), stem_width=8, num_se_blocks=(0, 1)),
    "mobileone_s4": partial(
        MobileOne, (2, 8, 10, 1), (192, 448, 896, 2048), num_se_blocks=(0, 0, 5, 1)
    ),
    "convnext_tiny": partial(ConvNeXt, (3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_base": partial(ConvNeXt, (3, 3, 27, 3), (128, 256, 512, 1024)),
    "efficientnet_b0": EfficientNetB0,
    "inceptionv3": InceptionV3,
    "mobilenetv3_large": MobileNetV3Large,
    "vit_base": partial(ViT, 12, width=768),
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
_IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_REGISTRIES: dict[str, dict[str, Any]] = {
    "backbone": BACKBONES,
    "temporal_op": TEMPORAL_OPS,
    "neck": NECKS,
    "head": HEADS,
}
# Options of our models about initialisation, training or memory.
_WITHOUT_EFFECT = {"dtype", "frozen_stages", "init_std", "norm_group", "partial_bn", "remat"}


def create_torch_model(name, *, num_classes, num_segments=8, **overrides):
    """Build the PyTorch counterpart of one of our models.

    Convolutions have channels-last memory, PyTorch's fastest form on a CPU, with one exception, see
    `MobileOne`.

    Args:
        name: one of `trn_jax.list_models()`.
        num_classes: number of classes.
        num_segments: frames of a clip.
        **overrides: as in `trn_jax.create_model`. Initial weights, frozen layers, groups of batch
            statistics, memory and dtype have no effect here.

    Returns:
        A module that maps `[batch, frames, height, width, 3]` to logits `[batch, num_classes]`, in
        training mode.

    Raises:
        UserError: for an unknown model, part or option.
    """
    models: dict[str, Any] = MODELS
    if name not in models:
        raise UserError(f"unknown model {name!r}. Known: {', '.join(sorted(models))}")
    entry = dict(models[name])
    defaults = entry.pop("options", {})
    overrides = {key: value for key, value in overrides.items() if value is not None}
    entry |= {kind: overrides.pop(kind) for kind in _REGISTRIES if kind in overrides}
    parts = {kind: _part(kind, choice) for kind, choice in entry.items()}
    options = defaults | overrides | dict(num_classes=num_classes, num_segments=num_segments)
    options = {key: value for key, value in options.items() if key not in _WITHOUT_EFFECT}
    used = {"mean", "std"}

    def build(part, *arguments, **more):
        wanted = inspect.signature(part).parameters
        chosen = {key: value for key, value in options.items() if key in wanted}
        used.update(chosen)
        return part(*arguments, **more, **chosen)

    hook = {}
    if "temporal_op" in parts:
        if "wrap" not in inspect.signature(parts["backbone"]).parameters:
            raise UserError(f"in PyTorch, {name!r} has no place for temporal_op")
        hook["wrap"] = partial(build, parts["temporal_op"])
    backbone = build(parts["backbone"], **hook)
    neck = build(parts["neck"], backbone.stage_channels) if "neck" in parts else None
    head = build(parts["head"], neck.out_channels if neck else backbone.stage_channels[-1])
    if unknown := sorted(overrides.keys() - used - _WITHOUT_EFFECT):
        raise UserError(f"in PyTorch, {name!r} has no option {', '.join(map(repr, unknown))}")
    recognizer = OriginalRecognizer if isinstance(backbone, BNInception) else Recognizer
    pixels = {key: options.get(key, value) for key, value in _IMAGENET.items()}
    model = recognizer(backbone, head, neck, **pixels)
    return _channels_last(model) if channels_last(backbone) else model


def _part(kind, choice):
    registry = _REGISTRIES[kind]
    if choice not in registry:
        known = ", ".join(sorted(registry))
        raise UserError(f"no {kind.replace('_', ' ')} {choice!r} in PyTorch, only {known}")
    return registry[choice]


def _channels_last(module):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
    return module
