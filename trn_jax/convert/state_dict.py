"""Copies foreign weights into our models, by the tables of `name_tables`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.convert.diagnosis import Problems, compare_shifts
from trn_jax.convert.image_name_tables import BEHIND_RELU, CLASSIFIER
from trn_jax.convert.layout import fitted, rearranged
from trn_jax.convert.mbconv_name_tables import EPSILONS
from trn_jax.convert.recognition import derived, layer, recognise
from trn_jax.errors import UserError, escaped, listed
from trn_jax.nn.layers import BatchNorm

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {
    "weight": "kernel",
    "layer_scale": "gamma",
    "class_token": "cls_token",
    "pos_embedding": "pos_embed",
    "in_proj_weight": "qkv/kernel",
    "in_proj_bias": "qkv/bias",
}
_REAL = (jnp.floating, jnp.integer, jnp.bool_)  # complex numbers would silently lose a part
# BN-Inception's, which is for pixels in BGR order in every file; ours are in RGB order.
_BGR = "backbone/conv1_7x7_s2/conv/kernel"
# Layers that don't belong to a backbone, whether a table knows them or not.
_HEAD = re.compile(
    r"(cls_head|necks?|(\w+_)?head|fc\w*|classifier|linear|last_linear|new_fc|consensus|"
    r"base_model\.fc|projector|predictor|prototypes)\..*"
)


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
    take_classifier=False,
):
    """Copy foreign weights into `model`, in place.

    Kernels of 2-D convolutions are inflated for 3-D ones, see `fitted`.

    Args:
        model: a `Recognizer`; values that the file has may be abstract (`nnx.eval_shape`).
        state_dict: `{name: array}` in PyTorch's layout.
        source: one of `NAME_TABLES`, or "auto" for the one that knows most of the names.
        backbone_only: keep the model's neck and head; also the parameters of its temporal op and of
            its non-local blocks if the file has none.
        reset_head: keep the model's classifiers, whose sizes depend on the number of classes.
        reset_temporal_op: keep the model's parameters of the temporal op, to start a TIN from a
            TSM. `None`: if the file has none.
        take_classifier: load the classifier of an image network as the head, which must be a
            single layer, as those of TSN and TSM.

    Returns:
        What was loaded: a list of `(foreign name, our path, shape)`, in the file's order. Joined
        tensors, see `rearranged`, have one name.

    Raises:
        UserError: for an unknown source, with all missing, unexpected and mis-shaped tensors, or
            with those that are not finite. The model is unchanged then.
    """
    tensors, found = _recognised(state_dict, source)
    targets = variables(model)
    if take_classifier:
        _check_classifier(found.source, targets)
    paths = _paths(found, targets, "head/fc" if take_classifier else "", backbone_only)
    reset = _reset(paths, targets, backbone_only, reset_temporal_op)
    kept = _kept(targets, backbone_only, reset_head, reset)

    problems = Problems()
    values = _values(tensors, paths, targets, kept, problems)
    problems.missing = [path for path in targets if path not in values and path not in kept]
    if not (backbone_only or "temporal_op" in reset):
        problems.shift = compare_shifts(model, found.source, found.names.values())
    if problems.count():
        ours = {path: leaf.shape for path, leaf in targets.items()}
        raise UserError(problems.text(found.source, _shapes(tensors, found), ours))
    _check_epsilon(model, found.source)
    _check_finite(values, targets)
    _check_concrete(kept, targets)
    _assign(values, targets)
    return [(name, path, value.shape) for path, (name, value) in values.items()]


def _recognised(state_dict, source):
    """Tensors in the order of the original networks, and what their names are."""
    tensors = rearranged(state_dict)
    return tensors, recognise({name: np.size(value) for name, value in tensors.items()}, source)


def _shapes(tensors, found):
    return {plain: np.shape(tensors[name]) for name, plain in found.names.items()}


def _parts(name, targets):
    """The paths of all parts of a backbone with this name."""
    return {path for path in targets if f"/{name}/" in path}


def _reset(paths, targets, backbone_only, reset_temporal_op):
    """Names of the parts of a backbone that keep the model's values."""
    reset = {"temporal_op"} if reset_temporal_op else set()
    if backbone_only or reset_temporal_op is None:
        reset |= {name for name in ("temporal_op", "non_local") if _lacks(name, paths, targets)}
    return reset


def _lacks(name, paths, targets):
    """Whether the parts with this name have parameters, and the file none of them."""
    ours = _parts(name, targets)
    return bool(ours) and ours.isdisjoint(paths.values())


def _kept(targets, backbone_only, reset_head, reset):
    """Paths of the variables that keep the model's values."""
    kept = {path for name in reset for path in _parts(name, targets)}
    if backbone_only:
        kept |= {path for path in targets if path.startswith(("head/", "neck/"))}
    if reset_head:
        kept |= {path for path in targets if _is_classifier(path, targets)}
    return kept


def _paths(found, targets, classifier, backbone_only):
    """Our path of each tensor, `{foreign name: path}`, see `our_path`.

    The layer `classifier` replaces that of an image network; "" drops it.
    """
    paths = {}
    for name, plain in found.names.items():
        path = our_path(plain, found.source, targets)
        layer, _, leaf = (path or "").rpartition("/")
        if layer == CLASSIFIER:
            path = f"{classifier}/{leaf}" if classifier else ""
        # The last norm or layer of some backbones is named as a part of the classifier.
        elsewhere = not (path or "").startswith("backbone/")
        paths[name] = "" if backbone_only and elsewhere and _HEAD.fullmatch(plain) else path
    return paths


def _values(tensors, paths, targets, kept, problems):
    """The values of our variables, `{path: (foreign name, value)}`; fills `problems`."""
    values: dict[str, tuple] = {}
    for name, path in paths.items():
        if path == "" or path in kept:
            continue
        value = np.asarray(tensors[name])
        if path is None:
            problems.unexpected.append((name, value.shape))
            continue
        if not any(jnp.issubdtype(value.dtype, kind) for kind in _REAL):
            raise UserError(f"{name!r} is of type {value.dtype}, expected real numbers")
        if path == _BGR and value.ndim > 1:
            value = value[:, ::-1]
        shape = targets[path].shape
        value = fitted(value, path, shape)
        if path in values:
            problems.doubled.append((values[path][0], name, path))
        elif value.shape != shape:
            problems.misshapen.append((name, value.shape, path, shape))
        values[path] = name, value
    return values


def _assign(values, targets):
    """Give our variables the values of the file."""
    for path, (_, value) in values.items():
        # A copy: on a CPU, JAX would share the memory of an array that may change later, such as
        # the running statistics of a PyTorch model.
        targets[path].set_value(jnp.array(value, targets[path].dtype))


def _check_epsilon(model, source):
    """Check that batch norms add what those of the file add to variances.

    Raises:
        UserError: they add something else, so that the model would compute something else.
    """
    norms = (part for _, part in nnx.iter_modules(model) if isinstance(part, BatchNorm))
    epsilons = {norm.epsilon for norm in norms}
    if epsilons - {EPSILONS.get(source)} and source in EPSILONS:
        raise UserError(
            f"the batch norms of {source} add {EPSILONS[source]:g} to variances, those of the "
            f"model {', '.join(f'{epsilon:g}' for epsilon in epsilons)}; create the model with "
            f"norm_epsilon={EPSILONS[source]:g} (--option norm_epsilon={EPSILONS[source]:g})"
        )


def _check_finite(values, targets):
    """Check that all numbers are finite in the dtype of our variables."""
    bad = {}
    for path, (name, value) in values.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(targets[path].dtype, copy=False))
        if not finite.all():
            bad[name] = finite.size - np.count_nonzero(finite)
    if bad:
        lines = [f"{name}: {count:,}" for name, count in bad.items()]
        raise UserError(
            "some numbers are NaN, infinite or beyond float32; use an earlier checkpoint. "
            f"Tensors, with their number of such numbers:{listed(lines)}"
        )


def _check_concrete(kept, targets):
    """Check that the variables which keep their values have some."""
    abstract = [p for p in kept if isinstance(targets[p].get_value(), jax.ShapeDtypeStruct)]
    if abstract:
        raise UserError(
            f"{len(abstract)} variables keep the model's values, such as {min(abstract)}, but the "
            "model has only shapes; create it without nnx.eval_shape"
        )


def unread(state_dict, rows):
    """Lines about tensors that `load_state_dict` did not use, except for counters and the like.

    Args:
        state_dict: its argument.
        rows: its result.

    Returns:
        A list of texts: one about tensors, and those of a `StateDict` about the rest of its file.
    """
    taken = {name for name, _, _ in rows}
    names = [n for n in rearranged(state_dict) if n not in taken and not derived(n)]
    lines = []
    if names:
        shown = ", ".join(map(escaped, names[:5])) + (", ..." if len(names) > 5 else "")
        lines.append(f"left unread: {len(names)} tensor{'s' * (len(names) > 1)}: {shown}")
    return lines + getattr(state_dict, "left_unread", [])


def shapes(state_dict, source="auto"):
    """Shapes by the names of a source's table, `{"fc.bias": (1000,), ...}`.

    Raises:
        UserError: for unknown names, as `load_state_dict`.
    """
    return _shapes(*_recognised(state_dict, source))


def our_path(name, source, targets):
    """The path of a tensor in our model.

    Args:
        name: as in the table of `source`.
        source: one of `NAME_TABLES`.
        targets: the `variables` of the model.

    Returns:
        A key of `targets`, or `CLASSIFIER/...`; "" for a tensor without use, `None` for an unknown
        one.
    """
    found = layer(name, source)
    leaf = name.rpartition(".")[2]
    if found in ("", None):
        return found
    if found == CLASSIFIER:
        return f"{CLASSIFIER}/{_OTHER_LEAVES.get(leaf, leaf)}"
    leaves = _NORM_LEAVES if f"{found}/scale" in targets else _OTHER_LEAVES
    path = f"{found}/{leaves.get(leaf, leaf)}"
    return path if path in targets else None


def _check_classifier(source, targets):
    """Check that the head of the model computes the same as the classifier of `source`."""
    if source in BEHIND_RELU:
        raise UserError(
            f"take_classifier=True (--take-classifier): the classifier of {source} follows a ReLU, "
            "the head of ours does not, as in mmaction2; use backbone_only=True (--backbone-only) "
            "and train a head"
        )
    if "head/relations/0/output/bias" in targets or "head/fc/bias" not in targets:
        raise UserError(
            "take_classifier=True (--take-classifier): the head of the model is not a single "
            "layer; use a model with the head of TSN or TSM, or backbone_only=True "
            "(--backbone-only)"
        )


def _is_classifier(path, targets):
    """Whether the size of a variable is the number of classes."""
    # In a TRN the first layer of the head embeds frames.
    head = r"head/relations/\d+/output" if "head/relations/0/output/bias" in targets else r"head/fc"
    return re.fullmatch(rf"({head}|neck/.*\bfc)/(kernel|bias)", path) is not None
