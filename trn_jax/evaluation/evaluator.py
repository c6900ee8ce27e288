"""Scores all views of every video on the devices, in one pass for all protocols."""

import contextlib
import time

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from trn_jax.data import pipeline
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.evaluation import results
from trn_jax.evaluation.merging import MergedScores, RunningAccuracy, ScoreMerger
from trn_jax.evaluation.scoring import ClipScorer, relation_draws
from trn_jax.models.folding import Folding
from trn_jax.progress import Progress


class _Stopped(Exception):
    """`should_stop` ends the evaluation."""


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
        self._multi_label = multi_label
        self._max_views = max_views
        self._folding = Folding()
        self._checker = ClipScorer(graph, max_views=max_views)
        self._scorer: ClipScorer | None = None  # of the model with folded batch norms

    def run(self, data, views, states):
        """Evaluate the list of `data` through several views.

        Args:
            data: a `Data`.
            views: `{name: section of the configuration}`, such as all protocols.
            states: the states that make up the model.

        Returns:
            `{name: result}`, see `results.summarize`, with seconds, speeds and distinct views of
            the whole pass; `None` if `should_stop` ended it.

        Raises:
            UserError: a view doesn't fit the model, or a video can't be read.
        """
        start = time.perf_counter()
        states = self._checker.on_these_devices(states)
        parsed = {name: View(**view) for name, view in views.items()}
        self.check(views, states)
        folded = self._folded(states, next(iter(parsed.values())).crop_size)
        num_videos, process = len(data.val_records), jax.process_index()
        problems, losses = dict[int, str](), set[str]()
        videos = pipeline.readable(data.eval_videos(parsed), problems, losses)
        share = len(range(process, num_videos, jax.process_count()))
        with Progress("Evaluating", share, "videos", shown=process == 0) as progress:
            kept = MergedScores(
                parsed,
                num_videos=num_videos,
                num_classes=len(data.class_names),
                class_order=self._class_order,
                count=RunningAccuracy(data.val_labels, progress.add),
            )
            num_clips = self._score(videos, parsed, folded, kept)
        missing = np.isin(np.arange(num_videos), list(problems))
        rows, num_clips = gather({"scores": kept.scores, "missing": missing}, num_clips)
        if rows is None:
            return None
        scores, missing = rows["scores"], rows["missing"]
        self.unreadable, self.losses = sorted(problems.values()), sorted(losses)
        if missing.all():
            raise self._nothing_readable(data)
        speed = results.speed(num_clips, num_videos, time.perf_counter() - start)
        return {
            name: results.summarize(data, name, parsed[name], scores[name], missing)
            | {"view": view.to_dict(), **speed}
            for name, view in views.items()
        }

    def check(self, views, states):
        """Check that the model takes the clips of `views`, see `ClipScorer.check`."""
        self._checker.check(views, states)

    def _folded(self, states, size):
        """The scorer, the structure and the states of the model with folded batch norms."""
        model = self._folding(nnx.merge(self._graph, *states), size=size)
        graph, state = nnx.split(model)
        self._scorer = self._scorer or ClipScorer(graph, max_views=self._max_views)
        return self._scorer, graph, (nnx.as_pure(state),)

    def _stop(self):
        if self._should_stop():
            raise _Stopped

    def _score(self, videos, views, folded, kept):
        """Score all clips and keep the merged scores; returns the number of clips.

        `None` if `should_stop` ended it.
        """
        scorer, graph, states = folded
        kinds, draws = relation_draws(views)
        merger = ScoreMerger(
            views,
            draws=draws,
            model_merge=nnx.merge(graph, *states).merge_views,
            multi_label=self._multi_label,
            merged=kept,
        )
        step = scorer.score_step(kinds, states)
        scored = scorer.scored(videos, step, states, self._stop)
        num_clips = 0
        try:
            with contextlib.closing(scored):
                for logits, clips, mirrored in scored:
                    merger.add(logits, clips, mirrored)
                    num_clips += len(clips)
                    self._alive()
        except _Stopped:
            return None
        return num_clips

    def _nothing_readable(self, data):
        """The error for a list of which no video can be read."""
        path, _ = data.files.of_split(data.split)
        first = "".join(f": {problem}" for problem in self.unreadable[:1])
        return UserError(
            f"none of the {len(data.val_records)} videos of {path} can be read, such as "
            f"{data.val_names[0]}{first}"
        )


def gather(rows, num_clips):
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
