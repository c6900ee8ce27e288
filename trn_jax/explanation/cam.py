"""Where a model looks: class activation maps of whole clips.

Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", 2017) weights the maps of a layer with the gradient of a logit. Here the gradient is
that of the clip: the maps `[frames, height, width, channels]` of all frames are one input, and the
gradient comes back through everything behind them that exchanges features between frames (shifts,
necks, relations). Maps of frames that are scored one by one would belong to another network.

A map is the sum over channels of gradient times activation at each place, where it is positive.
Where the head averages the maps, the gradient is the same at all places, and this is Grad-CAM.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.backbones.stages import tapped
from trn_jax.backbones.vit import ViT
from trn_jax.errors import UserError

_WANTED = 7  # cells along a side, as a ResNet has them for frames of 224 pixels
_LEAST = 2


class _Tap:
    """Adds something to the maps of a stage, and keeps them; see `stages.tapped`.

    Args:
        stage: index of the stage.
        added: of the shape of the maps; zeros, whose gradient is that of the maps. `None` adds
            nothing.
        blocks_left: behind the maps, in the stage.
    """

    def __init__(self, stage, added, blocks_left=0):
        self._at = stage, blocks_left
        self._added = added
        self.seen = None

    def __call__(self, stage, blocks_left, x):
        if (stage, blocks_left) != self._at or self.seen is not None:
            return x
        # Tokens of a ViT are a class token, which has no place, and rows of patches.
        side = math.isqrt(x.shape[1]) if x.ndim == 3 else 0
        self.seen = x[:, 1:].reshape(-1, side, side, x.shape[-1]) if side else x
        if self._added is None:
            return x
        added = self._added.astype(x.dtype)
        if not side:
            return x + added
        return x.at[:, 1:].add(added.reshape(x[:, 1:].shape))


class ActivationMaps:
    """Computes class activation maps.

    Args:
        model: a `Recognizer` with a head.
        shape: of a clip, `(frames, height, width, 3)`.
        stage: whose maps, an index of the stages of the backbone, such as -1 for the last one; by
            default the last one whose maps have at least 7 cells along each side, as those of small
            frames are too coarse to show a place, or the finest one. A ViT has one: the patches
            that its last block takes.

    Attributes:
        stage: the same, from the first stage on.

    Raises:
        UserError: there is no such stage, or its features are no maps.
    """

    def __init__(self, model, shape, *, stage=None):
        self._graph, state = nnx.split(model)
        self._state = nnx.as_pure(state)
        self.stage = self._choose(shape, stage, len(model.backbone.stage_channels))

        def scored(added, state, clip, label):
            logits, seen = self._run(state, clip, self.stage, added)
            return logits[label].astype(jnp.float32), seen

        def maps(state, clip, label):
            seen = jax.eval_shape(scored, None, state, clip, label)[1]
            gradient, seen = jax.grad(scored, has_aux=True)(
                jnp.zeros(seen.shape, jnp.float32), state, clip, label
            )
            found = jax.nn.relu(jnp.sum(gradient * seen.astype(jnp.float32), axis=-1))
            return found.reshape(-1, *found.shape[-2:])

        self._maps = jax.jit(maps)

    def _run(self, state, clip, stage, added):
        """The logits of a clip and the maps of a stage, to which `added` is added."""
        model = nnx.merge(self._graph, state)
        # The class token of a ViT reads the patches in the last block, and nothing does behind it.
        tap = _Tap(stage, added, blocks_left=int(isinstance(model.backbone, ViT)))
        with tapped(tap):
            logits = model(clip[None], rngs=nnx.Rngs(0))[0]
        return logits, tap.seen

    def _choose(self, shape, stage, num_stages):
        """The stage whose maps are taken.

        Raises:
            UserError: see the class.
        """
        if stage is not None and not -num_stages <= stage < num_stages:
            raise UserError(
                f"stage={stage}: the backbone has {num_stages} stages, {-num_stages} to "
                f"{num_stages - 1}"
            )

        def sizes(number):
            clip = jax.ShapeDtypeStruct(shape, np.uint8)
            run = partial(self._run, stage=number, added=None)
            _, seen = jax.eval_shape(run, self._state, clip)
            # Of modules of others, only the last stage is known to lead to the logits.
            return (0, 0) if seen is None else seen.shape[-3:-1]

        wanted = range(num_stages - 1, -1, -1) if stage is None else [stage % num_stages]
        found = {number: sizes(number) for number in wanted}
        cells = {number: min(size) for number, size in found.items()}
        fine = [number for number in wanted if cells[number] >= _WANTED]
        best = fine[0] if fine else max(wanted, key=lambda number: cells[number])
        if cells[best] >= _LEAST:
            return best
        tried = ", ".join(f"{height} x {width}" for height, width in found.values())
        raise UserError(
            f"this model has no maps that show where it looks: its features are {tried} for "
            f"frames of {shape[1]} x {shape[2]} pixels"
        )

    def __call__(self, pixels, label):
        """Compute the maps of a clip for a class.

        Args:
            pixels: `[frames, height, width, 3]`.
            label: number of the class.

        Returns:
            float32 `[frames, height', width']`, not negative, in logits: comparable between the
            frames. Of a backbone that pools over time, neighbours share a map.
        """
        found = np.asarray(self._maps(self._state, pixels, label))
        times = np.arange(len(pixels)) * len(found) // len(pixels)
        return found[times]


def center(activation):
    """The centre of mass of a map `[height, width]`, `(x, y)` in 0..1; (NaN, NaN) of zeros."""
    total = activation.sum()
    if not total > 0:
        return np.array([np.nan, np.nan])
    height, width = activation.shape
    x = activation.sum(axis=0) @ (np.arange(width) + 0.5) / width
    y = activation.sum(axis=1) @ (np.arange(height) + 0.5) / height
    return np.array([x, y]) / total
