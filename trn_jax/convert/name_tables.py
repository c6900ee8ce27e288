"""Names of foreign weights: one table per source.

A table is a sequence of `(pattern, replacement)`. The first pattern that matches the full foreign
name of a layer gives its path in our model; an empty replacement marks layers without use. The last
part of the name (`weight`, `bias`, `running_mean`, ...) selects the tensor of the layer. Prefixes
are removed before, see `recognition`; tensors in another order than ours are rearranged before, see
`layout.rearranged`.
"""

from trn_jax.convert.image_name_tables import (
    APPLE_MOBILEONE,
    BNINCEPTION,
    CLASSIFIER,
    DENSENET,
    HUGGING_FACE_RESNET,
    HUGGING_FACE_SWIN,
    INCEPTIONV3,
    MMPRETRAIN_CONVNEXT,
    MMPRETRAIN_DENSENET,
    MMPRETRAIN_SWIN,
    MMPRETRAIN_VIT,
    RESNET,
    SWIN,
    SWIN_OLD,
    TIMM_CONVNEXT,
    TIMM_MOBILEONE,
    TIMM_VIT,
    TORCHVISION,
    TORCHVISION_CONVNEXT,
    TORCHVISION_SWIN,
    TORCHVISION_VIT,
    under,
)
from trn_jax.convert.mbconv_name_tables import (
    MMPRETRAIN_MOBILENETV3,
    TIMM_EFFICIENTNET,
    TIMM_MOBILENETV3,
    TORCHVISION_EFFICIENTNET,
    TORCHVISION_MOBILENETV3,
)
from trn_jax.convert.mobilenet_name_tables import (
    MMPRETRAIN_MOBILENETV2,
    TIMM_MOBILENETV2,
    TORCHVISION_MOBILENETV2,
    TSM_MOBILENETV2,
)

# Single-scale relations are our scale 0.
_CONSENSUS = (
    (r"consensus\.fc_fusion_scales\.(\d+)\.1", r"head/relations/\1/hidden"),
    (r"consensus\.fc_fusion_scales\.(\d+)\.3", r"head/relations/\1/output"),
    (r"consensus\.classifier\.1", r"head/relations/0/hidden"),
    (r"consensus\.classifier\.3", r"head/relations/0/output"),
)

# mmaction2 0.x and 1.x use the same names. `.net` wraps shifted layers, `.block` those with a
# non-local layer behind them.
_LAYER = r"backbone\.layer(\d)\.(\d+)(?:\.net|\.block)?\."
_NON_LOCAL = r"backbone\.layer(\d)\.(\d+)\.non_local_block\."
_MMACTION2 = (
    (r"backbone\.conv1\.conv", r"backbone/conv1"),
    (r"backbone\.conv1\.bn", r"backbone/bn1"),
    (_LAYER + r"downsample\.conv", r"backbone/layer\1/\2/downsample/0"),
    (_LAYER + r"downsample\.bn", r"backbone/layer\1/\2/downsample/1"),
    # TSM and TIN wrap the first convolution of a block.
    (_LAYER + r"conv(\d)\.conv(?:\.net2?)?", r"backbone/layer\1/\2/conv\3"),
    (_LAYER + r"conv(\d)\.bn", r"backbone/layer\1/\2/bn\3"),
    (_NON_LOCAL + r"(g|theta|phi)(?:\.0)?\.conv", r"backbone/layer\1/\2/non_local/\3"),
    (_NON_LOCAL + r"conv_out\.(conv|bn)", r"backbone/layer\1/\2/non_local/\3"),
    (
        r"backbone\.layer(\d)\.(\d+)\.conv1\.conv\.net1\.(offset|weight)_net\.(conv|fc1|fc2)",
        r"backbone/layer\1/\2/temporal_op/\3_\4",
    ),
    (
        r"neck\.spatial_modulation\.spatial_modulation\.(\d)\.(\d)\.(conv|bn)",
        r"neck/spatial_modulation/\1/\2/\3",
    ),
    (r"neck\.temporal_modulation_ops\.(\d)\.conv\.conv", r"neck/temporal_modulation/\1"),
    (r"neck\.downsample_ops\.(\d)\.conv\.conv", r"neck/downsamples/\1"),
    (
        r"neck\.level_fusion_(\d)\.downsamples\.(\d)\.conv\.(conv|bn)",
        r"neck/level_fusion_\1/downsamples/\2/\3",
    ),
    (r"neck\.level_fusion_(\d)\.fusion_conv\.(conv|bn)", r"neck/level_fusion_\1/fusion_conv/\2"),
    (r"neck\.pyramid_fusion\.(conv|bn)", r"neck/pyramid_fusion/\1"),
    (r"neck\.aux_head\.conv\.(conv|bn)", r"neck/auxiliary/conv/\1"),
    (r"neck\.aux_head\.fc", r"neck/auxiliary/fc"),
    (r"cls_head\.fc_cls", r"head/fc"),
    # A copy of `fc_cls` that TPN makes at its first test and never updates.
    (r"cls_head\.new_cls", r""),
    *under(r"cls_head\.", _CONSENSUS),
    *under(r"backbone\.", DENSENET),
    *MMPRETRAIN_MOBILENETV2,
    (r"data_preprocessor", r""),
)
MMACTION2 = _MMACTION2 + under(r"backbone\.", SWIN)
MMACTION2_SWIN_OLD = _MMACTION2 + under(r"backbone\.", SWIN_OLD)

TSM = (
    *under(r"base_model\.", RESNET),
    *under(r"base_model\.", TSM_MOBILENETV2),
    (r"new_fc|base_model\.(?:fc|classifier)", r"head/fc"),
)

_TIN_NETS = r"base_model\.layer(\d)\.(\d+)\.conv1\.net1\."
TIN = (
    *TSM,
    (_TIN_NETS + r"biasnet\.net\.conv", r"backbone/layer\1/\2/temporal_op/offset_conv"),
    (_TIN_NETS + r"biasnet\.net\.fc", r"backbone/layer\1/\2/temporal_op/offset_fc1"),
    (_TIN_NETS + r"biasnet\.net\.lastlayer", r"backbone/layer\1/\2/temporal_op/offset_fc2"),
    (_TIN_NETS + r"weightnet\.net\.lastlayer", r"backbone/layer\1/\2/temporal_op/weight_conv"),
)

TRN = (
    *under(r"base_model\.", BNINCEPTION),
    *TSM,
    *_CONSENSUS,
)

# Their fusion 2 is of the top-down flow, which runs first.
TPN = (
    *under(r"backbone\.", RESNET),
    (
        r"necks\.spatial_modulation\.spatial_modulation\.(\d)\.(\d)\.(conv|bn)",
        r"neck/spatial_modulation/\1/\2/\3",
    ),
    (r"necks\.temporal_modulation_ops\.(\d)\.conv", r"neck/temporal_modulation/\1"),
    (r"necks\.downsampling_ops\.(\d)\.conv", r"neck/downsamples/\1"),
    (r"necks\.level_fusion_op2\.ops\.(\d)\.conv", r"neck/level_fusion_1/downsamples/\1/conv"),
    (r"necks\.level_fusion_op2\.ops\.(\d)\.norm", r"neck/level_fusion_1/downsamples/\1/bn"),
    (r"necks\.level_fusion_op2\.fusion_conv\.0", r"neck/level_fusion_1/fusion_conv/conv"),
    (r"necks\.level_fusion_op2\.fusion_conv\.1", r"neck/level_fusion_1/fusion_conv/bn"),
    (r"necks\.level_fusion_op\.ops\.(\d)\.conv", r"neck/level_fusion_2/downsamples/\1/conv"),
    (r"necks\.level_fusion_op\.ops\.(\d)\.norm", r"neck/level_fusion_2/downsamples/\1/bn"),
    (r"necks\.level_fusion_op\.fusion_conv\.0", r"neck/level_fusion_2/fusion_conv/conv"),
    (r"necks\.level_fusion_op\.fusion_conv\.1", r"neck/level_fusion_2/fusion_conv/bn"),
    (r"necks\.pyramid_fusion_op\.0", r"neck/pyramid_fusion/conv"),
    (r"necks\.pyramid_fusion_op\.1", r"neck/pyramid_fusion/bn"),
    (r"necks\.aux_head\.convs(?:\.0)?\.(conv|bn)", r"neck/auxiliary/conv/\1"),
    (r"necks\.aux_head\.fc", r"neck/auxiliary/fc"),
    (r"cls_head\.fc_cls", r"head/fc"),
    (r"cls_head\.new_cls", r""),
)

# mmaction2's heads, behind backbones of other packages.
_HEADS = ((r"cls_head\.fc_cls", r"head/fc"), *under(r"cls_head\.", _CONSENSUS))

# mmpretrain, inside recognizers of mmaction2 (where temporal shifts add a component `net`) or with
# its own classifier.
_STEM, _BLOCK = r"backbone\.stage0(?:\.net)?\.", r"backbone\.stage(\d)\.(\d+)(?:\.net)?\."
MMPRETRAIN = (
    *MMPRETRAIN_SWIN,
    *MMPRETRAIN_CONVNEXT,
    *MMPRETRAIN_MOBILENETV3,
    *MMPRETRAIN_VIT,
    *MMPRETRAIN_MOBILENETV2,
    (r"backbone\.(conv1|bn1)", r"backbone/\1"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.(\d)", r"backbone/layer\1/\2/downsample/\3"),
    (r"backbone\.layer(\d)\.(\d+)\.(conv|bn)(\d)", r"backbone/layer\1/\2/\3\4"),
    (_STEM + r"branch_scale\.(conv|norm)", r"backbone/stage0/branch_scale/\1"),
    (
        _STEM + r"branch_conv_list\.(\d+)\.(conv|norm)",
        r"backbone/stage0/branch_conv_list/\1/\2",
    ),
    (_BLOCK + r"branch_scale\.(conv|norm)", r"backbone/stage\1/\2/branch_scale/\3"),
    (
        _BLOCK + r"branch_conv_list\.(\d+)\.(conv|norm)",
        r"backbone/stage\1/\2/branch_conv_list/\3/\4",
    ),
    (_BLOCK + r"se\.conv(\d)\.conv", r"backbone/stage\1/\2/se/conv\3"),
    (_STEM + r"branch_reparam", r"backbone/stage0/branch_reparam"),
    (_BLOCK + r"branch_(norm|reparam)", r"backbone/stage\1/\2/branch_\3"),
    (r"head\.fc", r"head/fc"),
    *_HEADS,
)

# Each source with an example of its names.
_SOURCES: dict[str, tuple[str, tuple]] = {
    "mmaction2": ("backbone.layer1.0.conv1.conv.weight", MMACTION2),
    "mmaction2_swin_old": ("backbone.layers.0.downsample.reduction.weight", MMACTION2_SWIN_OLD),
    "mmpretrain": ("backbone.stage1.0.branch_scale.conv.weight", MMPRETRAIN),
    "mmpretrain_densenet": ("backbone.stages.0.block.0.norm1.weight", MMPRETRAIN_DENSENET),
    "torchvision": ("layer1.0.conv1.weight", TORCHVISION),
    "torchvision_densenet": (
        "features.denseblock1.denselayer1.norm1.weight",
        (*DENSENET, (r"classifier", CLASSIFIER)),
    ),
    "torchvision_swin": ("features.1.0.attn.qkv.weight", TORCHVISION_SWIN),
    "timm_swin": ("layers.0.blocks.0.attn.qkv.weight", (*SWIN, (r"head(?:\.fc)?", CLASSIFIER))),
    "timm_swin_old": (
        "layers.0.downsample.reduction.weight",
        (*SWIN_OLD, (r"head(?:\.fc)?", CLASSIFIER)),
    ),
    "timm_mobileone": ("stages.0.0.conv_kxk.0.conv.weight", TIMM_MOBILEONE),
    "apple_mobileone": ("stage1.0.rbr_conv.0.conv.weight", APPLE_MOBILEONE),
    "torchvision_convnext": ("features.1.0.block.5.weight", (*TORCHVISION_CONVNEXT, *_HEADS)),
    "timm_convnext": ("stages.0.blocks.0.conv_dw.weight", (*TIMM_CONVNEXT, *_HEADS)),
    "torchvision_efficientnet": (
        "features.1.0.block.1.fc1.weight",
        (*TORCHVISION_EFFICIENTNET, *_HEADS),
    ),
    "timm_efficientnet": ("blocks.0.0.se.conv_reduce.weight", (*TIMM_EFFICIENTNET, *_HEADS)),
    "torchvision_mobilenetv3": (
        "features.4.block.2.fc1.weight",
        (*TORCHVISION_MOBILENETV3, *_HEADS),
    ),
    "timm_mobilenetv3": ("blocks.6.0.conv.weight", (*TIMM_MOBILENETV3, *_HEADS)),
    "torchvision_vit": ("encoder.layers.encoder_layer_0.ln_1.weight", (*TORCHVISION_VIT, *_HEADS)),
    "timm_vit": ("blocks.0.attn.qkv.weight", (*TIMM_VIT, *_HEADS)),
    "inceptionv3": ("Mixed_6a.branch3x3.conv.weight", (*INCEPTIONV3, *_HEADS)),
    "torchvision_mobilenetv2": ("features.2.conv.0.0.weight", TORCHVISION_MOBILENETV2),
    "timm_mobilenetv2": ("blocks.1.0.conv_pwl.weight", TIMM_MOBILENETV2),
    "tsm_mobilenetv2": (
        "features.2.conv.6.weight",
        (*TSM_MOBILENETV2, (r"classifier", CLASSIFIER)),
    ),
    "hugging_face_resnet": (
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
        HUGGING_FACE_RESNET,
    ),
    "hugging_face_swin": ("encoder.layers.0.blocks.0.layernorm_before.weight", HUGGING_FACE_SWIN),
    "bninception": (
        "inception_3a_1x1.weight",
        (*BNINCEPTION, (r"fc_action|last_linear|fc", CLASSIFIER), (r"fc\w*", r"")),
    ),
    # mmaction before it was mmaction2.
    "mmaction_bninception": (
        "backbone.inception_3a_1x1.weight",
        (*under(r"backbone\.", BNINCEPTION), (r"cls_head\.fc_cls", r"head/fc")),
    ),
    "tsm": ("base_model.layer1.0.conv1.net.weight", TSM),
    "tin": ("base_model.layer1.0.conv1.net2.weight", TIN),
    "trn": ("consensus.fc_fusion_scales.0.1.weight", TRN),
    "tpn": ("necks.level_fusion_op.fusion_conv.0.weight", TPN),
}
EXAMPLES = {source: example for source, (example, _) in _SOURCES.items()}
NAME_TABLES = {source: table for source, (_, table) in _SOURCES.items()}
