"""Evaluation: views of every video -> merged scores -> metrics, for all protocols in one pass."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from trn_jax import __version__, build, checks
from trn_jax.checkpoints import checkpoint
from trn_jax.data import batches, pipeline
from trn_jax.data.views import View
from trn_jax.distributed import processes
from trn_jax.distributed.sharding import (
    DevicePrefetch,
    batch_sharding,
    gathered,
    make_mesh,
    replicated,
)
from trn_jax.distributed.watchdog import Watchdog
from trn_jax.errors import UserError, escaped
from trn_jax.evaluation import report
from trn_jax.evaluation.scores import Scores, check_dump, dump_path
from trn_jax.evaluation.scores import write as write_scores
from trn_jax.files import write_text
from trn_jax.prepare.progress import Progress
from trn_jax.settings import from_dict, protocol_names, resolved_views, to_json
from trn_jax.training.workdir import differing_names, hold

_MOST_NAMED = 100  # unreadable videos that a result names
# Steps that are computed while the logits of the one before them are fetched.
_STEPS_AHEAD = 2
# What the scores of a dump tell of where they come from.
_ORIGIN = (
    "checkpoint",
    "step",
    "model",
    "config_sha256",
    "list",
    "list_sha256",
    "trn_jax",
    "jax",
    "time",
)


def score_clips(states, clips, videos, mirrored=False, *, graph, seed=0):
    """Score clips, each by itself.

    Args:
        states: the states that, with `graph`, make up the model.
        clips: `[clips, segments, height, width, 3]`.
        videos: `[clips]`, the position of each clip's video in the list: relations that are drawn
            in evaluation belong to it.
        mirrored: whether to exchange left and right.
        graph: the structure of the model (`nnx.graphdef`).
        seed: of what is drawn in evaluation, a number or a key.

    Returns:
        Logits `[clips, classes]`.
    """
    clips = jnp.where(mirrored, jnp.flip(clips, axis=3), clips)
    return nnx.merge(graph, *states)(clips, rngs=nnx.Rngs(seed), clip_index=videos)


def score_draws(states, clips, videos, mirrored, *, kinds):
    """Score clips with several kinds of relations; the backbone is computed once.

    Args:
        states: as in `score_clips`, as are the next three.
        clips: `[clips, segments, height, width, 3]`.
        videos: `[clips]`.
        mirrored: whether to exchange left and right.
        kinds: pairs of a structure of the model and a number of draws, 0 if nothing is drawn.

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


def merge_views(logits, *, merge, multi_label=False):
    """Merge the views of a video into one prediction; computed in float64.

    Args:
        logits: `[views, ..., classes]`.
        merge: average the "logits" or the "probabilities".
        multi_label: every class is a question of its own: sigmoid instead of softmax.

    Returns:
        Probabilities `[..., classes]`, float64.
    """
    probabilities = _sigmoid if multi_label else _softmax
    logits = np.asarray(logits, np.float64)
    if merge == "logits":
        return probabilities(logits.mean(axis=0))
    return probabilities(logits).mean(axis=0)


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _sigmoid(logits):
    return (1 + np.tanh(logits / 2)) / 2  # does not overflow


class Evaluator:
    """Evaluates a model through any number of views in one pass over the videos.

    Every host reads and scores its own videos on its own devices, so that none waits for another
    before the end. Clips are scored in arrays of one size, whatever videos and views they are of:
    so the scores of a protocol do not depend on what is evaluated with it.

    Args:
        graph: the structure of the model.
        multi_label: whether videos have several labels each.
        max_views: clips that are scored at a time; rounded up to a multiple of the devices.
        alive: called whenever clips have been scored.
        class_order: the output of each label, see `class_order`; `None`: they are the same.
        asked: whether to give up, asked before clips are scored. If it says so on one host, all
            give up.

    Attributes:
        unreadable: messages about the videos of this host that the last run could not read.
        losses: messages about those that have lost frames, see `decode.Video.loss`.
    """

    def __init__(
        self,
        graph,
        *,
        multi_label=False,
        max_views=16,
        class_order=None,
        alive=lambda: None,
        asked=lambda: False,
    ):
        self.unreadable: list[str] = []
        self.losses: list[str] = []
        self._graph = graph
        self._class_order = class_order
        self._alive = alive
        self._asked = asked
        self._mesh = make_mesh(jax.local_devices())
        self._num_clips = -(-max_views // self._mesh.size) * self._mesh.size
        self._multi_label = multi_label
        self._steps: dict[tuple, Any] = {}  # by the kinds of relations

    def run(self, data, views, states):
        """Evaluate the validation list through several views.

        Args:
            data: a `build.Data`.
            views: `{name: section of the configuration}`, such as all protocols.
            states: the states that make up the model.

        Returns:
            `{name: result}`. A result is a dict that JSON can hold, but for its entry `scores`, a
            `Scores`. Its seconds, speeds and distinct views are those of the whole pass. `None` if
            it was given up.

        Raises:
            UserError: the model cannot see clips of a view, or a video cannot be read.
        """
        start = time.perf_counter()
        states = self._on_these_devices(states)
        parsed = {name: View(**view) for name, view in views.items()}
        self.check(views, states)
        num_videos, num_classes = len(data.val_records), len(data.class_names)
        kinds = _kinds_of_relations(parsed.values())
        step, draws = self._step(kinds, states), _places_of_draws(parsed, kinds)
        scores = {
            name: np.zeros((num_videos, view.num_draws, num_classes), np.float32)
            for name, view in parsed.items()
        }
        problems, losses = dict[int, str](), set[str]()
        videos = pipeline.readable(data.eval_videos(parsed), problems, losses)
        first = jax.process_index() == 0
        share = len(range(jax.process_index(), num_videos, jax.process_count()))
        with Progress("Evaluating", share, "videos", shown=first) as progress:
            merger = _Merger(
                scores,
                parsed,
                draws=draws,
                prescribed=self._prescribed(states),
                multi_label=self._multi_label,
                class_order=self._class_order,
                merged=_RunningAccuracy(
                    None if self._multi_label else data.val_labels, progress.add
                ),
            )
            num_clips = self._score(step, videos, states, merger)
        missing = np.isin(np.arange(num_videos), list(problems))
        rows, num_clips = _of_all_hosts({"scores": scores, "missing": missing}, num_clips)
        if rows is None:
            return None
        scores, missing = rows["scores"], rows["missing"]
        self.unreadable, self.losses = sorted(problems.values()), sorted(losses)
        if missing.all():
            raise UserError(
                f"none of the {num_videos} videos of {data.files.val_list} can be read, such as "
                f"{data.val_names[0]}{''.join(f': {problem}' for problem in self.unreadable[:1])}"
            )
        seconds = time.perf_counter() - start
        speed = {
            "distinct_views": num_clips,
            "seconds": seconds,
            "videos_per_second": num_videos / seconds,
            "views_per_second": num_clips / seconds,
        }
        return {
            name: self._result(data, name, parsed[name], scores[name], missing)
            | {"view": view.to_dict(), **speed}
            for name, view in views.items()
        }

    def _result(self, data, name, view, scores, missing):
        """What an evaluation says about one view.

        Args:
            data: a `build.Data`.
            name: of the view.
            view: a `View`.
            scores: `[videos, draws, classes]`.
            missing: bool `[videos]`, which of them could not be read.
        """
        found, *others = (
            Scores(
                scores=drawn,
                labels=data.val_labels,
                videos=data.val_names,
                class_names=data.class_names,
                partners=data.partners,
                protocol=name,
                missing=missing if missing.any() else None,
            )
            for drawn in scores.swapaxes(0, 1)
        )
        return {
            "protocol": name,
            **_mean_and_spread([each.metrics() for each in (found, *others)]),
            "num_videos": len(scores),
            "num_unreadable": int(missing.sum()),
            "unreadable": [data.val_names[i] for i in np.flatnonzero(missing)[:_MOST_NAMED]],
            "num_views": view.num_views,
            "per_class": found.per_class(),
            "scores": found,
        }

    def _on_these_devices(self, states):
        """States of the whole mesh, as those of this host's devices."""
        states = gathered(states)
        if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(states)):
            return states
        return jax.tree.map(
            lambda leaf: jax.device_put(leaf.addressable_data(0), replicated(self._mesh)), states
        )

    def _step(self, kinds, states):
        """The compiled `score_draws` for kinds of relations, see `_kinds_of_relations`."""
        if kinds not in self._steps:
            split, whole = batch_sharding(self._mesh), replicated(self._mesh)
            graphs = [(self._graph_with(mode, states), num_draws) for mode, num_draws in kinds]
            self._steps[kinds] = jax.jit(
                partial(score_draws, kinds=graphs),
                in_shardings=(whole, split, split, whole),
                out_shardings=split,
            )
        return self._steps[kinds]

    def _graph_with(self, mode, states):
        """The structure of the model with other relations in evaluation."""
        if mode == "model":
            return self._graph
        model = nnx.eval_shape(lambda: nnx.merge(self._graph, *states))
        if not hasattr(model.head, "eval_relations"):
            raise UserError(f"relations={mode!r} is for the relations of a TRN, which this is not")
        model.head.eval_relations = mode
        return nnx.graphdef(model)

    def _prescribed(self, states):
        """What the model prescribes for several views."""
        return nnx.merge(self._graph, *states).merge_views

    def check(self, views, states):
        """Check that the model takes the clips of all views; nothing is compiled or read.

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
            try:
                clips = jax.ShapeDtypeStruct(shape, np.uint8)
                step = self._step(_kinds_of_relations([view]), states)
                step.eval_shape(states, clips, examples, mirrored)
            except UserError as error:
                raise UserError(f"{name} is not defined for this model: {error}") from None

    def _score(self, step, videos, states, merger):
        """Score all clips; returns their number, or `None` if it was asked to give up."""
        packed = batches.pack_clips(videos, self._num_clips)
        prefetch = DevicePrefetch(packed, self._mesh, ("clip", "example"))
        running: collections.deque = collections.deque()
        num_clips = 0
        try:
            for arrays, rest in prefetch:
                if self._asked():
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

    def run_protocols(self, data, config, states, directory, step, names):
        """Evaluate several protocols and say where model and data come from.

        Args:
            data: a `build.Data`.
            config: the configuration.
            states: the states that make up the model.
            directory: the checkpoint that the model is from.
            step: number of steps it was trained for.
            names: names of the protocols.

        Returns:
            A list of results, see `run`, or `None` if it was given up.
        """
        text = to_json(config)
        about = {
            "checkpoint": os.path.relpath(directory),
            "step": step,
            "model": config.model.name,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "split": data.split,
            "list": os.path.relpath(data.files.of_split(data.split)[0]),
            "list_sha256": _list_hash(data),
            "trn_jax": __version__,
            "jax": jax.__version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": json.loads(text),
        }
        sections = resolved_views(config)
        views = {name: sections[f"protocols.{name}"] for name in names}
        results = self.run(data, views, states)
        return None if results is None else [found | about for found in results.values()]


def _kinds_of_relations(views):
    """What has to be computed for views: pairs of `View.relations` and a number of draws, or 0."""
    kinds: dict[str, int] = {}
    for view in views:
        num_draws = view.num_draws if view.relations == "sample" else 0
        kinds[view.relations] = max(num_draws, kinds.get(view.relations, 0))
    return tuple(kinds.items())


def _places_of_draws(views, kinds):
    """Where the draws of each view are among those of `score_draws`: `{name: slice}`."""
    starts, start = {}, 0
    for mode, num_draws in kinds:
        starts[mode] = start
        start += num_draws or 1
    return {
        name: slice(starts[view.relations], starts[view.relations] + view.num_draws)
        for name, view in views.items()
    }


def _mean_and_spread(metrics):
    """Entries of a result for the metrics of every draw, a list of dicts.

    Returns:
        `metrics`, their means; and, of several draws, `spread`, their standard deviations.
    """
    means = {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]}
    if len(metrics) == 1:
        return {"metrics": metrics[0]}
    spread = {name: float(np.std([each[name] for each in metrics], ddof=1)) for name in means}
    return {"metrics": means, "num_draws": len(metrics), "spread": spread}


class _RunningAccuracy:
    """Counts the videos that have been evaluated, and how many of them were classified correctly.

    Args:
        labels: int `[videos]`; `None` if videos have several.
        show: called for every video as `show(1, text)`, with the accuracy so far.
    """

    def __init__(self, labels, show):
        self._labels = labels
        self._show = show
        self._num_videos = self._num_correct = 0

    def __call__(self, example, scores):
        self._num_videos += 1
        text = ""
        if self._labels is not None:
            self._num_correct += int(np.argmax(scores) == self._labels[example])
            text = f"top-1 {100 * self._num_correct / self._num_videos:.2f} % so far"
        self._show(1, text)


class _Merger:
    """Collects the logits of a video's clips, and merges them as soon as they are complete.

    Args:
        scores: `{name of a view: [videos, draws, classes]}`, to be filled in.
        views: `{name: View}`.
        draws: `{name: slice}` of the draws among those of the logits.
        prescribed: what the model prescribes for several views.
        multi_label: whether videos have several labels each.
        class_order: see `Evaluator`.
        merged: called with the position of a video in the list and its scores in the first view.
    """

    def __init__(self, scores, views, *, draws, prescribed, multi_label, class_order, merged):
        self._scores = scores
        self._views = views
        self._draws = draws
        self._prescribed = prescribed
        self._multi_label = multi_label
        self._class_order = slice(None) if class_order is None else class_order
        self._merged = merged
        self._num_places = sum(view.num_views for view in views.values())
        self._missing: dict[int, int] = {}  # places without logits, per video
        self._logits: dict[int, dict[str, np.ndarray]] = {}

    def add(self, logits, clips, mirrored):
        """Take the logits `[batch, draws, classes]` of clips that were mirrored or not."""
        for found, clip in zip(np.asarray(logits), clips, strict=False):
            if clip.example not in self._logits:
                self._missing[clip.example] = self._num_places
                self._logits[clip.example] = {
                    name: np.empty((view.num_views, *found[self._draws[name]].shape), found.dtype)
                    for name, view in self._views.items()
                }
            for name, position, flip in clip.places:
                if flip == mirrored:
                    self._logits[clip.example][name][position] = found[self._draws[name]]
                    self._missing[clip.example] -= 1
            if not self._missing[clip.example]:
                self._merge(clip.example)

    def _merge(self, example):
        del self._missing[example]
        for name, logits in self._logits.pop(example).items():
            merge = self._views[name].merge_views
            merge = self._prescribed if merge == "model" else merge
            merged = merge_views(logits, merge=merge, multi_label=self._multi_label)
            self._scores[name][example] = merged[:, self._class_order]
        self._merged(example, self._scores[next(iter(self._scores))][example, 0])


def _of_all_hosts(rows, num_clips):
    """Put the rows together that each host has scored, and add up the numbers of clips.

    If that number is `None` on any of them, both are on all.
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
    """The inverse of `process_rows`: `parts` `[num_processes, rows, ...]` as `[num_rows, ...]`."""
    return parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])[:num_rows]


def evaluate(
    config,
    path,
    workdir,
    *,
    protocols="all",
    dump=None,
    split="val",
    ignore_class_names=False,
    as_json=False,
):
    """Evaluate a checkpoint and write `<workdir>/results/<protocol>.json` and `.npz`.

    Results of another split than "val" go to `<workdir>/results/<split>`.

    Args:
        config: a configuration whose protocols and data are used, or `None` for the one that the
            checkpoint carries.
        path: a checkpoint or the working directory of a training.
        workdir: where `results` goes; belongs to one run at a time.
        protocols: "all", or names with commas between them.
        dump: where the scores of all videos go besides, see `scores.write` and, of several
            protocols, `scores.dump_path`.
        split: "val", "test" or "train".
        ignore_class_names: compare labels by their numbers where the data names other classes than
            the checkpoint.
        as_json: print the results as JSON instead of tables.

    Returns:
        The number of videos that cannot be read, which count as wrong.

    Raises:
        UserError: checkpoint, configuration and data do not fit each other, or `dump` cannot be
            written.
        PassingError: another run has `workdir`.
    """
    if dump:
        check_dump(dump)
    mesh = make_mesh()
    directory = checkpoint.find(path)
    about = checkpoint.read_about(directory)
    stored = about["config"]
    config = from_dict(stored) if config is None else config
    checks.check(config)
    checks.check_model(config, stored, directory)
    names = protocol_names(config, protocols)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.train.step_timeout, again="evaluates again"))
        watchdog.note("startup (reading the lists)")
        log(f"evaluating {checkpoint.describe(directory)}")
        # A checkpoint may be somebody else's: it does not choose where data is written.
        may_write = config.data_dir != stored.get("data_dir")
        data = build.Data(config, workdir, split, may_write=may_write)
        stack.callback(data.close)
        stack.enter_context(hold(workdir))
        order = class_order(about["class_names"], data.class_names, ignore=ignore_class_names)
        watchdog.note(f"startup (reading {directory})")
        model, _ = checkpoint.load_model(directory, mesh=mesh, **config.model)
        graph, state = nnx.split(model)
        watchdog.note("the evaluation")
        evaluator = Evaluator(
            graph,
            multi_label=data.multi_label,
            max_views=config.eval.max_views_per_step,
            class_order=order,
            alive=watchdog.alive,
        )
        results = evaluator.run_protocols(
            data, config, (nnx.as_pure(state),), directory, about["step"], names
        )
        folder = os.path.join(workdir, "results", *([] if split == "val" else [split]))
        write_results(results, folder, dump=dump, as_json=as_json)
        # The first process that exits with an error makes a launcher end the one that writes.
        processes.barrier()
    for message in evaluator.losses + [f"unreadable: {each}" for each in evaluator.unreadable]:
        print(escaped(message), file=sys.stderr, flush=True)
    return results[0]["num_unreadable"]


def class_order(model_names, data_names, *, ignore=False):
    """Where the classes of data are among the outputs of a model.

    Args:
        model_names: of the outputs; empty if they are not known.
        data_names: in the order of the labels.
        ignore: take labels for positions where the names differ.

    Returns:
        int `[classes]`, the output of each label; `None` if they are in the same order.

    Raises:
        UserError: the names differ, not only in their order.
    """
    if model_names == data_names or ignore:
        return None
    if not model_names:
        log("the checkpoint names no classes: its outputs are taken to be in the order of the data")
        return None
    if sorted(model_names) != sorted(data_names):
        raise UserError(
            "the checkpoint and the data name different classes:"
            f"{differing_names(model_names, data_names)}\ngive the data that the model was trained "
            "for, or add --ignore_class_names to compare labels by their numbers"
        )
    log("the classes of the data are in another order than those of the checkpoint: mapped by name")
    positions = {name: position for position, name in enumerate(model_names)}
    return np.array([positions[name] for name in data_names])


def log(text):
    """Print a line about an evaluation to standard error, from process 0 only."""
    if jax.process_index() == 0:
        print(escaped(text), file=sys.stderr, flush=True)


def write_results(results, folder, *, dump=None, as_json=False):
    """Write what was found, and print the table of all protocols and that of the classes.

    Args:
        results: see `Evaluator.run_protocols`.
        folder: receives, per protocol, `<protocol>.json` without and `<protocol>.npz` with the
            scores of all videos.
        dump: where the scores go besides.
        as_json: print one object, `{protocol: result}`, instead of the tables.
    """
    if jax.process_index():
        return
    os.makedirs(folder, exist_ok=True)
    contents = {}
    for found in results:
        path = os.path.join(folder, found["protocol"])
        about = {name: found[name] for name in _ORIGIN}
        scores = dataclasses.replace(found["scores"], about=about)
        content = {key: value for key, value in found.items() if key != "scores"}
        contents[found["protocol"]] = content
        # A kill in between must not leave a result beside the scores of another one.
        if os.path.exists(f"{path}.json"):
            os.remove(f"{path}.json")
        write_scores(f"{path}.npz", scores)
        write_text(f"{path}.json", json.dumps(content, indent=1) + "\n")
        if dump:
            write_scores(dump_path(dump, found["protocol"], len(results)), scores)
    if as_json:
        print(json.dumps(contents, indent=1), flush=True)
        return
    tables = f"{report.class_table(results[0]['per_class'])}\n\n{report.protocol_table(results)}"
    print(f"\n{tables}\n{_speed(results[0])}\n\nresults in {folder}", flush=True)


def _speed(found):
    unreadable = found["num_unreadable"]
    unreadable = f", {unreadable} of them unreadable, which count as wrong" if unreadable else ""
    return (
        f"{found['num_videos']} videos{unreadable}, {found['distinct_views']} distinct views in "
        f"{found['seconds']:.1f} s: {found['videos_per_second']:.1f} videos/s, "
        f"{found['views_per_second']:.1f} views/s"
    )


def _list_hash(data):
    """SHA-256 of the list, or, of records, which have none, of the names and labels in them."""
    path, _ = data.files.of_split(data.split)
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    videos = zip(data.val_names, data.val_records, strict=True)
    lines = [f"{name} {record.label}\n" for name, record in videos]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
