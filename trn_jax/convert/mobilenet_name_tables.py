"""Names of MobileNetV2: one table per naming scheme, see `name_tables`."""

from trn_jax.convert.image_name_tables import CLASSIFIER

_DEPTHS = (1, 2, 3, 4, 3, 3, 1)  # numbers of blocks of `layer1`, `layer2`, ...
# The layers of a block, as a sequence or by their names; the first block has no `expand`.
_LAYERS = ("expand", "depthwise", "project")


def _blocks():
    """Stage from 0, index, number among all from 1, and layers of each block."""
    number = 0
    for stage, depth in enumerate(_DEPTHS):
        for index in range(depth):
            number += 1
            yield stage, index, number, _LAYERS if stage else _LAYERS[1:]


def _path(stage, index):
    return f"backbone/layer{stage + 1}/{index}"


def _in_sequence(convolutions, norms):
    """The table for blocks in one sequence, `features`.

    Args:
        convolutions: function of the number of a layer and of the last one, from 0, that gives the
            pattern of its convolution inside the block.
        norms: the same for its norm.
    """
    yield r"features\.0\.0", "backbone/conv1"
    yield r"features\.0\.1", "backbone/bn1"
    yield rf"features\.{sum(_DEPTHS) + 1}\.0", "backbone/conv2/conv"
    yield rf"features\.{sum(_DEPTHS) + 1}\.1", "backbone/conv2/bn"
    for stage, index, number, layers in _blocks():
        for place, layer in enumerate(layers):
            path, block = f"{_path(stage, index)}/{layer}", rf"features\.{number}\.conv\."
            yield block + convolutions(place, len(layers) - 1), f"{path}/conv"
            yield block + norms(place, len(layers) - 1), f"{path}/bn"


# torchvision: convolution, norm and ReLU are a sequence of their own, but not those of `project`.
TORCHVISION_MOBILENETV2 = (
    *_in_sequence(
        lambda place, last: rf"{place}\.0" if place < last else str(place),
        lambda place, last: rf"{place}\.1" if place < last else str(place + 1),
    ),
    (r"classifier\.1", CLASSIFIER),
)

# The repository of TSM, after tonylins/pytorch-mobilenet-v2: one sequence per block. Temporal
# shifts add a component `net`, but not in the networks of its online demo.
TSM_MOBILENETV2 = tuple(
    _in_sequence(
        lambda place, last: rf"{3 * place}(?:\.net)?",
        lambda place, last: str(3 * place + 1),
    )
)


def timm_block(stage, index, path, layers):
    """Rules for the convolutions of a block in timm; `path` is that of the block in our model."""
    names = ("conv_pw", "conv_dw", "conv_pwl") if len(layers) == 3 else ("conv_dw", "conv_pw")
    for place, (layer, name) in enumerate(zip(layers, names, strict=True), start=1):
        yield rf"blocks\.{stage}\.{index}\.{name}", f"{path}/{layer}/conv"
        yield rf"blocks\.{stage}\.{index}\.bn{place}", f"{path}/{layer}/bn"


TIMM_MOBILENETV2 = (
    (r"conv_stem", "backbone/conv1"),
    (r"bn1", "backbone/bn1"),
    (r"conv_head", "backbone/conv2/conv"),
    (r"bn2", "backbone/conv2/bn"),
    *(
        rule
        for stage, index, _, layers in _blocks()
        for rule in timm_block(stage, index, _path(stage, index), layers)
    ),
    (r"classifier", CLASSIFIER),
)


# mmpretrain and mmaction2, where temporal shifts add a component `net`.
_BLOCK = r"backbone\.layer([2-7])\.(\d)\.conv\."
MMPRETRAIN_MOBILENETV2 = (
    (r"backbone\.conv1\.conv", r"backbone/conv1"),
    (r"backbone\.conv1\.bn", r"backbone/bn1"),
    (r"backbone\.conv2\.(conv|bn)", r"backbone/conv2/\1"),
    (r"backbone\.layer1\.0\.conv\.0\.(conv|bn)", r"backbone/layer1/0/depthwise/\1"),
    (r"backbone\.layer1\.0\.conv\.1\.(conv|bn)", r"backbone/layer1/0/project/\1"),
    (_BLOCK + r"0(?:\.net)?\.(conv|bn)", r"backbone/layer\1/\2/expand/\3"),
    (_BLOCK + r"1\.(conv|bn)", r"backbone/layer\1/\2/depthwise/\3"),
    (_BLOCK + r"2\.(conv|bn)", r"backbone/layer\1/\2/project/\3"),
)
