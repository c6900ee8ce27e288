"""Scores clips on the devices of this process, in batches of one size."""

import collections
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.data import batches
from trn_jax.data.views import View
from trn_jax.distributed.sharding import (
    DevicePrefetch,
    batch_sharding,
    gathered,
    make_mesh,
    replicated,
)
from trn_jax.errors import UserError

_STEPS_AHEAD = 2  # that run while the logits of the one before them are fetched


def score_clips(states, clips, videos, mirrored=False, *, graph, seed=0):
    """Score clips, each by itself.

    Args:
        states: the states that make up the model with `graph`.
        clips: `[clips, segments, height, width, 3]`.
        videos: `[clips]`, position of each clip's video in the list, which seeds drawn relations.
        mirrored: flip the clips left to right.
        graph: the structure of the model (`nnx.graphdef`).
        seed: of what is drawn in evaluation, a number or a key.

    Returns:
        Logits `[clips, classes]`.
    """
    clips = jnp.where(mirrored, jnp.flip(clips, axis=3), clips)
    return nnx.merge(graph, *states)(clips, rngs=nnx.Rngs(seed), clip_index=videos)


def score_draws(states, clips, videos, mirrored, *, kinds):
    """Score clips, as `score_clips`, with several kinds of relations and one pass of the backbone.

    `kinds` are pairs of a structure of the model and a number of draws, 0 if nothing is drawn.

    Returns:
        Logits `[clips, draws, classes]`, the draws of all kinds one after the other.
    """
    found = []
    for graph, num_draws in kinds:
        score = partial(score_clips, states, clips, videos, mirrored, graph=graph)
        if num_draws:
            draw = jax.vmap(lambda seed, score=score: score(seed=jax.random.key(seed)), out_axes=1)
            found.append(draw(jnp.arange(num_draws)))
        else:
            found.append(score()[:, None])
    return jnp.concatenate(found, axis=1)


def clip_features(states, clips, videos, mirrored, *, graph):
    """Features of every frame of clips before the head, with the arguments of `score_clips`.

    Returns:
        `[clips, segments, channels]`.
    """
    del videos  # nothing is drawn
    clips = jnp.where(mirrored, jnp.flip(clips, axis=3), clips)
    return nnx.merge(graph, *states).features(clips)


def feature_shape(graph, states, view):
    """Shape of the features of a clip of a `View`, `[segments, channels]`; computes nothing.

    Args:
        graph: the structure of the model.
        states: the states that make up the model.
        view: the `View`.

    Raises:
        UserError: the backbone doesn't take the clips.
    """
    size = view.crop_size
    clips = jax.ShapeDtypeStruct((1, view.num_segments, size, size, 3), np.uint8)
    features = jax.eval_shape(
        lambda states, clips: clip_features(states, clips, 0, False, graph=graph), states, clips
    )
    return features.shape[1:]


class ClipScorer:
    """Scores the clips of videos, whatever views and videos they are of, in batches of one size.

    Args:
        graph: the structure of the model.
        max_views: clips per step; rounded up to a multiple of the devices of this process.

    Attributes:
        num_clips: clips per step.
    """

    def __init__(self, graph, *, max_views):
        self._graph = graph
        self._mesh = make_mesh(jax.local_devices())
        self.num_clips = -(-max_views // self._mesh.size) * self._mesh.size
        self._steps: dict[Any, Any] = {}  # by the kinds of relations

    def check(self, views, states):
        """Check that the model takes the clips of all views; compiles and reads nothing.

        Args:
            views: `{name: section of the configuration}`.
            states: the states that make up the model.

        Raises:
            UserError: it does not; the view is named.
        """
        states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), states)
        examples = jax.ShapeDtypeStruct((self.num_clips,), np.int32)
        mirrored = jax.ShapeDtypeStruct((), np.bool_)
        for name, section in views.items():
            view = View(**section)
            shape = (self.num_clips, view.num_segments, view.crop_size, view.crop_size, 3)
            kinds, _ = relation_draws({name: view})
            try:
                clips = jax.ShapeDtypeStruct(shape, np.uint8)
                self.score_step(kinds, states).eval_shape(states, clips, examples, mirrored)
            except UserError as error:
                raise UserError(f"the model can't evaluate {name}: {error}") from None

    def on_these_devices(self, states):
        """States of the global mesh, on the devices of this process."""
        return on_these_devices(states, self._mesh)

    def scored(self, videos, step, states, before_step=lambda: None):
        """Score all clips.

        Args:
            videos: an iterator of `VideoClips`; closed at the end.
            step: `score_step` or `feature_step`.
            states: the states that make up the model, from `on_these_devices`.
            before_step: called before every step; may raise to end the iteration.

        Yields:
            What the step returns, `[batch, ...]`, the `Clip`s of its first rows, and whether the
            device mirrored them; some steps after they were dispatched.
        """
        packed = batches.pack_clips(videos, self.num_clips)
        prefetch = DevicePrefetch(packed, self._mesh, ("clip", "example"))
        running: collections.deque = collections.deque()
        try:
            for arrays, rest in prefetch:
                before_step()
                for mirrored in rest["flips"]:
                    pixels, examples = arrays["clip"], arrays["example"]
                    logits = step(states, pixels, examples, np.bool_(mirrored))
                    running.append((logits, rest["clips"], mirrored))
                    if len(running) > _STEPS_AHEAD:
                        yield running.popleft()
        finally:
            prefetch.close()
        yield from running

    def score_step(self, kinds, states):
        """The compiled `score_draws` for kinds of relations, see `relation_draws`."""
        if kinds not in self._steps:
            graphs = [
                (graph_with(self._graph, mode, states), num_draws) for mode, num_draws in kinds
            ]
            self._steps[kinds] = self._compiled(partial(score_draws, kinds=graphs))
        return self._steps[kinds]

    def feature_step(self):
        """The compiled `clip_features`."""
        if "features" not in self._steps:
            self._steps["features"] = self._compiled(partial(clip_features, graph=self._graph))
        return self._steps["features"]

    def _compiled(self, function):
        sharded, replicate = batch_sharding(self._mesh), replicated(self._mesh)
        return jax.jit(
            function, in_shardings=(replicate, sharded, sharded, replicate), out_shardings=sharded
        )


def on_these_devices(states, mesh):
    """States of the global mesh, replicated over `mesh`, the devices of this process."""
    states = gathered(states)
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(states)):
        return states
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf.addressable_data(0), replicated(mesh)), states
    )


class ClipScorers:
    """`ClipScorer`s of one model: a few clips take smaller steps.

    Steps have a power of two of clips, so that few programs are compiled, whatever the number of
    clips.

    Args:
        graph: the structure of the model.
        max_views: most clips per step.
    """

    def __init__(self, graph, *, max_views):
        self._graph = graph
        self._max_views = max_views
        self._scorers: dict[int, ClipScorer] = {}

    def of(self, num_clips=None):
        """What scores so many clips; `None`: an unknown number."""
        size = self._max_views
        if num_clips is not None:
            size = min(size, 1 << (max(num_clips, 1) - 1).bit_length())
        if size not in self._scorers:
            self._scorers[size] = ClipScorer(self._graph, max_views=size)
        return self._scorers[size]


def graph_with(graph, mode, states):
    """The structure of a model with other relations in evaluation, see `View.relations`.

    Args:
        graph: the `GraphDef` of the model.
        mode: `View.relations`.
        states: the states that make up the model, or their shapes.

    Raises:
        UserError: the model has no relations.
    """
    if mode == "model":
        return graph
    model = nnx.eval_shape(lambda: nnx.merge(graph, *states))
    if not hasattr(model.head, "eval_relations"):
        raise UserError(f"relations={mode!r} needs a TRN, and this model is none")
    model.head.eval_relations = mode
    return nnx.graphdef(model)


def relation_draws(views):
    """Which relations `score_draws` computes for `{name: View}`.

    Returns:
        Pairs of `View.relations` and a number of draws, 0 if nothing is drawn; and `{name: slice}`
        of the draws of each view among those of all.
    """
    kinds: dict[str, int] = {}
    for view in views.values():
        num_draws = view.num_draws if view.relations == "sample" else 0
        kinds[view.relations] = max(num_draws, kinds.get(view.relations, 0))
    starts, start = {}, 0
    for mode, num_draws in kinds.items():
        starts[mode] = start
        start += num_draws or 1
    slices = {
        name: slice(starts[view.relations], starts[view.relations] + view.num_draws)
        for name, view in views.items()
    }
    return tuple(kinds.items()), slices
