"""Stages of a backbone: sizes of residual blocks, layers, features, rematerialisation."""

import contextlib
import contextvars
from functools import partial

import jax.numpy as jnp
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm

_tap: contextvars.ContextVar = contextvars.ContextVar("tap", default=None)


@contextlib.contextmanager
def tapped(tap):
    """Let a function see and replace what blocks give, in backbones that are called meanwhile.

    Args:
        tap: called behind every block with the index of the stage, the number of blocks of it that
            are left, and the features; returns features of the same shape.
    """
    token = _tap.set(tap)
    try:
        yield
    finally:
        _tap.reset(token)


def observed(stage, blocks_left, x):
    """`x`, or what the function of `tapped` makes of it."""
    tap = _tap.get()
    return x if tap is None else tap(stage, blocks_left, x)


def stage_layers(*, frozen, freeze_norm=False, dtype, rngs, **norm_options):
    """Constructors of the layers of one stage, `dict(conv=..., norm=...)`.

    Args:
        frozen: freeze all of them.
        freeze_norm: freeze the batch norms.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
        **norm_options: other arguments of `BatchNorm`.
    """
    conv = partial(Conv, frozen=frozen, dtype=dtype, rngs=rngs)
    norm = partial(BatchNorm, frozen=frozen or freeze_norm, dtype=dtype, **norm_options)
    return dict(conv=conv, norm=norm)


def residual_shapes(depths, width, expansion):
    """Sizes of the blocks of a ResNet.

    Args:
        depths: number of blocks in each stage.
        width: channels of the stem; stage i works with `width * 2**i`.
        expansion: output channels of a block per channel inside.

    Returns:
        For each stage a list of `(in_channels, channels, stride)`, one per block. The first block
        of every stage but the first halves height and width.
    """
    stages, in_channels = [], width
    for stage, depth in enumerate(depths):
        channels, blocks = width * 2**stage, []
        for index in range(depth):
            blocks.append((in_channels, channels, 2 if stage and not index else 1))
            in_channels = channels * expansion
        stages.append(blocks)
    return stages


def run_stages(stages, x, *, remat, between=(), **options):
    """Run all stages and return the features of each, a list.

    Args:
        stages: the blocks of each stage, a list of lists.
        x: input of the first block.
        remat: number of stages, from the first on, whose blocks are rematerialised.
        between: maps between two stages, one less than there are stages; or none.
        **options: keyword arguments of `run_block`.
    """
    features = []
    for number, blocks in enumerate(stages):
        if number and between:
            x = between[number - 1](x)
        for index, block in enumerate(blocks, start=1):
            x = run_block(block, x, remat=number < remat, **options)
            x = observed(number, len(blocks) - index, x)
        features.append(x)
    return features


def run_block(block, x, *, remat, rngs=None, **options):
    """Call `block(x, **options)`, with `rngs` if there are any.

    With `remat`, only `x` is kept for the backward pass, which recomputes the activations inside
    the block (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). Outputs,
    gradients, statistics and random numbers are the same.
    """

    def run(block, x, rngs):
        random = {} if rngs is None else dict(rngs=rngs)
        return block(x, **options, **random)

    return (nnx.remat(run) if remat else run)(block, x, rngs)


def drop_path_keys(rngs, clip_index, num_frames):
    """Keyword arguments of blocks that skip branches at random, `rngs` and `clip_index`.

    Args:
        rngs: source of the `dropout` keys.
        clip_index: index of each clip in the global batch, `[clips]`; `None` makes every frame a
            clip.
        num_frames: number of frames.

    Raises:
        UserError: `rngs` is missing.
    """
    if rngs is None:
        raise UserError("drop path needs random keys: call the backbone with rngs=nnx.Rngs(...)")
    return dict(rngs=rngs, clip_index=jnp.arange(num_frames) if clip_index is None else clip_index)


def check_frozen(frozen_stages, num_stages):
    """Check a number of frozen stages.

    Raises:
        UserError: it is not in -1..`num_stages`.
    """
    if not -1 <= frozen_stages <= num_stages:
        raise UserError(
            f"frozen_stages={frozen_stages} is not in -1..{num_stages}: "
            "-1 freezes nothing, 0 the stem, k the stem and k stages"
        )


def check_remat(remat, num_stages):
    """Check that a backbone has at least `remat` stages.

    Raises:
        UserError: it has fewer, or `remat` is negative.
    """
    if not 0 <= remat <= num_stages:
        raise UserError(
            f"remat={remat} is not in 0..{num_stages}, the number of stages of the backbone, from "
            "the first on, whose activations are recomputed in the backward pass"
        )
