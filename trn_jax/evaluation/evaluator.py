"""Scores all views of every video on the devices, in one pass for all protocols."""

import collections
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from trn_jax.data import batches, pipeline
from trn_jax.data.views import View
from trn_jax.distributed.sharding import (
    DevicePrefetch,
    batch_sharding,
    gathered,
    make_mesh,
    replicated,
)
from trn_jax.errors import UserError
from trn_jax.evaluation import results
from trn_jax.evaluation.merging import RunningAccuracy, ScoreMerger
from trn_jax.progress import Progress

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


class Evaluator:
    """Evaluates a model through any number of views in one pass over the videos.

    Every process reads and scores its own videos on its own devices, and waits for the others only
    at the end. Clips of all videos and views share batches of one size, so the scores of a protocol
    don't depend on the protocols evaluated with it.

    Args:
        graph: the structure of the model.
        multi_label: videos have several labels each.
        max_views: clips per step; rounded up to a multiple of the devices.
        class_order: int `[classes]`, the output of each label; `None`: the same.
        alive: called after every step.
        should_stop: called before every step; if it returns true in one process, all stop.

    Attributes:
        unreadable: messages about unreadable videos of this process in the last run.
        losses: messages about videos with lost frames, see `decode.Video.loss`.
    """

    def __init__(
        self,
        graph,
        *,
        multi_label=False,
        max_views=16,
        class_order=None,
        alive=lambda: None,
        should_stop=lambda: False,
    ):
        self.unreadable: list[str] = []
        self.losses: list[str] = []
        self._graph = graph
        self._class_order = class_order
        self._alive = alive
        self._should_stop = should_stop
        self._mesh = make_mesh(jax.local_devices())
        self._num_clips = -(-max_views // self._mesh.size) * self._mesh.size
        self._multi_label = multi_label
        self._steps: dict[tuple, Any] = {}  # by the kinds of relations

    def run(self, data, views, states):
        """Evaluate the list of `data` through several views.

        Args:
            data: a `build.Data`.
            views: `{name: section of the configuration}`, such as all protocols.
            states: the states that make up the model.

        Returns:
            `{name: result}`, see `results.summarize`, with seconds, speeds and distinct views of
            the whole pass; `None` if `should_stop` ended it.

        Raises:
            UserError: a view doesn't fit the model, or a video can't be read.
        """
        start = time.perf_counter()
        states = self._on_these_devices(states)
        parsed = {name: View(**view) for name, view in views.items()}
        self.check(views, states)
        num_videos, process = len(data.val_records), jax.process_index()
        kinds, draws = relation_draws(parsed)
        problems, losses = dict[int, str](), set[str]()
        videos = pipeline.readable(data.eval_videos(parsed), problems, losses)
        share = len(range(process, num_videos, jax.process_count()))
        with Progress("Evaluating", share, "videos", shown=process == 0) as progress:
            merger = ScoreMerger(
                parsed,
                num_videos=num_videos,
                num_classes=len(data.class_names),
                draws=draws,
                model_merge=nnx.merge(self._graph, *states).merge_views,
                multi_label=self._multi_label,
                class_order=self._class_order,
                merged=RunningAccuracy(data.val_labels, progress.add),
            )
            num_clips = self._score(self._step(kinds, states), videos, states, merger)
        missing = np.isin(np.arange(num_videos), list(problems))
        rows, num_clips = _gather({"scores": merger.scores, "missing": missing}, num_clips)
        if rows is None:
            return None
        scores, missing = rows["scores"], rows["missing"]
        self.unreadable, self.losses = sorted(problems.values()), sorted(losses)
        if missing.all():
            path, _ = data.files.of_split(data.split)
            first = "".join(f": {problem}" for problem in self.unreadable[:1])
            raise UserError(
                f"none of the {num_videos} videos of {path} can be read, such as "
                f"{data.val_names[0]}{first}"
            )
        seconds = time.perf_counter() - start
        speed = {
            "distinct_views": num_clips,
            "seconds": seconds,
            "videos_per_second": num_videos / seconds,
            "views_per_second": num_clips / seconds,
        }
        return {
            name: results.summarize(data, name, parsed[name], scores[name], missing)
            | {"view": view.to_dict(), **speed}
            for name, view in views.items()
        }

    def check(self, views, states):
        """Check that the model takes the clips of all views; compiles and reads nothing.

        Args:
            views: `{name: section of the configuration}`.
            states: the states that make up the model.

        Raises:
            UserError: it does not; the view is named.
        """
        states = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), states)
        examples = jax.ShapeDtypeStruct((self._num_clips,), np.int32)
        mirrored = jax.ShapeDtypeStruct((), np.bool_)
        for name, section in views.items():
            view = View(**section)
            shape = (self._num_clips, view.num_segments, view.crop_size, view.crop_size, 3)
            kinds, _ = relation_draws({name: view})
            try:
                clips = jax.ShapeDtypeStruct(shape, np.uint8)
                self._step(kinds, states).eval_shape(states, clips, examples, mirrored)
            except UserError as error:
                raise UserError(f"the model can't evaluate {name}: {error}") from None

    def _on_these_devices(self, states):
        """States of the global mesh, on the devices of this process."""
        states = gathered(states)
        if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(states)):
            return states
        return jax.tree.map(
            lambda leaf: jax.device_put(leaf.addressable_data(0), replicated(self._mesh)), states
        )

    def _step(self, kinds, states):
        """The compiled `score_draws` for kinds of relations, see `relation_draws`."""
        if kinds not in self._steps:
            sharded, whole = batch_sharding(self._mesh), replicated(self._mesh)
            graphs = [
                (graph_with(self._graph, mode, states), num_draws) for mode, num_draws in kinds
            ]
            self._steps[kinds] = jax.jit(
                partial(score_draws, kinds=graphs),
                in_shardings=(whole, sharded, sharded, whole),
                out_shardings=sharded,
            )
        return self._steps[kinds]

    def _score(self, step, videos, states, merger):
        """Score all clips; returns their number, or `None` if `should_stop` ended it."""
        packed = batches.pack_clips(videos, self._num_clips)
        prefetch = DevicePrefetch(packed, self._mesh, ("clip", "example"))
        running: collections.deque = collections.deque()
        num_clips = 0
        try:
            for arrays, rest in prefetch:
                if self._should_stop():
                    return None
                num_clips += len(rest["clips"]) * len(rest["flips"])
                for mirrored in rest["flips"]:
                    pixels, examples = arrays["clip"], arrays["example"]
                    logits = step(states, pixels, examples, np.bool_(mirrored))
                    running.append((logits, rest["clips"], mirrored))
                    if len(running) > _STEPS_AHEAD:
                        merger.add(*running.popleft())
                        self._alive()
        finally:
            prefetch.close()
        for scored in running:
            merger.add(*scored)
            self._alive()
        return num_clips


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


def _gather(rows, num_clips):
    """Collect the rows that each process scored, and the total number of clips.

    Both are `None` on all processes if `num_clips` is on any.
    """
    num_processes = jax.process_count()
    if num_processes == 1:
        return (rows, num_clips) if num_clips is not None else (None, None)
    mine = jax.tree.map(lambda found: process_rows(found, jax.process_index(), num_processes), rows)
    count = np.array(-1 if num_clips is None else num_clips)
    parts, counts = multihost_utils.process_allgather((mine, count))
    if counts.min() < 0:
        return None, None
    num_videos = len(jax.tree.leaves(rows)[0])
    return jax.tree.map(lambda found: interleave(found, num_videos), parts), int(counts.sum())


def process_rows(rows, process, num_processes):
    """Rows `process::num_processes`, padded with 0 to the same number on every process."""
    padding = [(0, -len(rows) % num_processes), *[(0, 0)] * (rows.ndim - 1)]
    return np.pad(rows, padding)[process::num_processes]


def interleave(parts, num_rows):
    """The inverse of `process_rows`: `[num_processes, rows, ...]` as `[num_rows, ...]`."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])[:num_rows]
