"""Foreign weights into our models, by the tables of `sources`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.convert.diagnosis import Problems, compare_shifts
from trn_jax.convert.layout import fitted
from trn_jax.convert.sources import SOURCES
from trn_jax.errors import UserError

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {"weight": "kernel"}
# Counters, and what follows from the architecture.
_DERIVED = ("num_batches_tracked", "relative_position_index", "attn_mask")
_REAL = (jnp.floating, jnp.integer, jnp.bool_)  # complex numbers would lose a part unnoticed
# Kernels for pixels in BGR order; ours are in RGB order.
_BGR = re.compile(r"(?:base_model\.)?conv1_7x7_s2\.weight")
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
            of TSM start a TIN. `None`: if the file has none.

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
    if temporal_op and (backbone_only or reset_temporal_op is None):
        reset_temporal_op = reset_temporal_op or temporal_op.isdisjoint(paths.values())
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
        value = np.asarray(state_dict[name])
        if not any(jnp.issubdtype(value.dtype, kind) for kind in _REAL):
            raise UserError(f"{name!r} is of type {value.dtype}, expected real numbers")
        if _BGR.fullmatch(plain[name]) and value.ndim > 1:
            value = value[:, ::-1]
        value = fitted(value, path, shape)
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
        # A copy: on a CPU, JAX would share the memory of an array that somebody may write to later,
        # such as the running statistics of a PyTorch model.
        targets[path].set_value(jnp.array(value, targets[path].dtype))
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
    if layer == "" or leaf in _DERIVED:
        return ""
    leaves = _NORM_LEAVES if f"{layer}/scale" in targets else _OTHER_LEAVES
    path = f"{layer}/{leaves.get(leaf, leaf)}"
    return path if path in targets else None


def _is_classifier(path, targets):
    """Whether the size of a variable is the number of classes."""
    # In a TRN the first layer of the head embeds frames.
    head = r"head/relations/\d+/output" if "head/relations/0/output/bias" in targets else r"head/fc"
    return re.fullmatch(rf"({head}|neck/.*\bfc)/(kernel|bias)", path) is not None
