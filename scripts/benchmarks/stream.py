"""A streamed step against the backbone on one frame, and against a clip per frame."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.turns import Side
from trn_jax import create_model, streaming

_NUM_CLASSES = 174
STEP, BACKBONE = "step", "backbone, one frame"
_CLIP = "clip per frame"
STEP_GOAL = 1.1


def stream_sides(name: str, *, frames: int, pixels: int) -> list[Side]:
    """What one more frame of one camera costs.

    Args:
        name: of a model with causal shifts, a TSN or a TRN.
        frames: of a clip.
        pixels: side of a frame.

    Returns:
        A step of the stream; the backbone without shifts and without a head, for one frame; and the
        model for a clip of the last frames.
    """
    causal = dict(causal=True) if name.startswith("tsm_") else {}
    options = dict(num_classes=_NUM_CLASSES, num_segments=frames, **causal)
    model = nnx.jit(lambda: create_model(name, **options))()
    plain = nnx.jit(lambda: create_model(f"tsn_{name.partition('_')[2]}", num_classes=0))()
    stream = streaming(model)
    rng = np.random.default_rng(0)
    clip = jnp.asarray(rng.integers(0, 256, (1, frames, pixels, pixels, 3), np.uint8))
    frame = clip[:, 0]
    state = stream.init(1, pixels)
    graphs, states = zip(*(nnx.split(each) for each in (model, plain)), strict=True)
    score = jax.jit(lambda state, clips: nnx.merge(graphs[0], state)(clips))
    features = jax.jit(lambda state, clips: nnx.merge(graphs[1], state).features(clips))

    def step(steps: int) -> jax.Array:
        nonlocal state
        for _ in range(steps):
            logits, state = stream.step(state, frame)
            jax.block_until_ready((logits, state))
        return logits

    def backbone(steps: int) -> jax.Array:
        for _ in range(steps):
            found = jax.block_until_ready(features(states[1], frame[:, None]))
        return found

    def clips(steps: int) -> jax.Array:
        for _ in range(steps):
            logits = jax.block_until_ready(score(states[0], clip))
        return logits

    return [Side(STEP, 1, step), Side(BACKBONE, 1, backbone), Side(_CLIP, 1, clips)]


def goals(frames: int) -> dict[tuple[str, str], float | None]:
    """Pairs of sides and goals for the ratio of CPU time; of 8 frames, 6 are to be saved."""
    return {(STEP, BACKBONE): STEP_GOAL, (STEP, _CLIP): 1 / math.floor(0.75 * frames)}
