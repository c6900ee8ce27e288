"""Results of an evaluation: metrics of every protocol, their files and their printed tables."""

import dataclasses
import json
import os

import jax
import numpy as np

from trn_jax.evaluation import score_files, tables
from trn_jax.evaluation.scores import Scores
from trn_jax.files import write_text

_MAX_NAMED = 100  # unreadable videos that a result names
# Entries of a result that its file of scores has, too, as far as there are any.
_ORIGIN = (
    *("checkpoint", "step", "model", "config_sha256", "list", "list_sha256"),
    *("trn_jax", "jax", "time", "temperature"),
)


def summarize(data, name, view, scores, missing):
    """The result of one view.

    Args:
        data: a `Data`.
        name: of the view.
        view: a `View`.
        scores: `[videos, draws, classes]`.
        missing: bool `[videos]`, the unreadable ones.

    Returns:
        A dict that JSON can hold, except its entry `scores`, the `Scores` of the first draw. Of
        several draws, `metrics` are the means and `spread` the standard deviations.
    """
    draws = [scores_of(data, name, drawn, missing) for drawn in scores.swapaxes(0, 1)]
    return {
        "protocol": name,
        **_mean_and_spread([drawn.metrics() for drawn in draws]),
        "num_videos": len(scores),
        "num_unreadable": int(missing.sum()),
        "unreadable": [data.val_names[i] for i in np.flatnonzero(missing)[:_MAX_NAMED]],
        "num_views": view.num_views,
        "per_class": draws[0].per_class(),
        "scores": draws[0],
    }


def scores_of(data, name, scores, missing):
    """The `Scores` `[videos, classes]` of a view; see `summarize`."""
    return Scores(
        scores=scores,
        labels=data.val_labels,
        videos=data.val_names,
        class_names=data.class_names,
        reversed_class=data.reversed_class,
        protocol=name,
        missing=missing if missing.any() else None,
    )


def speed(num_views, num_videos, seconds):
    """Entries of a result about the time of a pass over the videos."""
    return {
        "distinct_views": num_views,
        "seconds": seconds,
        "videos_per_second": num_videos / seconds,
        "views_per_second": num_views / seconds,
    }


def _mean_and_spread(metrics):
    """Entries of a result for the metrics of every draw, a list of dicts."""
    if len(metrics) == 1:
        return {"metrics": metrics[0]}
    means = {name: float(np.mean([each[name] for each in metrics])) for name in metrics[0]}
    spread = {name: float(np.std([each[name] for each in metrics], ddof=1)) for name in means}
    return {"metrics": means, "num_draws": len(metrics), "spread": spread}


def folder_of(workdir, split):
    """The folder of the results of a split, that of "test" and "train" inside of that of "val"."""
    return os.path.join(workdir, "results", *([] if split == "val" else [split]))


def write(results, folder, *, dump=None, as_json=False):
    """Write the results of all protocols, and print the tables of protocols and classes.

    Args:
        results: a list, see `evaluate.run_protocols`.
        folder: receives `<protocol>.json` and `<protocol>.npz`, the scores, per protocol.
        dump: another path for the scores, see `score_files.dump_path`.
        as_json: print one object, `{protocol: result}`, instead of the tables.
    """
    if jax.process_index():
        return
    os.makedirs(folder, exist_ok=True)
    contents = {}
    for found in results:
        path = os.path.join(folder, found["protocol"])
        about = {name: found[name] for name in _ORIGIN if name in found}
        scores = dataclasses.replace(found["scores"], about=about)
        content = {key: value for key, value in found.items() if key != "scores"}
        contents[found["protocol"]] = content
        # A kill in between must not leave a result beside the scores of another one.
        if os.path.exists(f"{path}.json"):
            os.remove(f"{path}.json")
        score_files.write(f"{path}.npz", scores)
        write_text(f"{path}.json", json.dumps(content, indent=1) + "\n")
        if dump:
            score_files.write(score_files.dump_path(dump, found["protocol"], len(results)), scores)
    if as_json:
        print(json.dumps(contents, indent=1), flush=True)
        return
    parts = [tables.class_table(results[0]["per_class"]), tables.protocol_table(results)]
    parts += [tables.early_table(each) for each in results if "early_recognition" in each]
    text = "\n\n".join(parts)
    print(f"\n{text}\n{_speed(results[0])}\n\nresults in {folder}", flush=True)


def _speed(found):
    unreadable = found["num_unreadable"]
    unreadable = f", {unreadable} of them unreadable, which count as wrong" if unreadable else ""
    return (
        f"{found['num_videos']} videos{unreadable}, {found['distinct_views']} distinct views in "
        f"{found['seconds']:.1f} s: {found['videos_per_second']:.1f} videos/s, "
        f"{found['views_per_second']:.1f} views/s"
    )
