"""Scores one clip many times, its frames in other orders, repeated or left out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_HEADS_PER_STEP = 64  # of cached features, which cost little
_MAX_ROWS = 128  # frames that a step chooses from, 77 MB of 224 x 224 pixels


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedClip:
    """A clip on the device.

    Attributes:
        num_frames: of the clip.
        rows: what rearrangements choose from, `[frames + 1, ...]`: its frames and one of the mean
            colour; or their features. Rows of zeros may follow.
        features: float32 `[frames, channels]`, see `Recognizer.features`. A neck may reduce the
            number of frames.
    """

    num_frames: int
    rows: Any
    features: np.ndarray


class Rearranged:
    """Scores rearrangements of a clip.

    One program scores all rearrangements, a fixed number per step, whatever frames they choose. The
    backbone runs once per frame if the model's frames meet only in the head, else for every
    rearrangement.

    Args:
        model: a `Recognizer` with a head.
        max_clips: clips per step, where the backbone sees them.
    """

    def __init__(self, model, *, max_clips):
        self._caches = model.sees_frames
        self._max_clips = _HEADS_PER_STEP if self._caches else max_clips
        graph, state = nnx.split(model)
        self._state = nnx.as_pure(state)
        mean = np.array(model.mean, np.float32)

        def rows(pixels):
            blank = jnp.broadcast_to(mean, (1, *pixels.shape[1:]))
            return jnp.concatenate([pixels.astype(jnp.float32), blank])

        def filled(rows, num_frames):
            # As many rows as several clips have, so that one program scores one or several.
            missing = self._num_rows(num_frames) - len(rows)
            rows = rows.astype(jnp.float32)
            return jnp.pad(rows, [(0, missing), *[(0, 0)] * (rows.ndim - 1)])

        def features(state, pixels):
            return nnx.merge(graph, state).features(pixels[None])[0]

        def load(state, pixels):
            found = rows(pixels)
            if not self._caches:
                return filled(found, len(pixels)), features(state, pixels)
            found = features(state, found)
            return filled(found, len(pixels)), found[:-1]

        def score(state, rows, choices):
            model = nnx.merge(graph, state)
            chosen = rows[choices]
            return model.head_logits(chosen) if self._caches else model(chosen)

        self._load, self._score = jax.jit(load), jax.jit(score)
        self._filled = jax.jit(filled, static_argnames="num_frames")

    def _num_rows(self, num_frames):
        return num_frames * max(min(self._max_clips, _MAX_ROWS // num_frames), 1) + 1

    def load(self, pixels):
        """Put a clip `[frames, height, width, 3]` on the device, as a `LoadedClip`."""
        rows, features = self._load(self._state, pixels)
        return LoadedClip(len(pixels), rows, np.asarray(features))

    def score(self, clips):
        """Score clips as they are, several per step.

        Args:
            clips: uint8 `[frames, height, width, 3]` each.

        Returns:
            float32 `[clips, classes]`.
        """
        num_frames = len(clips[0])
        parts = [self.load(each).features for each in clips] if self._caches else clips
        size = self._num_rows(num_frames) // num_frames
        found = []
        for start in range(0, len(parts), size):
            group = np.concatenate(parts[start : start + size])
            rows = self._filled(group, num_frames=num_frames)
            choices = np.arange(len(group)).reshape(-1, num_frames)
            found.append(self.logits(LoadedClip(len(group), rows, group[:0]), choices))
        return np.concatenate(found)

    def logits(self, clip, choices):
        """Score rearrangements of a `LoadedClip`.

        Args:
            clip: the clip.
            choices: the frames of each, int `[rearrangements, frames]`; the number of frames of the
                clip stands for a frame of the mean colour.

        Returns:
            float32 `[rearrangements, classes]`.
        """
        size = self._max_clips
        missing = -len(choices) % size
        padded = np.concatenate([choices, np.repeat(choices[-1:], missing, axis=0)])
        found = [
            self._score(self._state, clip.rows, padded[start : start + size].astype(np.int32))
            for start in range(0, len(padded), size)
        ]
        return np.concatenate([np.asarray(each) for each in found])[: len(choices)]


def with_expected_relations(model):
    """The model, or one that draws no relations: its logits are what relations add up to."""
    if getattr(model.head, "eval_relations", "expected") == "expected":
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.head.eval_relations = "expected"
    return copy


def held(subsets):
    """Rearrangements in which only the frames of a subset are seen.

    Each absent frame shows the last present one before it, or, before the first present one, that.
    So a subset looks like a video that freezes: its frames are real ones in their order, and what
    is missing is the change. Without any frame, all are of the mean colour.

    Args:
        subsets: bool `[subsets, frames]`.

    Returns:
        int `[subsets, frames]`, see `Rearranged.logits`.
    """
    num_frames = subsets.shape[1]
    numbers = np.where(subsets, np.arange(num_frames), -1)
    last = np.maximum.accumulate(numbers, axis=1)
    first = np.where(subsets.any(axis=1), subsets.argmax(axis=1), num_frames)
    return np.where(last < 0, first[:, None], last)
