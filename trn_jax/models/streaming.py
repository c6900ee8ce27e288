"""Models that see one frame at a time, with a state in between, for cameras and long videos."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from trn_jax.errors import UserError
from trn_jax.models.recognizer import Recognizer
from trn_jax.models.tin import TemporalInterlace
from trn_jax.models.tsm import Carried, StreamedShift, TemporalShift, TSMHead
from trn_jax.models.tsn import TSNHead
from trn_jax.nn.layers import storage_dtype

POOLINGS = ("window", "mean", "exponential")
_USUAL_WINDOW = 8  # as the frames of a clip by default
_MANY_FRAMES = 1 << 30  # where a camera's counter stops, after a year at 30 frames per second


class StreamState(NamedTuple):
    """What streams carry from one frame to the next; every array has a row per stream.

    Attributes:
        shifted: the channels that causal shifts take from the previous frame, a pytree of
            `[batch, height, width, channels]` with an array per block; empty without shifts.
        features: float32; of the last frames, oldest first, `[batch, window, channels]`, or their
            mean, `[batch, channels]`.
        num_frames: int32 `[batch]`, frames so far.
    """

    shifted: Any
    features: jax.Array
    num_frames: jax.Array


class Stream:
    """A model that scores streams frame by frame, with one pass of the backbone per frame.

    A frame meets the frames before it twice. Causal shifts take channels from the previous one, as
    in a clip; those of the first frame are zero. The head sees the features of the last frames:

    - of TSN and TSM their mean, by `pooling`: "window", the mean of the last `window` frames, or of
      those so far; "mean", of all frames so far; "exponential", with weights that fall by the same
      factor from frame to frame, so that their mean age is that of the window, and the mean of all
      until they are as old;
    - of TRN the last `window` frames in order; until there are as many, the first one stands for
      those before it.

    So the logits after `window` frames are those of a clip of them. Later ones of a causal TSM know
    more: its shifts carry features on from frame to frame, as in a clip of all frames so far.

    Args:
        model: a `Recognizer`: TSN or TRN with a backbone that sees single frames, or a causal TSM.
        pooling: one of `POOLINGS`; a TRN takes "window" only.
        window: number of frames; by default those of a clip of the model.

    Attributes:
        pooling: the same.
        window: the same.
        parameters: a pytree of the arrays of the model, the first argument of `apply`.

    Raises:
        UserError: the model needs frames that come later, or options don't fit it.
    """

    def __init__(self, model, *, pooling="window", window=None):
        _check(model)
        self.pooling = pooling
        self.window = _window(model, window)
        self._averages = averages_features(model)
        if pooling not in POOLINGS:
            raise UserError(f"pooling={pooling!r} is not one of {', '.join(POOLINGS)}")
        if pooling != "window" and not self._averages:
            raise UserError(
                f"pooling={pooling!r} averages features, but the head of this model, "
                f"{type(model.head).__name__}, takes frames in order; use pooling='window'"
            )
        streamed = _streamed_copy(model)
        self._channels, self._dtype = model.backbone.out_channels, model.backbone.dtype
        self._graph, *states = nnx.split(streamed, Carried, ...)
        self._carried, self.parameters = map(nnx.as_pure, states)
        self._step = jax.jit(self.apply)

    def init(self, batch, size=None):
        """The state before the first frame; all zeros.

        Args:
            batch: number of streams, such as cameras.
            size: of a frame in pixels, `(height, width)`, or a number for squares; `None`: that of
                the first frame. The first step is compiled on its own then.

        Returns:
            A `StreamState`.

        Raises:
            UserError: `batch` is not positive, or the model doesn't take frames of that size.
        """
        if batch < 1:
            raise UserError(f"batch={batch}: expected a positive number of streams")
        rows = (batch, self.window) if self.pooling == "window" else (batch,)
        state = StreamState(
            jax.tree.map(lambda leaf: self._zeros((batch, *leaf.shape[1:]), leaf), self._carried),
            self._zeros((*rows, self._channels), storage_dtype(self._dtype)),
            self._zeros((batch,), jnp.int32),
        )
        if size is None:
            return state
        height, width = (size, size) if isinstance(size, int) else size
        frames = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
        _, state = jax.eval_shape(self.apply, self.parameters, state, frames)
        return jax.tree.map(lambda leaf: self._zeros(leaf.shape, leaf), state)

    def step(self, state, frames):
        """Score the next frame of every stream.

        Args:
            state: a `StreamState`, from `init` or the last step.
            frames: `[batch, height, width, 3]`, RGB, pixels in 0..255, any dtype.

        Returns:
            Logits `[batch, classes]` in float32, and the next state.

        Raises:
            UserError: shapes don't fit.
        """
        return self._step(self.parameters, state, frames)

    def reset(self, state, mask):
        """Begin some streams anew.

        Args:
            state: a `StreamState`.
            mask: bool `[batch]`, the streams to begin.

        Returns:
            The state, with their rows as after `init`.

        Raises:
            UserError: the shape doesn't fit.
        """
        mask = jnp.asarray(mask, bool)
        if mask.shape != state.num_frames.shape:
            raise UserError(f"the mask has shape {mask.shape}, expected {state.num_frames.shape}")

        def begin(leaf):
            return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf)

        return jax.tree.map(begin, state)

    def apply(self, parameters, state, frames):
        """`step` as a pure function of the parameters, to be compiled in another way.

        Args:
            parameters: as the attribute.
            state: see `step`.
            frames: see `step`.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3:
            raise UserError(
                f"frames have shape {frames.shape}, expected [batch, height, width, 3], one frame "
                "per stream"
            )
        if frames.shape[:1] != state.num_frames.shape:
            raise UserError(
                f"there are {frames.shape[0]} frames for a state of {state.num_frames.shape[0]} "
                "streams; start with stream.init(batch)"
            )
        model = nnx.merge(self._graph, state.shifted, parameters)
        x = model.features(frames[:, None])[:, 0]
        num_frames = jnp.minimum(state.num_frames + 1, _MANY_FRAMES)
        pooled, features = self._pool(x, state.features, num_frames)
        shifted = nnx.as_pure(nnx.state(model, Carried))
        return model.head_logits(pooled), StreamState(shifted, features, num_frames)

    def _pool(self, x, features, num_frames):
        """Input of the head, `[batch, frames, channels]`, and the next features of the state.

        `x` `[batch, channels]` are those of the frame, number `num_frames` `[batch]` from 1.
        """
        if self.pooling != "window":
            rate = 1 / num_frames.astype(x.dtype)
            if self.pooling == "exponential":
                rate = jnp.maximum(rate, 2 / (self.window + 1))
            mean = features + (x - features) * rate[:, None]
            return mean[:, None], mean
        moved = jnp.concatenate([features[:, 1:], x[:, None]], axis=1)
        is_first = (num_frames == 1)[:, None, None]
        features = jnp.where(is_first, x[:, None], moved)
        if not self._averages:
            return features, features
        seen = jnp.arange(self.window) >= self.window - num_frames[:, None]
        total = jnp.sum(jnp.where(seen[..., None], features, 0), axis=1)
        count = jnp.minimum(num_frames, self.window).astype(x.dtype)
        return (total / count[:, None])[:, None], features

    def _zeros(self, shape, like):
        """Zeros of a shape where the parameters are, so that all steps are one program."""
        dtype = getattr(like, "dtype", like)
        place = getattr(jax.tree.leaves(self.parameters)[0], "sharding", None)
        if isinstance(place, NamedSharding):
            return jnp.zeros(shape, dtype, device=NamedSharding(place.mesh, PartitionSpec()))
        return jnp.zeros(shape, dtype)


def streaming(model, *, pooling="window", window=None):
    """A model that takes one frame at a time; see `Stream`.

    `state = stream.init(batch)`, then `logits, state = stream.step(state, frames)` with `frames`
    `[batch, height, width, 3]`, RGB in 0..255.

    Args:
        model: a `Recognizer`, from `create_model` or `load_model`.
        pooling: how TSN and TSM average frames: "window", "mean" or "exponential".
        window: number of frames that a score is of; by default those of a clip.

    Returns:
        A `Stream`.

    Raises:
        UserError: the model needs frames that come later, or options don't fit it.
    """
    return Stream(model, pooling=pooling, window=window)


def averages_features(model):
    """Whether the head averages the features of frames, so that a stream may pool them."""
    return isinstance(model.head, TSNHead | TSMHead)


def _streamed_copy(model):
    """The same parameters in a model that takes clips of one frame and carries shifted channels."""
    copy = nnx.merge(*nnx.split(model))
    copy.num_segments = None
    for _, part in list(nnx.iter_modules(copy)):
        for name, op in list(vars(part).items()):
            if isinstance(op, TemporalShift) and op.num_shifted:
                setattr(part, name, StreamedShift(op.num_shifted, dtype=copy.backbone.dtype))
    return copy


def _check(model):
    """Check that no frame needs a later one.

    Raises:
        UserError: one does; with the reason, and what to train instead.
    """
    if not isinstance(model, Recognizer):
        raise UserError(
            f"{type(model).__name__} is no model; expected one of trn_jax.create_model or "
            "trn_jax.load_model"
        )
    refuse = partial(_refuse, type(model.neck or model.backbone).__name__)
    if model.neck is not None:
        raise refuse("its neck mixes the frames of a clip in both directions")
    if model.backbone.sees_clips:
        raise refuse("its backbone takes whole clips")
    if model.head is None:
        raise UserError("a model with num_classes=0 has no head, which scores the frames")
    if getattr(model.head, "eval_relations", "") == "sample":
        raise UserError(
            "eval_relations='sample' draws at random, but a stream has no draws; use 'expected', "
            "such as trn_jax.load_model(path, eval_relations='expected')"
        )
    shifts = 0
    for _, part in nnx.iter_modules(model.backbone):
        if isinstance(part, TemporalShift):
            shifts += 1
            _check_shift(part, model.num_segments)
        elif isinstance(part, TemporalInterlace):
            raise refuse("TIN takes its offsets from the whole clip, and moves features both ways")
        elif hasattr(part, "num_segments"):
            raise refuse(f"its {type(part).__name__} sees all frames of a clip")
    if model.num_segments is not None and not shifts:
        raise refuse("its backbone exchanges features among all frames of a clip")


def _check_shift(op, num_segments):
    if not op.causal:
        raise _refuse("TSM", "half of its shifted channels come from the next frame")
    if op.num_segments != num_segments:
        raise UserError(
            f"shift_segments={op.num_segments} splits clips of {num_segments} frames into runs, "
            "but a stream has no ends; create the model without shift_segments"
        )


def _refuse(name, reason):
    return UserError(
        f"{name} can't score a stream frame by frame: {reason}. Train a causal TSM "
        "(model.causal=True, as the recipes tsm_causal_* do), a TSN or a TRN instead"
    )


def _window(model, given):
    """Number of frames that a score is of."""
    needed = getattr(model.head, "num_segments", None)
    if given is not None:
        if given < 1:
            raise UserError(f"window={given}: expected a positive number of frames")
        if needed not in (None, given):
            raise UserError(f"window={given}: this model scores num_segments={needed} frames")
        return given
    stored = model.info.config["model"].get("num_segments") if model.info else None
    return needed or model.num_segments or stored or _USUAL_WINDOW
