"""Evaluation: views of every video -> merged scores -> metrics, for any protocol."""

import hashlib
import json
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax import __version__, checkpoint, metrics, recipe
from trn_jax.data import pipeline
from trn_jax.devices import DevicePrefetch, make_mesh, replicated, split_batch
from trn_jax.workdir import write_text

_SCORE_NAMES = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class"}


def eval_step(states, clips, *, graph):
    """Score one batch of videos.

    Args:
        states: the states that, with `graph`, make up the model.
        clips: `[batch, views, segments, height, width, 3]`.
        graph: the structure of the model (`nnx.graphdef`).

    Returns:
        Scores `[batch, classes]`: probabilities, merged over the views as the model prescribes
        (TSN averages logits, other heads probabilities).
    """
    model = nnx.merge(graph, *states)
    batch, num_views = clips.shape[:2]
    logits = model(clips.reshape(batch * num_views, *clips.shape[2:]), rngs=nnx.Rngs(0))
    logits = logits.reshape(batch, num_views, -1)
    if model.merge_views == "logits":
        return jax.nn.softmax(jnp.mean(logits, axis=1))
    return jnp.mean(jax.nn.softmax(logits), axis=1)


class Evaluator:
    """Evaluates a model with one compiled step per shape.

    Args:
        graph: the structure of the model.
        mesh: the devices.
    """

    def __init__(self, graph, mesh):
        self.mesh = mesh
        self._step = jax.jit(
            partial(eval_step, graph=graph),
            in_shardings=(replicated(mesh), split_batch(mesh)),
            out_shardings=replicated(mesh),
        )

    def run(self, data, name, view, states):
        """Evaluate the validation list through one view.

        Args:
            data: a `recipe.Data`.
            name: name of the protocol.
            view: its section of the configuration.
            states: the states that make up the model.

        Returns:
            A dict that JSON can hold, but for its entry `scores` `[videos, classes]`.
        """
        start = time.perf_counter()
        records = data.val_records
        scores = self._scores(states, data.eval_batches(view))[: len(records)]
        seconds = time.perf_counter() - start
        labels = np.array([record.label for record in records])
        confusion = metrics.confusion_matrix(
            np.argmax(scores, axis=1), labels, len(data.class_names)
        )
        accuracy = metrics.per_class_accuracy(confusion)
        return {
            "protocol": name,
            "metrics": metrics.classification(scores, labels, data.partners),
            "num_videos": len(records),
            "num_views": pipeline.View(**view).num_views,
            "view": view.to_dict(),
            "videos_per_second": len(records) / seconds,
            "per_class": [
                {"label": label, "name": name, "videos": int(row.sum()), "accuracy": float(value)}
                for label, (name, row, value) in enumerate(
                    zip(data.class_names, confusion, accuracy, strict=True)
                )
            ],
            "scores": scores,
        }

    def _scores(self, states, batches):
        prefetch = DevicePrefetch(batches, self.mesh)
        try:
            found = [self._step(states, arrays["clip"]) for arrays, _ in prefetch]
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


def evaluate(config, path, workdir, *, protocols="all", with_scores=False):
    """Evaluate a checkpoint and write `<workdir>/results/<protocol>.json`.

    Args:
        config: a configuration whose protocols and data are used, or `None` for the one that the
            checkpoint carries.
        path: a checkpoint or the working directory of a training.
        workdir: where `results` goes.
        protocols: "all", or names with commas between them.
        with_scores: write the scores of all videos too, `<protocol>.npz`.

    Raises:
        UserError: checkpoint, configuration and data do not fit each other.
    """
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
    results = Evaluator(graph, mesh).run_protocols(
        data, config, (nnx.as_pure(state),), directory, about["step"], names
    )
    write_results(results, os.path.join(workdir, "results"), with_scores=with_scores)


def write_results(results, folder, *, with_scores=False):
    """Write one JSON file per protocol, and print the table of all and the table of classes."""
    if jax.process_index():
        return
    os.makedirs(folder, exist_ok=True)
    for found in results:
        path = os.path.join(folder, found["protocol"])
        if with_scores:
            np.savez(f"{path}.npz", scores=found["scores"])
        content = {key: value for key, value in found.items() if key != "scores"}
        write_text(f"{path}.json", json.dumps(content, indent=1) + "\n")
    print(f"\n{class_table(results[0])}\n\n{table(results)}\n\nresults in {folder}", flush=True)


def table(results):
    """The metrics of several results as aligned text, one line per protocol."""
    names = list(dict.fromkeys(name for r in results for name in r["metrics"]))
    header = ["protocol", "views", "videos", *(_SCORE_NAMES.get(name, name) for name in names)]
    rows = [
        [
            r["protocol"],
            str(r["num_views"]),
            str(r["num_videos"]),
            *(f"{100 * r['metrics'][n]:.2f}" if n in r["metrics"] else "" for n in names),
        ]
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        )
        for cells in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def class_table(found):
    """The accuracy of every class as aligned text, worst first."""
    rows = sorted(found["per_class"], key=lambda row: row["accuracy"])
    return "\n".join(
        f"{100 * r['accuracy']:6.2f} %  {r['videos']:6d} videos  {r['label']:4d} {r['name']}"
        for r in rows
    )


def _file_hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
