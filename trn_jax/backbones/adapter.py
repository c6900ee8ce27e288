"""Backbones that were not written for this package: any NNX module that maps frames."""

import inspect

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.stages import observed
from trn_jax.errors import UserError, escaped

_ATTRIBUTES = ("sees_clips", "draws", "dtype", "stage_channels", "out_channels")
_PIXELS = (224, 32)  # sizes of the frames that a module is tried on
_EXPECTED = (
    "[frames, height, width, 3] to [frames, height', width', channels] or [frames, channels], or "
    "to a list of such arrays, one per stage"
)


def adapted(module, *, num_frames=1, dtype=jnp.float32):
    """`module` itself if it has the attributes of our backbones, else an `AdaptedBackbone`.

    Raises:
        UserError: it is no NNX module, or see `AdaptedBackbone`.
    """
    if not isinstance(module, nnx.Module):
        raise UserError(
            f"the backbone is of type {type(module).__name__}, expected an nnx.Module that maps "
            f"{_EXPECTED}"
        )
    if all(hasattr(module, name) for name in _ATTRIBUTES):
        return module
    return AdaptedBackbone(module, num_frames=num_frames, dtype=dtype)


class AdaptedBackbone(nnx.Module):
    """A module of another project as a backbone.

    Training mode is an argument of the call. A module that takes `train` gets it; for others, the
    layers of Flax inside it are used through `nnx.view` with `use_running_average` and
    `deterministic`, so that no layer keeps a mode. Modules that take `num_groups`, `rngs` or
    `clip_index` get them, too (see `Recognizer`).

    Dropout of Flax draws from the `rngs` of the call; streams that the layers were made with are
    removed, because weights don't contain random states. Such masks depend on a clip's place in the
    batch, those of our own layers do not.

    Args:
        module: maps normalised frames, `[frames, height, width, 3]`, to
            `[frames, height', width', channels]` or `[frames, channels]`, or to a list of such
            arrays, one per stage. It becomes a part of the backbone; it is not copied.
        num_frames: number of frames that it can be tried on, those of a clip if it exchanges
            features among them.
        dtype: dtype of the frames that it gets; its layers decide what they compute in.

    Attributes:
        stage_channels: channels of the features of each stage. If the module has no
            `out_channels`, it is traced, without computing anything, on frames of 224 or of 32
            pixels.
        out_channels: those of the last stage.
        draws: the module needs random keys in training.

    Raises:
        UserError: its output has another shape, it can't be traced, or it keeps random states.
    """

    sees_clips = False

    def __init__(self, module, *, num_frames=1, dtype=jnp.float32):
        self.module = module
        self.dtype = jnp.dtype(dtype)
        parameters = inspect.signature(type(module).__call__).parameters
        known = ("train", "num_groups", "rngs", "clip_index")
        self.arguments = tuple(name for name in known if name in parameters)
        self.has_statistics = _has(module, nnx.BatchStat)
        drops = _without_streams(module)
        self.draws = drops or "rngs" in self.arguments
        if hasattr(module, "out_channels"):
            last = int(module.out_channels)
            self.stage_channels = tuple(getattr(module, "stage_channels", (last,)))
        else:
            self.stage_channels = tuple(f.shape[-1] for f in self._traced(num_frames))
        self.out_channels = self.stage_channels[-1]

    def __call__(self, frames, *, train=False, num_groups=1, rngs=None, clip_index=None):
        """Compute the features of all stages, a list of `[frames, height', width', channels]`.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: use batch statistics and drop features at random.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.
            rngs: source of the `dropout` keys, needed in training if the backbone `draws`.
            clip_index: index of each clip in the global batch, `[clips]`.

        Raises:
            UserError: the module has batch statistics and no groups of them, or its output has
                another shape.
        """
        if num_groups > 1 and self.has_statistics and "num_groups" not in self.arguments:
            raise UserError(
                f"{self._name()} computes batch statistics over the whole batch, not over "
                f"{num_groups} groups of clips; set norm_group=0, or let its __call__ take "
                "num_groups"
            )
        given = dict(train=train, num_groups=num_groups, rngs=rngs, clip_index=clip_index)
        module = self.module
        if "train" not in self.arguments:
            modes = dict(use_running_average=not train, deterministic=not train)
            module = nnx.view(module, raise_if_not_found=False, **modes)
            if train and rngs is not None:
                for part in _dropouts(module):
                    part.rngs = rngs.dropout
        found = module(frames.astype(self.dtype), **{name: given[name] for name in self.arguments})
        return self._maps(found, len(frames))

    def _maps(self, found, num_frames):
        stages = list(found) if isinstance(found, list | tuple) else [found]
        for features in stages:
            ndim, rows = jnp.ndim(features), jnp.shape(features)[:1]
            if ndim not in (2, 4) or rows != (num_frames,):
                raise UserError(
                    f"{self._name()} gives an array of shape {jnp.shape(features)} for "
                    f"{num_frames} frames; a backbone maps {_EXPECTED}"
                )
        if not stages:
            raise UserError(f"{self._name()} gives no array; a backbone maps {_EXPECTED}")
        stages = [f if f.ndim == 4 else f[:, None, None] for f in stages]
        return [*stages[:-1], observed(len(stages) - 1, 0, stages[-1])]

    def _traced(self, num_frames):
        graph, state = nnx.split(self)
        problems = []
        for pixels in _PIXELS:
            frames = jax.ShapeDtypeStruct((num_frames, pixels, pixels, 3), self.dtype)
            try:
                return jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, frames)
            except UserError:
                raise
            except Exception as problem:  # of any kind, from a stranger's code
                first = (str(problem).splitlines() or [""])[0]
                problems.append(f"{pixels} pixels: {type(problem).__name__}: {escaped(first)}")
        raise UserError(
            f"{self._name()} can't be applied to frames ({'; '.join(problems)}); a backbone maps "
            f"{_EXPECTED}. If it needs frames of another size, give it an attribute out_channels, "
            "the channels of its output"
        )

    def _name(self):
        return f"the backbone {type(self.module).__name__}"


def _has(module, kind):
    return bool(jax.tree.leaves(nnx.state(module, kind)))


def _without_streams(module):
    """Remove the random streams of dropout layers; whether a layer drops anything.

    Raises:
        UserError: other layers keep random states, or a dropout layer can't get its keys.
    """
    drops = False
    for part in _dropouts(module):
        drops |= (part.rate if isinstance(part, nnx.Dropout) else part.dropout_rate) > 0
        part.rngs = nnx.data(None)
    if _has(module, nnx.RngState):
        raise UserError(
            f"the backbone {type(module).__name__} keeps random states, which weights don't "
            "contain: make its layers without rngs for dropout, and take rngs=nnx.Rngs(...) as an "
            "argument of its __call__"
        )
    return drops


def _dropouts(module):
    """The layers of Flax inside `module` that draw in training."""
    kinds = (nnx.Dropout, nnx.MultiHeadAttention)
    return [part for _, part in list(nnx.iter_modules(module)) if isinstance(part, kinds)]
