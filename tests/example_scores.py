"""Scores of videos that do not exist."""

import numpy as np

from trn_jax.evaluation.scores import Scores


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def example(*, seed=0, num_videos=12, num_classes=6, several=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_videos, num_classes))
    labels = np.random.default_rng(99).integers(0, num_classes, num_videos)
    values = 1 / (1 + np.exp(-logits)) if several else softmax(logits)
    if several:
        labels = (np.eye(num_classes)[labels] + np.eye(num_classes)[labels - 1]).astype(np.float32)
    return Scores(
        scores=values.astype(np.float32),
        labels=labels,
        videos=[f"folder {i}/väter" for i in range(num_videos)],
        class_names=[f"Class «{i}»" for i in range(num_classes)],
        reversed_class={} if several else {0: 1, 1: 0},
        protocol="accurate",
        about={"checkpoint": "runs/a", "step": 12, "list_sha256": "0" * 64},
    )
