"""Batch norms folded into the convolutions before them, for inference."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal, jaxprs_in_params

from trn_jax.backbones.mobileone import MobileOneBlock, reparameterize
from trn_jax.errors import UserError
from trn_jax.nn.concrete import concrete, placed
from trn_jax.nn.conv3d import Conv3d
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Linear

_LAYERS = (Conv, Conv3d, Linear)  # whose outputs can be scaled and shifted
_LAYER, _NORM = "trn_jax layer ", "trn_jax norm "  # names in the trace
_USUAL_FRAMES = 8


class FoldedNorm(nnx.Module):
    """The place of a batch norm that is part of the layer before it: the identity."""

    def __call__(self, x, *, train=False, num_groups=1):
        """Give `x` back.

        Raises:
            UserError: in training.
        """
        if train:
            raise UserError(
                "the batch norms of this model are folded into its convolutions, for inference; "
                "train the model that fold_batch_norm was given"
            )
        return x


def fold_batch_norm(model, *, size=224):
    """Fold batch norms into the layers before them: same scores in evaluation, fewer operations.

    A batch norm is folded if each of its inputs is the output of a convolution or a linear layer
    that nothing else takes. That is read off a trace of the model, not off names. The branches of
    MobileOne become single convolutions, see `reparameterize`. Other norms stay, such as those of
    DenseNet that come before a ReLU and its convolution.

    Args:
        model: a `Recognizer`.
        size: height and width of the frames in the trace, in pixels; of importance only to
            backbones that take no other.

    Returns:
        A copy of `model`; `model` is unchanged. It can't be trained.

    Raises:
        UserError: the model doesn't take frames of `size`.
    """
    return Folding()(nnx.clone(model), size=size)


class Folding:
    """Folds batch norms, see `fold_batch_norm`, of one model with changing parameters.

    The model is traced once.
    """

    def __init__(self):
        self._foldable: dict[Any, Any] | None = None

    def __call__(self, model, *, size):
        """Fold the batch norms of `model`, which is changed, and return it."""
        if any(_has_branches(part) for _, part in nnx.iter_modules(model)):
            model = reparameterize(model)
        parts: dict[Any, Any] = dict(nnx.iter_modules(model))
        if self._foldable is None:
            has_norms = any(isinstance(part, BatchNorm) for part in parts.values())
            self._foldable = _foldable(model, parts, size) if has_norms else {}
        folded = set()
        for norm, layers in self._foldable.items():
            scale, shift = parts[norm].affine()
            for layer in layers:
                _scale_outputs(parts[layer], scale, shift)
            folded.add(id(parts[norm]))
        for part in parts.values():
            _replace(part, folded)
        return model


def _has_branches(part):
    return isinstance(part, MobileOneBlock) and part.branch_reparam is None


def _scale_outputs(layer, scale, shift):
    kind, kernel = type(layer.kernel), layer.kernel[...]
    if layer.use_bias:
        shift = shift + concrete(layer.bias[...]) * scale
    layer.kernel = kind(placed(concrete(kernel) * scale, kernel))
    layer.bias = kind(placed(shift, kernel))
    layer.use_bias = True


def _replace(part, folded):
    """Put `FoldedNorm` in place of those children whose id is in `folded`."""
    for name, child in list(vars(part).items()):
        if id(child) in folded:
            setattr(part, name, FoldedNorm())


def _foldable(model, parts, size):
    """Paths of the norms that can be folded: `{path: paths of the layers before it}`."""
    sources: dict[str, set] = defaultdict(set)  # of each norm: layers, or None for anything else
    takers: dict[str, set] = defaultdict(set)  # of each layer: norms, or None for anything else
    paths: dict[Any, Any] = dict(enumerate(parts))
    tags = {path: number for number, path in paths.items()}
    _follow(_tagged_program(model, tags, size), sources, takers)
    return {
        paths[norm]: [paths[layer] for layer in sorted(layers)]
        for norm, layers in sources.items()
        if None not in layers and all(takers[layer] == {norm} for layer in layers)
    }


def _tagged_program(model, tags, size):
    """The jaxpr of a model in which outputs of layers and inputs of norms have their tags."""
    graph, state = nnx.split(model)
    frames = getattr(model.head, "num_segments", None) or model.num_segments or _USUAL_FRAMES

    def run(state, clips):
        copy = nnx.merge(graph, state)
        for path, part in list(nnx.iter_modules(copy)):
            if isinstance(part, (*_LAYERS, BatchNorm)):
                part.__class__ = _tagging(type(part), tags[path])
        return copy(clips, rngs=nnx.Rngs(0))

    clips = jax.ShapeDtypeStruct((1, frames, size, size, 3), jnp.uint8)
    return jax.make_jaxpr(run)(state, clips).jaxpr


def _tagging(kind, tag):
    """The class of a layer or a norm that names its output or its input."""

    def of_layer(self, x):
        return checkpoint_name(kind.__call__(self, x), f"{_LAYER}{tag}")

    def of_norm(self, x, **statistics):
        return kind.__call__(self, checkpoint_name(x, f"{_NORM}{tag}"), **statistics)

    call = of_norm if issubclass(kind, BatchNorm) else of_layer
    return type(kind.__name__, (kind,), {"__call__": call})


def _follow(program, sources, takers):
    """Collect what tagged norms take, and where the outputs of tagged layers go."""
    made: dict[Any, int] = {}
    for equation in program.eqns:
        tag = equation.params["name"] if equation.primitive.name == "name" else ""
        norm = int(tag.removeprefix(_NORM)) if tag.startswith(_NORM) else None
        layers = _among(equation.invars, made)
        for layer in layers:
            takers[layer].add(norm)
        if norm is not None:
            sources[norm] |= layers or {None}
        if tag.startswith(_LAYER):
            made[equation.outvars[0]] = int(tag.removeprefix(_LAYER))
        for inner in jaxprs_in_params(equation.params):
            _follow(inner, sources, takers)
    for layer in _among(program.outvars, made):
        takers[layer].add(None)


def _among(variables, made):
    return {made[v] for v in variables if not isinstance(v, Literal) and v in made}
