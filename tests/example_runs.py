"""Working directories with results, scores and a log, and with names that would like to be code."""

import json

import numpy as np

from trn_jax.evaluation import score_files
from trn_jax.evaluation.scores import Scores

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a\x00\x1b[31m\u202eb\u2066\ud800",
    "]]>--><!-- & &amp;",
    "فتح الباب",
    "打开某物",
)
_ACCURACIES = ("forward", "reversed", "shuffled", "frozen")


def some_scores(names=HOSTILE, num_videos=60, *, seed=0, sure=2.0, **others):
    """Scores of a model that is right more often the higher `sure` is."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_videos) % len(names)
    logits = rng.normal(size=(num_videos, len(names))) + sure * np.eye(len(names))[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    videos = [f"v{i:03d} {HOSTILE[i % 4]}" for i in range(num_videos)]
    options = dict(protocol="efficient", about={"temperature": 1.4, "checkpoint": HOSTILE[0]})
    return Scores(scores.astype(np.float32), labels, videos, list(names), **options | others)


def write_run(folder, found, **entries):
    """Write a working directory with a result, its scores, and a log."""
    results = folder / "results"
    results.mkdir(parents=True)
    content = {"num_videos": len(found.scores), "num_views": 1, "metrics": found.metrics()}
    content |= {"protocol": found.protocol, "per_class": found.per_class()} | entries
    (results / "efficient.json").write_text(json.dumps(content))
    score_files.write(str(results / "efficient.npz"), found)
    logged = [
        {"step": step, "group": group, "loss": 3 / step, "top1": 0.1 * step, "lr": 0.1}
        for step in (1, 2, 3, 2, 4)
        for group in ("train", "val")
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in logged))
    return folder


def hostile_run(folder, *, seed=0):
    """Write a working directory with hostile names, a pair of classes and an order card."""
    write_run(folder, some_scores(seed=seed, reversed_class={0: 1, 1: 0}))
    card = {name: [0.75] * 6 for name in _ACCURACIES}
    card |= {"classes": list(HOSTILE), "num_videos": [10] * 6, "protocol": "efficient"}
    card |= {"checkpoint": HOSTILE[1], "step": 3}
    (folder / "results" / "order.json").write_text(json.dumps(card | {"chance": 0.1}))
    return folder
