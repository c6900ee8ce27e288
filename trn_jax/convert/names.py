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

# mmaction2 0.x and 1.x name plain recognizers alike.
MMACTION2 = (
    (r"backbone\.conv1\.conv", r"backbone/conv1"),
    (r"backbone\.conv1\.bn", r"backbone/bn1"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.conv", r"backbone/layer\1/\2/downsample/0"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.bn", r"backbone/layer\1/\2/downsample/1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.conv", r"backbone/layer\1/\2/conv\3"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.bn", r"backbone/layer\1/\2/bn\3"),
    (r"cls_head\.fc_cls", r"head/fc"),
    (r"cls_head\.consensus\.fc_fusion_scales\.(\d+)\.1", r"head/relations/\1/hidden"),
    (r"cls_head\.consensus\.fc_fusion_scales\.(\d+)\.3", r"head/relations/\1/output"),
    (r"cls_head\.consensus\.classifier\.1", r"head/relations/0/hidden"),
    (r"cls_head\.consensus\.classifier\.3", r"head/relations/0/output"),
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

SOURCES = {"mmaction2": MMACTION2, "mmpretrain": MMPRETRAIN}

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {"weight": "kernel", "bias": "bias"}
# PyTorch keeps the output channels first, we keep them last.
_KERNEL_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
_IGNORED = re.compile(r".*\.num_batches_tracked|data_preprocessor\..*")


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
