"""Temporal Relation Networks (Zhou et al., "Temporal Relational Reasoning in Videos", 2018).

A relation is an ordered choice of s of the T frames of a clip. A small network scores the
concatenated features of those frames; the sum over relations of several scales s is the score of
the clip (equations 2 and 3 of the paper).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn.layers import Linear, dropout, global_average_pool, storage_dtype
from trn_jax.nn.pooling import pick

RELATION_MODES = ("sample", "expected", "first")
_MAX_FRAMES = 20  # all relations are listed; each further frame doubles their number


class Relation(nnx.Module):
    """The two-layer network of one scale: ReLU, linear, ReLU, linear over concatenated frames.

    Args:
        scale: number of frames of a relation.
        num_frames: number of frames of a clip.
        channels: features of a frame.
        hidden_channels: width of the hidden layer.
        num_classes: number of classes.
        max_relations: number of relations that are added up.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.
    """

    def __init__(
        self,
        scale,
        num_frames,
        channels,
        hidden_channels,
        num_classes,
        *,
        max_relations=3,
        dtype=jnp.float32,
        rngs,
    ):
        self.num_frames = num_frames
        self.scale = scale
        self.num_relations = math.comb(num_frames, scale)
        self.num_used = min(max_relations, self.num_relations)
        self.hidden = Linear(scale * channels, hidden_channels, dtype=dtype, rngs=rngs)
        self.output = Linear(hidden_channels, num_classes, dtype=dtype, rngs=rngs)

    def table(self):
        """All relations in lexicographic order, `[relations, scale]`, frames ascending."""
        frames = range(self.num_frames)
        return np.array(list(itertools.combinations(frames, self.scale)), np.int32)

    def chosen(self, x, rows):
        """Sum the scores of some relations.

        Args:
            x: features of the frames after the ReLU, `[batch, frames, channels]`.
            rows: which rows of `table()`, `[used]`.

        Returns:
            Scores `[batch, num_classes]`.
        """
        frames = jnp.asarray(self.table())[rows]  # [used, scale]
        together = pick(x, (frames,), 1).reshape(x.shape[0], frames.shape[0], -1)
        hidden = jax.nn.relu(self.hidden(together))  # [batch, used, hidden]
        scores = self.output(hidden)
        return jnp.sum(scores, axis=1, dtype=storage_dtype(scores.dtype))

    def expected(self, x):
        """The mean of `chosen` over all samples of `num_used` relations.

        The last layer is linear and applied once, to the mean of the hidden layers.

        Args:
            x: features of the frames after the ReLU, `[batch, frames, channels]`.

        Returns:
            Scores `[batch, num_classes]`.
        """
        hidden = self._hidden(x)
        hidden = jnp.mean(hidden, axis=1, dtype=storage_dtype(hidden.dtype))
        return self.num_used * self.output(hidden).astype(hidden.dtype)

    def scores(self, x):
        """The scores of all relations, whose mean is `expected`.

        Args:
            x: features of the frames after the ReLU, `[batch, frames, channels]`.

        Returns:
            Scores `[batch, relations, num_classes]`, in the order of `table()`.
        """
        scores = self.output(self._hidden(x))
        return self.num_used * scores.astype(storage_dtype(scores.dtype))

    def no_frames(self):
        """The score without any relation, `[num_classes]`: that of a hidden layer of zeros."""
        return self.num_used * self.output.bias[...]

    def _hidden(self, x):
        """The hidden layers of all relations, `[batch, relations, hidden]`.

        The first layer is a sum of one product per position in the relation, so the products of
        every frame with every position are computed once and added per relation.
        """
        layer = self.hidden
        kernel = layer.kernel[...].astype(layer.dtype).reshape(self.scale, x.shape[-1], -1)
        products = jnp.einsum("btc,pch->bpth", x.astype(layer.dtype), kernel)
        positions = np.arange(self.scale)
        picked = pick(products, (positions, self.table()), 1)  # [batch, relations, scale, hidden]
        return jax.nn.relu(jnp.sum(picked, axis=2) + layer.bias[...].astype(layer.dtype))


class TRNHead(nnx.Module):
    """Embed every frame, then sum the scores of relations between frames.

    Training samples `max_relations` relations of each scale, the same for the whole batch. The
    references sample in evaluation as well, so that their results are random. Here evaluation
    computes the exact expectation over all samples by default.

    Args:
        in_channels: channels of the backbone's features.
        num_classes: number of classes.
        num_segments: number of frames T of a clip.
        multi_scale: relations of all scales T, T - 1, ..., 2, else of scale T only.
        dropout_rate: share of each frame's features that is dropped in training.
        embedding_channels: features of a frame in relations (`img_feature_dim` in TRN-pytorch and
            its version for MindSpore).
        max_relations: number of relations of a scale that are added up (`subsample_num` there).
        init_std: standard deviation of the embedding's initial weights.
        train_relations: relations in training: "sample" (random), "first" (the first ones in
            lexicographic order) or "expected" (the exact expectation over all samples).
        eval_relations: the same for evaluation.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Raises:
        UserError: for an unknown choice of relations, or too few or too many frames.
    """

    merge_views = "probabilities"

    def __init__(
        self,
        in_channels,
        num_classes,
        *,
        num_segments,
        multi_scale,
        dropout_rate=0.8,
        embedding_channels=256,
        max_relations=3,
        init_std=0.001,
        train_relations="sample",
        eval_relations="expected",
        dtype=jnp.float32,
        rngs,
    ):
        for option, mode in (
            ("train_relations", train_relations),
            ("eval_relations", eval_relations),
        ):
            if mode not in RELATION_MODES:
                raise UserError(f"{option}={mode!r} is not one of {', '.join(RELATION_MODES)}")
        if num_segments < 2:
            raise UserError(f"a TRN needs at least 2 frames, not num_segments={num_segments}")
        if multi_scale and num_segments > _MAX_FRAMES:
            raise UserError(
                f"num_segments={num_segments} frames have {2**num_segments:,} relations; a "
                f"multi-scale TRN takes at most {_MAX_FRAMES} frames (head=trn has one relation)"
            )
        self.num_segments = num_segments
        self.dropout_rate = dropout_rate
        self.train_relations = train_relations
        self.eval_relations = eval_relations
        self.fc = Linear(in_channels, embedding_channels, std=init_std, dtype=dtype, rngs=rngs)
        # As in mmaction2 and TRN-pytorch, the single-scale network is wider.
        hidden_channels = 256 if multi_scale else 512
        scales = range(num_segments, 1, -1) if multi_scale else (num_segments,)
        self.relations = nnx.List(
            Relation(
                scale,
                num_segments,
                embedding_channels,
                hidden_channels,
                num_classes,
                max_relations=max_relations,
                dtype=dtype,
                rngs=rngs,
            )
            for scale in scales
        )

    def __call__(self, features, *, train=False, rngs=None, clip_index=None):
        """Map `[batch, segments, height, width, channels]` to logits `[batch, num_classes]`.

        Raises:
            UserError: the clip does not have `num_segments` frames, or `rngs` is missing.
        """
        if features.shape[1] != self.num_segments:
            raise UserError(
                f"clips have {features.shape[1]} frames, this TRN needs {self.num_segments}; "
                f"sample {self.num_segments} segments, or create the model with "
                f"num_segments={features.shape[1]}"
            )
        x = global_average_pool(features)  # [batch, segments, channels]
        if train and self.dropout_rate:
            x = dropout(x, self.dropout_rate, key=rngs.dropout(), clip_index=clip_index)
        x = jax.nn.relu(self.fc(x))  # [batch, segments, embedding]
        mode = self.train_relations if train else self.eval_relations
        if mode == "expected":
            return sum(relation.expected(x) for relation in self.relations)
        return sum(
            relation.chosen(x, self._rows(relation, mode, rngs)) for relation in self.relations
        )

    def embedded(self, features):
        """Features of frames as relations take them, nothing dropped.

        Args:
            features: `[batch, frames, channels]`.

        Returns:
            `[batch, frames, embedding_channels]`.
        """
        return jax.nn.relu(self.fc(features))

    def _rows(self, relation, mode, rngs):
        if mode == "first":
            return jnp.arange(relation.num_used)
        if rngs is None:
            raise UserError(
                "eval_relations='sample' needs random keys: call the model with "
                "rngs=nnx.Rngs(seed), or use eval_relations='expected'"
            )
        return jax.random.permutation(rngs.relations(), relation.num_relations)[: relation.num_used]
