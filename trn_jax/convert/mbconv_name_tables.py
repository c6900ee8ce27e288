"""Names of EfficientNet-B0 and MobileNetV3-Large, whose blocks are one list in our models."""

from trn_jax.backbones.efficientnet import B0
from trn_jax.backbones.mobilenetv3 import LARGE
from trn_jax.convert.image_name_tables import CLASSIFIER
from trn_jax.convert.mobilenet_name_tables import timm_block

# What batch norms add to variances, where sources of one network differ.
EPSILONS = {"torchvision_mobilenetv3": 1e-3, "timm_mobilenetv3": 1e-5}

# (stage, index in the stage) of each block as others count them, and its layers.
_EFFICIENTNET = tuple(
    (stage, index, ("expand",) * (expansion > 1) + ("depthwise", "se", "project"))
    for stage, (expansion, *_, depth) in enumerate(B0)
    for index in range(depth)
)
_PLACES = [(stage, i) for stage, depth in enumerate((1, 2, 3, 4, 2, 3)) for i in range(depth)]
_MOBILENETV3 = tuple(
    (
        *place,
        ("expand",) * bool(number) + ("depthwise",) + ("se",) * bool(s.squeezed) + ("project",),
    )
    for number, (place, s) in enumerate(zip(_PLACES, LARGE, strict=True))
)


def _torchvision(blocks, prefix, last):
    """A block is `prefix(stage, index, number)`; temporal shifts add a component `net`."""
    yield r"features\.0\.0", "backbone/stem_conv/conv"
    yield r"features\.0\.1", "backbone/stem_conv/bn"
    yield rf"features\.{last}\.0", "backbone/last/conv"
    yield rf"features\.{last}\.1", "backbone/last/bn"
    for number, (stage, index, layers) in enumerate(blocks):
        for place, layer in enumerate(layers):
            name = rf"features\.{prefix(stage, index, number)}\.block\.{place}\."
            path = f"backbone/blocks/{number}/{layer}"
            if layer == "se":
                yield name + r"(fc\d)", path + r"/\1"
            else:
                yield name + r"0(?:\.net)?", f"{path}/conv"
                yield name + r"1", f"{path}/bn"


TORCHVISION_EFFICIENTNET = (
    *_torchvision(_EFFICIENTNET, lambda stage, index, _: rf"{stage + 1}\.{index}", len(B0) + 1),
    (r"classifier\.1", CLASSIFIER),
)
TORCHVISION_MOBILENETV3 = (
    *_torchvision(_MOBILENETV3, lambda _, __, number: number + 1, len(LARGE) + 1),
    (r"classifier\.0", "backbone/hidden"),
    (r"classifier\.3", CLASSIFIER),
)


def _timm(blocks):
    yield r"conv_stem", "backbone/stem_conv/conv"
    yield r"bn1", "backbone/stem_conv/bn"
    for number, (stage, index, layers) in enumerate(blocks):
        path = f"backbone/blocks/{number}"
        yield from timm_block(stage, index, path, [layer for layer in layers if layer != "se"])
        yield rf"blocks\.{stage}\.{index}\.se\.conv_reduce", f"{path}/se/fc1"
        yield rf"blocks\.{stage}\.{index}\.se\.conv_expand", f"{path}/se/fc2"
    yield r"classifier", CLASSIFIER


TIMM_EFFICIENTNET = (
    *_timm(_EFFICIENTNET),
    (r"conv_head", "backbone/last/conv"),
    (r"bn2", "backbone/last/bn"),
)
TIMM_MOBILENETV3 = (
    *_timm(_MOBILENETV3),
    (r"blocks\.6\.0\.conv", "backbone/last/conv"),
    (r"blocks\.6\.0\.bn1", "backbone/last/bn"),
    (r"conv_head", "backbone/hidden"),
)


def _mmpretrain():
    yield r"backbone\.layer0\.(conv|bn)", r"backbone/stem_conv/\1"
    yield rf"backbone\.layer{len(LARGE) + 1}\.(conv|bn)", r"backbone/last/\1"
    for number in range(len(LARGE)):
        block, path = rf"backbone\.layer{number + 1}\.", f"backbone/blocks/{number}/"
        for name, layer in (
            ("expand", "expand"),
            ("depthwise", "depthwise"),
            ("linear", "project"),
        ):
            yield rf"{block}{name}_conv\.(conv|bn)", rf"{path}{layer}/\1"
        yield block + r"se\.conv(\d)\.conv", path + r"se/fc\1"
    yield r"head\.layers\.0\.fc", "backbone/hidden"
    yield r"head\.layers\.1\.fc", "head/fc"


MMPRETRAIN_MOBILENETV3 = tuple(_mmpretrain())
