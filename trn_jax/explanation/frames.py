"""How much each frame of a clip adds to the logit of a class: Shapley values of frames.

The players are the frames of the clip, and the value v(S) is a logit of what the model makes of the
frames of S alone. What that is depends on the model:

- "relations": a multi-scale TRN, which is defined on any number of frames (equation 3 of Zhou et
  al., "Temporal Relational Reasoning in Videos", 2018). v(S) is the sum over the scales of the mean
  score of the relations among the frames of S; of a scale larger than S, which has none, only the
  bias of its output layer counts. v(none) is the sum of these biases. All subsets are computed from
  the features of the frames, so the values are exact. They explain the expected logits, whatever
  `eval_relations` the model has.
- "mean": the head averages frames that the backbone sees one by one, as in TSN. v(S) is the score
  of the mean features of S, and v(none) the bias of the classifier. The values have a closed form,
  `shapley.of_means`.
- "held": every other model. v(S) is the logit of the clip with only the frames of S, see
  `rearranged.held`: the others freeze, and v(none) is that of a clip of the mean colour. The values
  are exact where all subsets are no more clips than the orders have; else they are sampled.
"""

import dataclasses

import jax
import numpy as np
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.explanation import shapley
from trn_jax.explanation.rearranged import held
from trn_jax.models.streaming import averages_features
from trn_jax.models.trn import TRNHead

NUM_ORDERS = 16  # of sampled values, by default
_MAX_CLIPS = 4096  # that one explanation scores


@dataclasses.dataclass(frozen=True, eq=False)
class FrameValues:
    """Shapley values of the frames of a clip, for some classes.

    Attributes:
        values: float64 `[classes, frames]`, in logits.
        errors: standard errors, likewise; 0 where the values are exact.
        none: v(none), float64 `[classes]`.
        all: v(all), likewise; the values of a class sum to `all - none`.
        method: "exact", "closed form" or "sampled".
    """

    values: np.ndarray
    errors: np.ndarray
    none: np.ndarray
    all: np.ndarray
    method: str


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleRelations:
    """The relations of one scale of a TRN.

    Attributes:
        scale: frames of a relation.
        scores: what the scale adds to the logit, float64 `[classes]`: the mean score of its
            relations.
        best: the frames of the relation with the highest score, its representative frames, int
            `[classes, scale]` (Zhou et al., "Interpreting Visual Common Sense Knowledge inside the
            TRN").
        best_scores: the score of that relation, float64 `[classes]`.
    """

    scale: int
    scores: np.ndarray
    best: np.ndarray
    best_scores: np.ndarray


def game_of(model):
    """The game of a model's frames: "relations", "mean" or "held", see the module."""
    if model.sees_frames and isinstance(model.head, TRNHead) and len(model.head.relations) > 1:
        return "relations"
    return "mean" if model.sees_frames and averages_features(model) else "held"


class FrameExplainer:
    """Computes the values of frames.

    Args:
        model: a `Recognizer` with a head.
        rearranged: its `Rearranged`.
        num_frames: of a clip.
        num_orders: of sampled values; an even number, at least 4.
        seed: of the orders.

    Attributes:
        game: see `game_of`.

    Raises:
        UserError: the orders are too few, or the values would take too many clips.
    """

    def __init__(self, model, rearranged, *, num_frames, num_orders=NUM_ORDERS, seed=0):
        if num_orders < 4 or num_orders % 2:
            raise UserError(
                f"num_orders={num_orders}: expected an even number of at least 4; each order of "
                "the frames is followed by its reverse"
            )
        self.game = game_of(model)
        self._rearranged = rearranged
        self._num_orders = num_orders
        self._seed = seed
        needed = min(num_orders * (num_frames - 1) + 2, 2**num_frames)
        if self.game == "held" and needed > _MAX_CLIPS:
            most = (_MAX_CLIPS - 2) // (num_frames - 1) // 2 * 2
            advice = f"at most num_orders={most}" if most >= 4 else "fewer frames"
            raise UserError(
                f"{num_orders} orders of {num_frames} frames take {needed:,} clips, more than "
                f"{_MAX_CLIPS:,}; give {advice}"
            )
        if self.game == "relations":
            graph, state = nnx.split(model.head)
            self._head_state = nnx.as_pure(state)

            def scores(state, features):
                head = nnx.merge(graph, state)
                x = head.embedded(features[None])
                return [(each.scores(x)[0], each.no_frames()) for each in head.relations]

            self._scales = [(each.scale, each.table()) for each in model.head.relations]
            self._relation_scores = jax.jit(scores)
        elif self.game == "mean":
            graph, state = nnx.split(model)
            self._head_state = nnx.as_pure(state)
            self._head = jax.jit(lambda state, x: nnx.merge(graph, state).head_logits(x))

    def __call__(self, clip, classes):
        """Explain a clip.

        Args:
            clip: the `LoadedClip`.
            classes: numbers of classes.

        Returns:
            The `FrameValues`; and a list of `ScaleRelations`, from small to large, empty if the
            model has none.
        """
        classes = np.asarray(classes)
        if self.game == "relations":
            return self._of_relations(clip, classes)
        found = self._of_mean(clip, classes) if self.game == "mean" else self._held(clip, classes)
        return found, []

    def value_of(self, clip, subsets, classes):
        """The game itself: the logits of some classes with some of the frames.

        Args:
            clip: the `LoadedClip`.
            subsets: bool `[subsets, frames]`.
            classes: numbers of classes.

        Returns:
            float64 `[subsets, classes]`.
        """
        classes = np.asarray(classes)
        if self.game == "held":
            return np.asarray(self._rearranged.logits(clip, held(subsets))[:, classes], np.float64)
        if self.game == "relations":
            return self._relations(clip, classes)[0][subsets @ (1 << np.arange(subsets.shape[1]))]
        none, contributions = self._contributions(clip, classes)
        counts = np.maximum(subsets.sum(axis=1, keepdims=True), 1)
        return none + subsets @ contributions / counts

    def _of_relations(self, clip, classes):
        values, scales = self._relations(clip, classes)
        return _exact(values), scales

    def _relations(self, clip, classes):
        """V of all subsets, `[2**frames, classes]`, and a list of `ScaleRelations`."""
        found = self._relation_scores(self._head_state, clip.features)
        scores, nothing, scales = {}, {}, []
        for (scale, table), (of_relations, bias) in zip(self._scales, found, strict=True):
            chosen = np.asarray(of_relations, np.float64)[:, classes]
            scores[scale], nothing[scale] = chosen, np.asarray(bias, np.float64)[classes]
            best = chosen.argmax(axis=0)
            best_scores = np.take_along_axis(chosen, best[None], axis=0)[0]
            scales.append(ScaleRelations(scale, chosen.mean(axis=0), table[best], best_scores))
        values = shapley.of_relations(scores, nothing, clip.num_frames)
        return values, sorted(scales, key=lambda each: each.scale)

    def _of_mean(self, clip, classes):
        none, contributions = self._contributions(clip, classes)
        values = shapley.of_means(contributions).T
        whole = none + contributions.mean(axis=0)
        return FrameValues(values, np.zeros_like(values), none, whole, "closed form")

    def _contributions(self, clip, classes):
        """The logits without frames `[classes]`, and what each adds to them `[frames, classes]`."""
        # A frame by itself is a clip of one frame.
        frames = np.concatenate([np.zeros_like(clip.features[:1]), clip.features])[:, None]
        logits = np.asarray(self._head(self._head_state, frames), np.float64)[:, classes]
        return logits[0], logits[1:] - logits[0]

    def _held(self, clip, classes):
        def value_of(subsets):
            return self.value_of(clip, subsets, classes)

        num_frames = clip.num_frames
        if 2**num_frames <= self._num_orders * (num_frames - 1) + 2:
            return _exact(value_of(shapley.subsets(num_frames)))
        rng = np.random.default_rng(self._seed)
        values, errors = shapley.sampled(value_of, num_frames, self._num_orders, rng)
        none, whole = value_of(np.array([[False], [True]]) & np.ones(num_frames, bool))
        return FrameValues(values.T, errors.T, none, whole, "sampled")


def _exact(values):
    """The `FrameValues` of v, `[2**frames, classes]`."""
    found = shapley.exact(values).T
    return FrameValues(found, np.zeros_like(found), values[0], values[-1], "exact")
