"""Names and layouts of foreign weights: one table per source.

A table is a sequence of `(pattern, replacement)`; the first pattern that matches the whole foreign
name gives the path of the layer in our model. The last part of the name (`weight`, `bias`,
`running_mean`, ...) says which tensor of that layer it is.
"""

import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.errors import UserError


def _under(prefix, table):
    """`table` for names that begin with `prefix`, a pattern."""
    return tuple((prefix + pattern, replacement) for pattern, replacement in table)


# Single-scale relations are our scale 0.
_CONSENSUS = (
    (r"consensus\.fc_fusion_scales\.(\d+)\.1", r"head/relations/\1/hidden"),
    (r"consensus\.fc_fusion_scales\.(\d+)\.3", r"head/relations/\1/output"),
    (r"consensus\.classifier\.1", r"head/relations/0/hidden"),
    (r"consensus\.classifier\.3", r"head/relations/0/output"),
)

# Caffe's flat names.
BNINCEPTION = (
    (r"(conv\d)_(\w+)_bn", r"backbone/\1_\2/bn"),
    (r"(conv\d)_(\w+)", r"backbone/\1_\2/conv"),
    (r"inception_(\d\w)_(\w+)_bn", r"backbone/inception_\1/convs/\2/bn"),
    (r"inception_(\d\w)_(\w+)", r"backbone/inception_\1/convs/\2/conv"),
)

# The published ImageNet files are older than the code and have a dot in `norm.1`.
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

# mmaction2 0.x and 1.x name plain recognizers alike.
_MMACTION2 = (
    (r"backbone\.conv1\.conv", r"backbone/conv1"),
    (r"backbone\.conv1\.bn", r"backbone/bn1"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.conv", r"backbone/layer\1/\2/downsample/0"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.bn", r"backbone/layer\1/\2/downsample/1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.conv", r"backbone/layer\1/\2/conv\3"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.bn", r"backbone/layer\1/\2/bn\3"),
    # TSM and TIN wrap the first convolution of a block.
    (r"backbone\.layer(\d)\.(\d+)\.conv1\.conv\.net2?", r"backbone/layer\1/\2/conv1"),
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
    *_under(r"backbone\.", DENSENET),
    (r"cls_head\.fc_cls", r"head/fc"),
    *_under(r"cls_head\.", _CONSENSUS),
)
MMACTION2 = _MMACTION2 + _under(r"backbone\.", SWIN)
MMACTION2_SWIN_OLD = _MMACTION2 + _under(r"backbone\.", SWIN_OLD)

# TRN-pytorch; `module.` comes from training on several GPUs.
TRN_PYTORCH = _under(
    r"(?:module\.)?",
    (*_under(r"base_model\.", BNINCEPTION), (r"new_fc", r"head/fc"), *_CONSENSUS),
)

# ResNeXt and MobileOne of mmpretrain: inside recognizers of mmaction2 (where temporal shifts add a
# component `net`) and with their own classifier.
MMPRETRAIN = (
    (r"backbone\.(conv1|bn1)", r"backbone/\1"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.(\d)", r"backbone/layer\1/\2/downsample/\3"),
    (r"backbone\.layer(\d)\.(\d+)\.(conv|bn)(\d)", r"backbone/layer\1/\2/\3\4"),
    (
        r"backbone\.stage0(?:\.net)?\.branch_scale\.(conv|norm)",
        r"backbone/stage0/branch_scale/\1",
    ),
    (
        r"backbone\.stage0(?:\.net)?\.branch_conv_list\.(\d+)\.(conv|norm)",
        r"backbone/stage0/branch_conv_list/\1/\2",
    ),
    (
        r"backbone\.stage(\d)\.(\d+)(?:\.net)?\.branch_scale\.(conv|norm)",
        r"backbone/stage\1/\2/branch_scale/\3",
    ),
    (
        r"backbone\.stage(\d)\.(\d+)(?:\.net)?\.branch_conv_list\.(\d+)\.(conv|norm)",
        r"backbone/stage\1/\2/branch_conv_list/\3/\4",
    ),
    (
        r"backbone\.stage(\d)\.(\d+)(?:\.net)?\.se\.conv(\d)\.conv",
        r"backbone/stage\1/\2/se/conv\3",
    ),
    (r"backbone\.stage0(?:\.net)?\.branch_reparam", r"backbone/stage0/branch_reparam"),
    (
        r"backbone\.stage(\d)\.(\d+)(?:\.net)?\.branch_(norm|reparam)",
        r"backbone/stage\1/\2/branch_\3",
    ),
    (r"cls_head\.fc_cls|head\.fc", r"head/fc"),
)


SOURCES = {
    "mmaction2": MMACTION2,
    "mmaction2_swin_old": MMACTION2_SWIN_OLD,
    "mmpretrain": MMPRETRAIN,
    "trn_pytorch": TRN_PYTORCH,
    "bninception": BNINCEPTION,
    "torchvision_densenet": DENSENET,
    "timm_swin": SWIN,
    "timm_swin_old": SWIN_OLD,
}

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {name: name for name in ("bias", "relative_position_bias_table")}
_OTHER_LEAVES |= {"weight": "kernel"}
# PyTorch keeps the output channels first, we keep them last.
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0), 5: (2, 3, 4, 1, 0)}
# Counters, what follows from the architecture, and `new_cls`, a copy of `fc_cls` that TPN's
# reference makes for its first test and never updates.
_IGNORED = re.compile(
    r".*\.(num_batches_tracked|relative_position_index|attn_mask)|data_preprocessor\..*"
    r"|cls_head\.new_cls\..*"
)
# Kernels for pixels in BGR order; ours are in RGB order.
_BGR = re.compile(r"(?:module\.)?(?:base_model\.)?conv1_7x7_s2\.weight")


def variables(model):
    """All parameters and statistics of `model`, `{"backbone/conv1/kernel": variable, ...}`."""
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def load_state_dict(model, state_dict, source="auto"):
    """Copy foreign weights into `model`, in place.

    Args:
        model: a `Recognizer`; its own values may be abstract (`nnx.eval_shape`).
        state_dict: `{name: array}` in PyTorch's layout.
        source: one of `SOURCES`, or "auto" to take the one that knows most of the names.

    Raises:
        UserError: for an unknown source, or with all missing, unexpected and mis-shaped tensors.
    """
    if source == "auto":
        source = max(
            SOURCES, key=lambda s: sum(_layer(n, SOURCES[s]) is not None for n in state_dict)
        )
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r} of weights; known: auto, {', '.join(SOURCES)}")
    targets = variables(model)
    values, problems = {}, []
    for name, tensor in state_dict.items():
        if _IGNORED.fullmatch(name):
            continue
        path = _path(name, SOURCES[source], targets)
        if path is None:
            problems.append(f"unexpected {name} {tuple(tensor.shape)}")
            continue
        value = np.asarray(tensor)
        if _BGR.fullmatch(name):
            value = value[:, ::-1]
        if path.endswith("/kernel"):
            value = value.transpose(_KERNEL_AXES.get(value.ndim, range(value.ndim)))
        if value.shape != targets[path].shape:
            problems.append(f"{name} has shape {value.shape}, {path} needs {targets[path].shape}")
        values[path] = value
    problems += [f"missing {path}" for path in targets if path not in values]
    if problems:
        raise UserError(
            f"the {source} weights do not fit the model, {len(problems)} problems:\n  "
            + "\n  ".join(problems)
        )
    for path, value in values.items():
        targets[path].set_value(jnp.asarray(value, targets[path].dtype))


def _layer(name, table):
    layer = name.rpartition(".")[0]
    for pattern, replacement in table:
        match = re.fullmatch(pattern, layer)
        if match:
            return match.expand(replacement)
    return None


def _path(name, table, targets):
    layer = _layer(name, table)
    if layer is None:
        return None
    leaves = _NORM_LEAVES if f"{layer}/scale" in targets else _OTHER_LEAVES
    path = f"{layer}/{leaves.get(name.rpartition('.')[2])}"
    return path if path in targets else None
