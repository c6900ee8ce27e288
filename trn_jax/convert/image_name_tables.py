"""Names of image networks: one table per naming scheme, see `name_tables`."""

# Stands for the classifier of an image network, which becomes the head only on request.
CLASSIFIER = "classifier"

# Sources whose DenseNet has a ReLU before its classifier; mmaction2's and ours have none.
BEHIND_RELU = ("torchvision_densenet", "mmpretrain_densenet")


def under(prefix, table):
    """The table for names that begin with `prefix`, a pattern."""
    return tuple((prefix + pattern, replacement) for pattern, replacement in table)


# Caffe's flat names.
BNINCEPTION = (
    (r"(conv\d)_(\w+)_bn", r"backbone/\1_\2/bn"),
    (r"(conv\d)_(\w+)", r"backbone/\1_\2/conv"),
    (r"inception_(\d\w)_(\w+)_bn", r"backbone/inception_\1/convs/\2/bn"),
    (r"inception_(\d\w)_(\w+)", r"backbone/inception_\1/convs/\2/conv"),
)

# The published ImageNet files are older than the code: `norm.1` instead of `norm1`.
DENSENET = (
    (r"features\.(conv0|norm0|norm5)", r"backbone/\1"),
    (r"features\.(denseblock\d)\.(denselayer\d+)\.(norm|conv)\.?(\d)", r"backbone/\1/\2/\3\4"),
    (r"features\.(transition\d)\.(norm|conv)", r"backbone/\1/\2"),
)

_SWIN = (
    (r"patch_embed\.proj", r"backbone/patch_embed"),
    (r"patch_embed\.norm", r"backbone/patch_norm"),
    (r"layers\.(\d)\.blocks\.(\d+)\.(norm\d|attn)", r"backbone/layers/\1/\2/\3"),
    (r"layers\.(\d)\.blocks\.(\d+)\.attn\.(qkv|proj)", r"backbone/layers/\1/\2/attn/\3"),
    (r"layers\.(\d)\.blocks\.(\d+)\.mlp\.(fc\d)", r"backbone/layers/\1/\2/\3"),
    (r"norm", r"backbone/norm"),
)
# Before timm 0.9, patches were merged at the end of a stage, since then at the start of the next.
SWIN_OLD = (*_SWIN, (r"layers\.(\d)\.downsample\.(norm|reduction)", r"backbone/merges/\1/\2"))
SWIN = _SWIN + tuple(
    (rf"layers\.{stage + 1}\.downsample\.(norm|reduction)", rf"backbone/merges/{stage}/\1")
    for stage in range(3)
)


def _torchvision_stages(stages, in_stage, between, in_between):
    """Rules for the one sequence of torchvision: the stem, stage 0, merging, stage 1, merging, ...

    Args:
        stages: the name of all stages in our model.
        in_stage: rules for the layers of a stage.
        between: the name of all layers between stages in our model.
        in_between: rules for these layers.
    """
    for ours, rules, first, number in ((stages, in_stage, 1, 4), (between, in_between, 2, 3)):
        for stage in range(number):
            for name, path in rules:
                yield rf"features\.{2 * stage + first}\.{name}", f"backbone/{ours}/{stage}/{path}"


TORCHVISION_SWIN = (
    (r"features\.0\.0", r"backbone/patch_embed"),
    (r"features\.0\.2", r"backbone/patch_norm"),
    *_torchvision_stages(
        "layers",
        (
            (r"(\d+)\.(norm\d|attn)", r"\1/\2"),
            (r"(\d+)\.attn\.(qkv|proj)", r"\1/attn/\2"),
            (r"(\d+)\.mlp\.0", r"\1/fc1"),
            (r"(\d+)\.mlp\.3", r"\1/fc2"),
        ),
        "merges",
        ((r"(norm|reduction)", r"\1"),),
    ),
    (r"norm", r"backbone/norm"),
    (r"head", CLASSIFIER),
)

# Hugging Face transformers: names of the hub's files, and of version 5 in memory.
_BLOCK = r"encoder\.layers\.(\d)\.blocks\.(\d+)\."
HUGGING_FACE_SWIN = (
    (r"embeddings\.patch_embeddings\.projection", r"backbone/patch_embed"),
    (r"embeddings\.norm", r"backbone/patch_norm"),
    (_BLOCK + r"layernorm_before", r"backbone/layers/\1/\2/norm1"),
    (_BLOCK + r"layernorm_after", r"backbone/layers/\1/\2/norm2"),
    (
        _BLOCK + r"attention\.(?:self\.query\+key\+value|q_proj\+k_proj\+v_proj)",
        r"backbone/layers/\1/\2/attn/qkv",
    ),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)", r"backbone/layers/\1/\2/attn/proj"),
    (_BLOCK + r"attention\.(?:self|relative_position_bias)", r"backbone/layers/\1/\2/attn"),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)", r"backbone/layers/\1/\2/fc1"),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)", r"backbone/layers/\1/\2/fc2"),
    (r"encoder\.layers\.(\d)\.downsample\.(norm|reduction)", r"backbone/merges/\1/\2"),
    (r"layernorm", r"backbone/norm"),
    (r"classifier", CLASSIFIER),
)


def _hugging_face_resnet():
    """Stages and layers of a block count from 0 there, from 1 here."""
    block = r"encoder\.stages\.{}\.layers\.(\d+)\.{}"
    for parameter, ours in (("convolution", "conv"), ("normalization", "bn")):
        yield rf"embedder\.embedder\.{parameter}", rf"backbone/{ours}1"
        for stage in range(4):
            shortcut = block.format(stage, rf"shortcut\.{parameter}")
            yield shortcut, rf"backbone/layer{stage + 1}/\1/downsample/{'01'[ours == 'bn']}"
            for layer in range(3):
                inner = block.format(stage, rf"layer\.{layer}\.{parameter}")
                yield inner, rf"backbone/layer{stage + 1}/\1/{ours}{layer + 1}"
    yield r"classifier\.1", CLASSIFIER


HUGGING_FACE_RESNET = tuple(_hugging_face_resnet())


# torchvision's names, with the wrappers of the original TSM and TIN.
RESNET = (
    (r"conv1", r"backbone/conv1"),
    (r"bn1", r"backbone/bn1"),
    (
        r"layer(\d)\.(\d+)(?:\.net|\.block)?\.(conv\d|bn\d)(?:\.net2?)?",
        r"backbone/layer\1/\2/\3",
    ),
    (
        r"layer(\d)\.(\d+)(?:\.net|\.block)?\.downsample\.([01])",
        r"backbone/layer\1/\2/downsample/\3",
    ),
)


TORCHVISION = (*RESNET, (r"fc", CLASSIFIER))

_MMPRETRAIN_BLOCK = r"backbone\.stages\.(\d)\.blocks\.(\d+)\."
MMPRETRAIN_SWIN = (
    (r"backbone\.patch_embed\.projection", r"backbone/patch_embed"),
    (r"backbone\.patch_embed\.norm", r"backbone/patch_norm"),
    (_MMPRETRAIN_BLOCK + r"(norm\d)", r"backbone/layers/\1/\2/\3"),
    (_MMPRETRAIN_BLOCK + r"attn\.w_msa", r"backbone/layers/\1/\2/attn"),
    (_MMPRETRAIN_BLOCK + r"attn\.w_msa\.(qkv|proj)", r"backbone/layers/\1/\2/attn/\3"),
    (_MMPRETRAIN_BLOCK + r"ffn\.layers\.0\.0", r"backbone/layers/\1/\2/fc1"),
    (_MMPRETRAIN_BLOCK + r"ffn\.layers\.1", r"backbone/layers/\1/\2/fc2"),
    (r"backbone\.stages\.(\d)\.downsample\.(norm|reduction)", r"backbone/merges/\1/\2"),
    (r"backbone\.norm3", r"backbone/norm"),
)
MMPRETRAIN_DENSENET = (
    (r"head\.fc", CLASSIFIER),
    (r"backbone\.stem\.0", r"backbone/conv0"),
    (r"backbone\.stem\.1", r"backbone/norm0"),
    (r"backbone\.transitions\.3\.0", r"backbone/norm5"),
    *(
        rule
        for stage in range(4)
        for rule in (
            *(
                (
                    rf"backbone\.stages\.{stage}\.block\.{layer}\.(norm\d|conv\d)",
                    rf"backbone/denseblock{stage + 1}/denselayer{layer + 1}/\1",
                )
                for layer in range(36)
            ),
            (
                rf"backbone\.transitions\.{stage}\.(norm|conv)",
                rf"backbone/transition{stage + 1}/\1",
            ),
        )
    ),
)
# MobileOne of other code bases: their layer of a block, and ours; `{}` is the number of a group.
_TIMM_PARTS = (
    (r"conv_scale\.conv", r"branch_scale/conv"),
    (r"conv_scale\.bn", r"branch_scale/norm"),
    (r"conv_kxk\.(\d+)\.conv", r"branch_conv_list/\{}/conv"),
    (r"conv_kxk\.(\d+)\.bn", r"branch_conv_list/\{}/norm"),
    (r"identity", r"branch_norm"),
    (r"attn\.fc(\d)", r"se/conv\{}"),
    (r"reparam_conv", r"branch_reparam"),
)
_APPLE_PARTS = (
    (r"rbr_scale\.conv", r"branch_scale/conv"),
    (r"rbr_scale\.bn", r"branch_scale/norm"),
    (r"rbr_conv\.(\d+)\.conv", r"branch_conv_list/\{}/conv"),
    (r"rbr_conv\.(\d+)\.bn", r"branch_conv_list/\{}/norm"),
    (r"rbr_skip", r"branch_norm"),
    (r"se\.reduce", r"se/conv1"),
    (r"se\.expand", r"se/conv2"),
    (r"reparam_conv", r"branch_reparam"),
)
TIMM_MOBILEONE = (
    *((rf"stem\.{theirs}", "backbone/stage0/" + ours.format(1)) for theirs, ours in _TIMM_PARTS),
    *(
        (rf"stages\.{n}\.(\d+)\.{theirs}", rf"backbone/stage{n + 1}/\1/" + ours.format(2))
        for n in range(4)
        for theirs, ours in _TIMM_PARTS
    ),
    (r"head\.fc", CLASSIFIER),
)
APPLE_MOBILEONE = (
    *((rf"stage0\.{theirs}", "backbone/stage0/" + ours.format(1)) for theirs, ours in _APPLE_PARTS),
    *(
        (rf"stage([1-4])\.(\d+)\.{theirs}", r"backbone/stage\1/\2/" + ours.format(3))
        for theirs, ours in _APPLE_PARTS
    ),
    (r"linear", CLASSIFIER),
)

_DOWNSAMPLE = ((r"0", r"norm"), (r"1", r"conv"))


def _downsamples(theirs):
    """The layers between two stages of ConvNeXt; `theirs` has a place for the latter's number."""
    for stage in range(3):
        for name, path in _DOWNSAMPLE:
            yield rf"{theirs.format(stage + 1)}\.{name}", f"backbone/downsamples/{stage}/{path}"


# The factors of a residual branch of ConvNeXt are parameters of the block itself, and tokens and
# positions of ViT those of the whole network.
TORCHVISION_CONVNEXT = (
    (r"features\.0\.0", r"backbone/stem_conv"),
    (r"features\.0\.1", r"backbone/stem_norm"),
    *_torchvision_stages(
        "stages",
        (
            (r"(\d+)", r"\1"),
            (r"(\d+)\.block\.0", r"\1/conv"),
            (r"(\d+)\.block\.2", r"\1/norm"),
            (r"(\d+)\.block\.3", r"\1/fc1"),
            (r"(\d+)\.block\.5", r"\1/fc2"),
        ),
        "downsamples",
        _DOWNSAMPLE,
    ),
    (r"classifier\.0", r"backbone/norm"),
    (r"classifier\.2", CLASSIFIER),
)
TIMM_CONVNEXT = (
    (r"stem\.0", r"backbone/stem_conv"),
    (r"stem\.1", r"backbone/stem_norm"),
    (r"stages\.(\d)\.blocks\.(\d+)", r"backbone/stages/\1/\2"),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw", r"backbone/stages/\1/\2/conv"),
    (r"stages\.(\d)\.blocks\.(\d+)\.(?:mlp\.)?(norm|fc\d)", r"backbone/stages/\1/\2/\3"),
    *_downsamples(r"stages\.{}\.downsample"),
    (r"head\.norm", r"backbone/norm"),
    (r"head\.fc", CLASSIFIER),
)
_CONVNEXT_BLOCK = r"backbone\.stages\.(\d)\.(\d+)"
MMPRETRAIN_CONVNEXT = (
    (r"backbone\.downsample_layers\.0\.0", r"backbone/stem_conv"),
    (r"backbone\.downsample_layers\.0\.1", r"backbone/stem_norm"),
    (_CONVNEXT_BLOCK, r"backbone/stages/\1/\2"),
    (_CONVNEXT_BLOCK + r"\.norm", r"backbone/stages/\1/\2/norm"),
    (_CONVNEXT_BLOCK + r"\.depthwise_conv", r"backbone/stages/\1/\2/conv"),
    (_CONVNEXT_BLOCK + r"\.pointwise_conv(\d)", r"backbone/stages/\1/\2/fc\3"),
    *_downsamples(r"backbone\.downsample_layers\.{}"),
)

_VIT_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
TORCHVISION_VIT = (
    (r"class_token|encoder", r"backbone"),
    (r"conv_proj", r"backbone/patch_embed"),
    (_VIT_BLOCK + r"ln_(\d)", r"backbone/blocks/\1/norm\2"),
    (_VIT_BLOCK + r"self_attention", r"backbone/blocks/\1/attn"),
    (_VIT_BLOCK + r"self_attention\.out_proj", r"backbone/blocks/\1/attn/proj"),
    # The published files are older than the code: `linear_1` instead of `0`.
    (_VIT_BLOCK + r"mlp\.(?:0|linear_1)", r"backbone/blocks/\1/fc1"),
    (_VIT_BLOCK + r"mlp\.(?:3|linear_2)", r"backbone/blocks/\1/fc2"),
    (r"encoder\.ln", r"backbone/norm"),
    (r"heads\.head", CLASSIFIER),
)
TIMM_VIT = (
    (r"cls_token|pos_embed", r"backbone"),
    (r"patch_embed\.proj", r"backbone/patch_embed"),
    (r"blocks\.(\d+)\.(norm\d)", r"backbone/blocks/\1/\2"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)", r"backbone/blocks/\1/attn/\2"),
    (r"blocks\.(\d+)\.mlp\.(fc\d)", r"backbone/blocks/\1/\2"),
    (r"norm", r"backbone/norm"),
    (r"head", CLASSIFIER),
)
MMPRETRAIN_VIT = (
    (r"backbone", r"backbone"),
    (r"backbone\.layers\.(\d+)\.ln(\d)", r"backbone/blocks/\1/norm\2"),
    (r"backbone\.layers\.(\d+)\.attn\.(qkv|proj)", r"backbone/blocks/\1/attn/\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0", r"backbone/blocks/\1/fc1"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.1", r"backbone/blocks/\1/fc2"),
    (r"backbone\.ln1", r"backbone/norm"),
    (r"head\.layers\.head", r"head/fc"),
)

INCEPTIONV3 = (
    (r"(Conv2d_\w+)\.(conv|bn)", r"backbone/\1/\2"),
    (r"(Mixed_\w+)\.(\w+)\.(conv|bn)", r"backbone/\1/\2/\3"),
    (r"AuxLogits\..*", r""),
    (r"fc", CLASSIFIER),
)
