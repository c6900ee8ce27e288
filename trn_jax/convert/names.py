"""Names of foreign weights: one table per source.

A table is a sequence of `(pattern, replacement)`; the first pattern that matches the whole foreign
name of a layer gives its path in our model, an empty replacement says that we have no use for it.
The last part of the name (`weight`, `bias`, `running_mean`, ...) says which tensor of that layer it
is. A prefix `module.`, which PyTorch's data parallelism adds, is cut off before.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.convert.diagnosis import Problems, compare_shifts
from trn_jax.convert.layout import fitted
from trn_jax.errors import UserError

# mmaction2 0.x and 1.x name recognizers alike. `.net` and `.block` wrap what is shifted or followed
# by something.
MMACTION2 = (
    (r"backbone\.conv1\.conv", r"backbone/conv1"),
    (r"backbone\.conv1\.bn", r"backbone/bn1"),
    (
        r"backbone\.layer(\d)\.(\d+)(?:\.net|\.block)?\.downsample\.conv",
        r"backbone/layer\1/\2/downsample/0",
    ),
    (
        r"backbone\.layer(\d)\.(\d+)(?:\.net|\.block)?\.downsample\.bn",
        r"backbone/layer\1/\2/downsample/1",
    ),
    # TSM and TIN wrap the first convolution of a block.
    (
        r"backbone\.layer(\d)\.(\d+)(?:\.net|\.block)?\.conv(\d)\.conv(?:\.net2?)?",
        r"backbone/layer\1/\2/conv\3",
    ),
    (r"backbone\.layer(\d)\.(\d+)(?:\.net|\.block)?\.conv(\d)\.bn", r"backbone/layer\1/\2/bn\3"),
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
    # A copy of `fc_cls` that TPN makes for its first test and never updates.
    (r"cls_head\.new_cls", r""),
    (r"cls_head\.consensus\.fc_fusion_scales\.(\d+)\.1", r"head/relations/\1/hidden"),
    (r"cls_head\.consensus\.fc_fusion_scales\.(\d+)\.3", r"head/relations/\1/output"),
    (r"cls_head\.consensus\.classifier\.1", r"head/relations/0/hidden"),
    (r"cls_head\.consensus\.classifier\.3", r"head/relations/0/output"),
    (r"data_preprocessor", r""),
)

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


def under(prefix, table):
    """The table for layers that have `prefix`, a pattern, before their names."""
    return tuple((prefix + pattern, replacement) for pattern, replacement in table)


# The classifier knows ImageNet's classes.
TORCHVISION = (*RESNET, (r"fc", r""))

TSM = (*under(r"base_model\.", RESNET), (r"new_fc|base_model\.fc", r"head/fc"))

_TIN_NETS = r"base_model\.layer(\d)\.(\d+)\.conv1\.net1\."
TIN = (
    *TSM,
    (_TIN_NETS + r"biasnet\.net\.conv", r"backbone/layer\1/\2/temporal_op/offset_conv"),
    (_TIN_NETS + r"biasnet\.net\.fc", r"backbone/layer\1/\2/temporal_op/offset_fc1"),
    (_TIN_NETS + r"biasnet\.net\.lastlayer", r"backbone/layer\1/\2/temporal_op/offset_fc2"),
    (_TIN_NETS + r"weightnet\.net\.lastlayer", r"backbone/layer\1/\2/temporal_op/weight_conv"),
)

TRN = (
    *TSM,
    (r"consensus\.fc_fusion_scales\.(\d+)\.1", r"head/relations/\1/hidden"),
    (r"consensus\.fc_fusion_scales\.(\d+)\.3", r"head/relations/\1/output"),
    (r"consensus\.classifier\.1", r"head/relations/0/hidden"),
    (r"consensus\.classifier\.3", r"head/relations/0/output"),
)

# The fusion of the top-down flow, which runs first, is called 2 there.
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

SOURCES = {
    "mmaction2": MMACTION2,
    "torchvision": TORCHVISION,
    "tsm": TSM,
    "tin": TIN,
    "trn": TRN,
    "tpn": TPN,
}

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {"weight": "kernel"}
# What does not belong to a backbone, whether or not a table knows it.
_HEAD = re.compile(r"(cls_head|necks?|head|fc|classifier|new_fc|consensus|base_model\.fc)\..*")


def variables(model):
    """All parameters and statistics of `model`, `{"backbone/conv1/kernel": variable, ...}`."""
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}


def load_state_dict(
    model,
    state_dict,
    source="auto",
    *,
    backbone_only=False,
    reset_head=False,
    reset_temporal_op=False,
):
    """Copy foreign weights into `model`, in place.

    Kernels of 2-D convolutions are inflated where the model has 3-D ones, see `fitted`.

    Args:
        model: a `Recognizer`; its own values may be abstract (`nnx.eval_shape`) where the file has
            values for them.
        state_dict: `{name: array}` in PyTorch's layout.
        source: one of `SOURCES`, or "auto" to take the one that knows most of the names.
        backbone_only: leave neck and head as they are; also the parameters of the temporal op if
            the file has none.
        reset_head: leave the classifiers, whose sizes depend on the number of classes, as they are.
        reset_temporal_op: leave the parameters of the temporal op as they are. With this, weights
            of TSM start a TIN.

    Returns:
        What was taken: a list of `(foreign name, our path, shape)`, in the file's order.

    Raises:
        UserError: for an unknown source, or with all missing, unexpected and mis-shaped tensors.
            The model is unchanged then.
    """
    plain = {name: re.sub(r"^(module\.)+", "", name) for name in state_dict}
    source, table = _choose(source, list(plain.values()))
    targets = variables(model)
    paths = {name: _path(plain[name], table, targets) for name in state_dict}
    temporal_op = {path for path in targets if "/temporal_op/" in path}
    if backbone_only and temporal_op.isdisjoint(paths.values()):
        reset_temporal_op = True
    kept = temporal_op if reset_temporal_op else set()
    if backbone_only:
        kept |= {path for path in targets if path.startswith(("head/", "neck/"))}
    if reset_head:
        kept |= {path for path in targets if _is_classifier(path, targets)}

    values: dict[str, tuple] = {}
    problems = Problems()
    for name, path in paths.items():
        if path == "" or path in kept or (backbone_only and _HEAD.fullmatch(plain[name])):
            continue
        if path is None:
            problems.unexpected.append((name, np.shape(state_dict[name])))
            continue
        shape = targets[path].shape
        value = fitted(np.asarray(state_dict[name]), path, shape)
        if path in values:
            problems.doubled.append((values[path][0], name, path))
        elif value.shape != shape:
            problems.misshapen.append((name, value.shape, path, shape))
        values[path] = name, value
    problems.missing = [path for path in targets if path not in values and path not in kept]
    if not (backbone_only or reset_temporal_op):
        problems.shift = compare_shifts(model, source, plain.values())
    if problems.count():
        shapes = {plain[name]: np.shape(tensor) for name, tensor in state_dict.items()}
        ours = {path: leaf.shape for path, leaf in targets.items()}
        raise UserError(problems.text(source, shapes, ours))
    abstract = [p for p in kept if isinstance(targets[p].get_value(), jax.ShapeDtypeStruct)]
    if abstract:
        raise UserError(
            f"{len(abstract)} variables are to keep their values, such as {min(abstract)}, but the "
            "model has only shapes; create it without nnx.eval_shape"
        )
    for path, (_, value) in values.items():
        targets[path].set_value(jnp.asarray(value, targets[path].dtype))
    return [(name, path, value.shape) for path, (name, value) in values.items()]


def _choose(source, names):
    if source == "auto":
        known = {s: sum(_layer(n, SOURCES[s]) is not None for n in names) for s in SOURCES}
        source = max(known, key=known.__getitem__)
        if not known[source]:
            raise UserError(
                f"no known source names its weights like {', '.join(map(repr, names[:3]))}; known "
                f"sources: {', '.join(SOURCES)}"
            )
    if source not in SOURCES:
        raise UserError(f"unknown source {source!r} of weights; known: auto, {', '.join(SOURCES)}")
    return source, SOURCES[source]


def _layer(name, table):
    layer = name.rpartition(".")[0]
    for pattern, replacement in table:
        match = re.fullmatch(pattern, layer)
        if match:
            return match.expand(replacement)
    return None


def _path(name, table, targets):
    """The path of a tensor in our model, "" if we have no use for it, `None` if it has no place."""
    layer = _layer(name, table)
    leaf = name.rpartition(".")[2]
    if layer == "" or leaf == "num_batches_tracked":
        return ""
    leaves = _NORM_LEAVES if f"{layer}/scale" in targets else _OTHER_LEAVES
    path = f"{layer}/{leaves.get(leaf, leaf)}"
    return path if path in targets else None


def _is_classifier(path, targets):
    """Whether the size of a variable is the number of classes."""
    # In a TRN the first layer of the head embeds frames.
    head = r"head/relations/\d+/output" if "head/relations/0/output/bias" in targets else r"head/fc"
    return re.fullmatch(rf"({head}|neck/.*\bfc)/(kernel|bias)", path) is not None
