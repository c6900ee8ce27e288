"""Evaluation: views of every video -> merged scores -> metrics, for any protocol."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax import __version__, checkpoint, recipe, report
from trn_jax.data import pipeline
from trn_jax.devices import DevicePrefetch, make_mesh, replicated, split_batch
from trn_jax.files import write_text
from trn_jax.scores import Scores, check_dump, dump_path
from trn_jax.scores import write as write_scores

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


def eval_step(states, clips, *, graph, multi_label=False, merge_views="model", views_at_once=None):
    """Score one batch of videos.

    Args:
        states: the states that, with `graph`, make up the model.
        clips: `[batch, views, segments, height, width, 3]`.
        graph: the structure of the model (`nnx.graphdef`).
        multi_label: every class is a question of its own: sigmoid instead of softmax.
        merge_views: average the views' "logits" or "probabilities", or do as the "model"
            prescribes (TSN averages logits, other heads probabilities).
        views_at_once: compute so many views of each video at a time, to need less memory; a
            divisor of the number of views. All by default.

    Returns:
        Scores `[batch, classes]`: probabilities, merged over the views.
    """
    model = nnx.merge(graph, *states)
    batch, num_views = clips.shape[:2]
    views_at_once = views_at_once or num_views

    def score(views):  # [batch, views_at_once, segments, height, width, 3]
        logits = model(views.reshape(-1, *views.shape[2:]), rngs=nnx.Rngs(0))
        return logits.reshape(batch, views_at_once, -1)

    if views_at_once == num_views:
        logits = score(clips)
    else:
        parts = clips.reshape(batch, -1, views_at_once, *clips.shape[2:])
        logits = jax.lax.map(score, parts.swapaxes(0, 1)).swapaxes(0, 1)
        logits = logits.reshape(batch, num_views, -1)
    probabilities = jax.nn.sigmoid if multi_label else jax.nn.softmax
    if (model.merge_views if merge_views == "model" else merge_views) == "logits":
        return probabilities(jnp.mean(logits, axis=1))
    return jnp.mean(probabilities(logits), axis=1)


class Evaluator:
    """Evaluates a model with one compiled step per shape and way of merging.

    Args:
        graph: the structure of the model.
        mesh: the devices.
        multi_label: whether videos have several labels each.
        max_views: views that are computed at a time, over all videos of a batch; 0: all. At least
            one view of every video is.
    """

    def __init__(self, graph, mesh, *, multi_label=False, max_views=0):
        self.mesh = mesh
        self._max_views = max_views
        self._options = dict(graph=graph, multi_label=multi_label)
        self._steps: dict[tuple, Callable] = {}

    def step(self, batch, view):
        """The step for `batch` videos that are seen through `view`: `eval_step`, compiled."""
        num_views = view.num_views
        fitting = self._max_views // batch if self._max_views else num_views
        at_once = max(
            n for n in range(1, num_views + 1) if num_views % n == 0 and n <= max(fitting, 1)
        )
        key = at_once, view.merge_views
        if key not in self._steps:
            self._steps[key] = jax.jit(
                partial(
                    eval_step, **self._options, merge_views=view.merge_views, views_at_once=at_once
                ),
                in_shardings=(replicated(self.mesh), split_batch(self.mesh)),
                out_shardings=replicated(self.mesh),
            )
        return self._steps[key]

    def run(self, data, name, view, states):
        """Evaluate the validation list through one view.

        Args:
            data: a `recipe.Data`.
            name: name of the protocol.
            view: its section of the configuration.
            states: the states that make up the model.

        Returns:
            A dict that JSON can hold, but for its entry `scores`, a `Scores`.
        """
        start = time.perf_counter()
        records = data.val_records
        parsed = pipeline.View(**view)
        scores = self._scores(states, data.eval_batches(view), parsed)[: len(records)]
        seconds = time.perf_counter() - start
        found = Scores(
            scores=np.asarray(scores, np.float32),
            labels=data.val_labels,
            videos=data.val_names,
            class_names=data.class_names,
            partners=data.partners,
            protocol=name,
        )
        return {
            "protocol": name,
            "metrics": found.metrics(),
            "num_videos": len(records),
            "num_views": parsed.num_views,
            "view": view.to_dict(),
            "videos_per_second": len(records) / seconds,
            "views_per_second": len(records) * parsed.num_views / seconds,
            "per_class": found.per_class(),
            "scores": found,
        }

    def _scores(self, states, batches, view):
        prefetch = DevicePrefetch(batches, self.mesh)
        found = []
        try:
            for arrays, _ in prefetch:
                clips = arrays["clip"]
                found.append(self.step(len(clips), view)(states, clips))
        finally:
            prefetch.close()
        return np.concatenate(jax.device_get(found))

    def run_protocols(self, data, config, states, directory, step, names):
        """Evaluate several protocols and say where model and data come from.

        Args:
            data: a `recipe.Data`.
            config: the configuration.
            states: the states that make up the model.
            directory: the checkpoint that the model is from.
            step: number of steps it was trained for.
            names: names of the protocols.

        Returns:
            A list of results, see `run`.
        """
        text = recipe.to_json(config)
        about = {
            "checkpoint": os.path.relpath(directory),
            "step": step,
            "model": config.model.name,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "list": os.path.relpath(data.files.val_list),
            "list_sha256": _file_hash(data.files.val_list),
            "trn_jax": __version__,
            "jax": jax.__version__,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": json.loads(text),
        }
        return [self.run(data, name, config.protocols[name], states) | about for name in names]


def evaluate(config, path, workdir, *, protocols="all", dump=None):
    """Evaluate a checkpoint and write `<workdir>/results/<protocol>.json` and `.npz`.

    Args:
        config: a configuration whose protocols and data are used, or `None` for the one that the
            checkpoint carries.
        path: a checkpoint or the working directory of a training.
        workdir: where `results` goes.
        protocols: "all", or names with commas between them.
        dump: where the scores of all videos go besides, see `scores.write` and, of several
            protocols, `scores.dump_path`.

    Raises:
        UserError: checkpoint, configuration and data do not fit each other, or `dump` cannot be
            written.
    """
    if dump:
        check_dump(dump)
    mesh = make_mesh()
    directory = checkpoint.find(path)
    about = checkpoint.read_about(directory)
    stored = about["config"]
    if config is None:
        config = recipe.from_dict(stored)
    recipe.check_model(config, stored, directory)
    names = recipe.protocol_names(config, protocols)
    data = recipe.Data(config, workdir)
    model, _ = checkpoint.load_model(directory, mesh=mesh, **config.model)
    graph, state = nnx.split(model)
    evaluator = Evaluator(
        graph, mesh, multi_label=data.multi_label, max_views=config.eval.max_views_per_step
    )
    results = evaluator.run_protocols(
        data, config, (nnx.as_pure(state),), directory, about["step"], names
    )
    write_results(results, os.path.join(workdir, "results"), dump=dump)


def write_results(results, folder, *, dump=None):
    """Write what was found, and print the table of all protocols and that of the classes.

    Args:
        results: see `Evaluator.run_protocols`.
        folder: receives, per protocol, `<protocol>.json` without and `<protocol>.npz` with the
            scores of all videos.
        dump: where the scores go besides.
    """
    if jax.process_index():
        return
    os.makedirs(folder, exist_ok=True)
    for found in results:
        path = os.path.join(folder, found["protocol"])
        about = {name: found[name] for name in _ORIGIN}
        scores = dataclasses.replace(found["scores"], about=about)
        content = {key: value for key, value in found.items() if key != "scores"}
        # A kill in between must not leave a result beside the scores of another one.
        if os.path.exists(f"{path}.json"):
            os.remove(f"{path}.json")
        write_scores(f"{path}.npz", scores)
        write_text(f"{path}.json", json.dumps(content, indent=1) + "\n")
        if dump:
            write_scores(dump_path(dump, found["protocol"], len(results)), scores)
    tables = f"{report.class_table(results[0]['per_class'])}\n\n{report.protocol_table(results)}"
    print(f"\n{tables}\n\nresults in {folder}", flush=True)


def _file_hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
