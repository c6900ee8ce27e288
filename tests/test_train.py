"""The loop around the steps."""

import types

import numpy as np
import pytest

from trn_jax import train
from trn_jax.config import base
from trn_jax.data.datasets import Dataset


@pytest.mark.parametrize(
    ("source", "wait", "said"), [("videos", 0.4, 1), ("videos", 0.2, 0), ("frames", 0.4, 0)]
)
def test_waiting_for_videos_is_told_once_with_what_helps(tmp_path, capsys, source, wait, said):
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    files = Dataset(source=source, frames="/d/videos", train_list="/d/train_list.txt")
    data = types.SimpleNamespace(train_records=[None] * 640, files=files)
    loop = train._Loop(config, str(tmp_path), data, None, None, 0)
    scalars = dict(loss=1.0, top1=0.5, lr=0.1, grad_norm=1.0)
    summary = scalars | dict(clips_per_second=9.0, data_wait=wait)
    loop._meter = types.SimpleNamespace(summary=lambda: (summary, [scalars]))
    for step in (20, 40):
        loop._batches = {step: np.arange(2)}
        loop._log(step)
    advice = "python scripts/extract_frames.py /d/videos --to=/d/rawframes"
    assert capsys.readouterr().err.count(advice) == said
