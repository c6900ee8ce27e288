"""Foreign weights into our models, by the tables of `sources`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.convert.diagnosis import Problems, compare_shifts
from trn_jax.convert.image_sources import BEHIND_RELU, CLASSIFIER
from trn_jax.convert.layout import fitted, rearranged
from trn_jax.convert.recognition import derived, layer, recognise
from trn_jax.errors import UserError, escaped, listed

_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {"weight": "kernel"}
_REAL = (jnp.floating, jnp.integer, jnp.bool_)  # complex numbers would lose a part unnoticed
# Kernels for pixels in BGR order; ours are in RGB order.
_BGR = re.compile(r"(?:base_model\.)?conv1_7x7_s2\.weight")
# What does not belong to a backbone, whether or not a table knows it.
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
        take_classifier: take the classifier of an image network for the head, which has to be one
            layer, as those of TSN and TSM are.

    Returns:
        What was taken: a list of `(foreign name, our path, shape)`, in the file's order. What was
        joined, see `rearranged`, has one name.

    Raises:
        UserError: for an unknown source, with all missing, unexpected and mis-shaped tensors, or
            with those that are not finite. The model is unchanged then.
    """
    tensors = rearranged(state_dict)
    found = recognise({name: np.size(value) for name, value in tensors.items()}, source)
    targets = variables(model)
    paths = {n: _path(plain, found.source, targets) for n, plain in found.names.items()}
    if take_classifier:
        _check_classifier(found.source, targets)
    classifier = "head/fc" if take_classifier else ""
    paths = {n: _replaced(path, classifier) for n, path in paths.items()}
    temporal_op = {path for path in targets if "/temporal_op/" in path}
    if temporal_op and (backbone_only or reset_temporal_op is None):
        reset_temporal_op = reset_temporal_op or temporal_op.isdisjoint(paths.values())
    kept = temporal_op if reset_temporal_op else set()
    if backbone_only:
        kept |= {path for path in targets if path.startswith(("head/", "neck/"))}
        paths = {n: "" if _HEAD.fullmatch(found.names[n]) else path for n, path in paths.items()}
    if reset_head:
        kept |= {path for path in targets if _is_classifier(path, targets)}

    problems = Problems()
    values = _values(tensors, paths, targets, kept, found.names, problems)
    problems.missing = [path for path in targets if path not in values and path not in kept]
    if not (backbone_only or reset_temporal_op):
        problems.shift = compare_shifts(model, found.source, found.names.values())
    if problems.count():
        shapes = {plain: np.shape(tensors[name]) for name, plain in found.names.items()}
        ours = {path: leaf.shape for path, leaf in targets.items()}
        raise UserError(problems.text(found.source, shapes, ours))
    _check_finite(values, targets)
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


def _values(tensors, paths, targets, kept, plain, problems):
    """What goes into our variables, `{path: (foreign name, value)}`; fills `problems`."""
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
        if _BGR.fullmatch(plain[name]) and value.ndim > 1:
            value = value[:, ::-1]
        shape = targets[path].shape
        value = fitted(value, path, shape)
        if path in values:
            problems.doubled.append((values[path][0], name, path))
        elif value.shape != shape:
            problems.misshapen.append((name, value.shape, path, shape))
        values[path] = name, value
    return values


def _check_finite(values, targets):
    """Check that all numbers are finite in the dtype that they get."""
    bad = {}
    for path, (name, value) in values.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(targets[path].dtype))
        if not finite.all():
            bad[name] = finite.size - np.count_nonzero(finite)
    if bad:
        lines = [f"{name}: {count:,}" for name, count in bad.items()]
        raise UserError(
            "not all numbers are finite (some are NaN, infinite or beyond float32); take an "
            f"earlier checkpoint. Tensors, with the number of such numbers:{listed(lines)}"
        )


def unread(state_dict, rows):
    """Lines on what `load_state_dict` had no use for, but for counters and the like.

    Args:
        state_dict: what it was given.
        rows: what it returned.

    Returns:
        A list of texts: one on tensors, and those that a `StateDict` has on the rest of its file.
    """
    taken = {name for name, _, _ in rows}
    names = [n for n in rearranged(state_dict) if n not in taken and not derived(n)]
    lines = []
    if names:
        shown = ", ".join(map(escaped, names[:5])) + (", ..." if len(names) > 5 else "")
        lines.append(f"left unread: {len(names)} tensor{'s' * (len(names) > 1)}: {shown}")
    return lines + getattr(state_dict, "left_unread", [])


def shapes(state_dict, source="auto"):
    """Shapes by the names that a source has for tensors, `{"fc.bias": (1000,), ...}`.

    Raises:
        UserError: as `load_state_dict` does for names that it does not know.
    """
    tensors = rearranged(state_dict)
    found = recognise({name: np.size(value) for name, value in tensors.items()}, source)
    return {plain: np.shape(tensors[name]) for name, plain in found.names.items()}


def _path(name, source, targets):
    """The path of a tensor in our model, "" if we have no use for it, `None` if it has no place."""
    found = layer(name, source)
    leaf = name.rpartition(".")[2]
    if found in ("", None):
        return found
    if found == CLASSIFIER:
        return f"{CLASSIFIER}/{_OTHER_LEAVES.get(leaf, leaf)}"
    leaves = _NORM_LEAVES if f"{found}/scale" in targets else _OTHER_LEAVES
    path = f"{found}/{leaves.get(leaf, leaf)}"
    return path if path in targets else None


def _replaced(path, classifier):
    """`path`, with `classifier` in place of that of an image network; "" leaves it unread."""
    layer, _, leaf = (path or "").rpartition("/")
    if layer != CLASSIFIER:
        return path
    return f"{classifier}/{leaf}" if classifier else ""


def _check_classifier(source, targets):
    """Check that the head of the model computes what the classifier of `source` does."""
    if source in BEHIND_RELU:
        raise UserError(
            f"take_classifier=True (--take-classifier): a classifier of {source} stands behind a "
            "ReLU, the head of ours does not, as mmaction2's; take backbone_only=True "
            "(--backbone-only), and train a head"
        )
    if "head/relations/0/output/bias" in targets or "head/fc/bias" not in targets:
        raise UserError(
            "take_classifier=True (--take-classifier): the head of the model is not one layer, as "
            "a classifier of images is; take a model with the head of TSN or TSM, or "
            "backbone_only=True (--backbone-only)"
        )


def _is_classifier(path, targets):
    """Whether the size of a variable is the number of classes."""
    # In a TRN the first layer of the head embeds frames.
    head = r"head/relations/\d+/output" if "head/relations/0/output/bias" in targets else r"head/fc"
    return re.fullmatch(rf"({head}|neck/.*\bfc)/(kernel|bias)", path) is not None
