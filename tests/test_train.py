"""The loop around the steps."""

import types

import numpy as np
import pytest

from trn_jax import progress, train
from trn_jax.config import base
from trn_jax.data.datasets import Dataset


@pytest.mark.parametrize(
    ("source", "wait", "said"), [("videos", 0.4, 1), ("videos", 0.2, 0), ("frames", 0.4, 0)]
)
def test_waiting_for_videos_is_told_once_with_what_helps(tmp_path, capsys, source, wait, said):
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    files = Dataset(source=source, frames="/d/videos", train_list="/d/train_list.txt")
    data = types.SimpleNamespace(train_records=[None] * 640, files=files)
    dog = types.SimpleNamespace(alive=None)
    loop = train._Loop(config, str(tmp_path), data, None, None, 0, dog)
    scalars = dict(loss=1.0, top1=0.5, lr=0.1, grad_norm=1.0)
    summary = scalars | dict(clips_per_second=9.0, data_wait=wait)
    loop._meter = types.SimpleNamespace(summary=lambda: (summary, [scalars]))
    for step in (20, 40):
        loop._batches = {step: np.arange(2)}
        loop._log(step)
    advice = "python scripts/extract_frames.py /d/videos --to=/d/rawframes"
    assert capsys.readouterr().err.count(advice) == said


def test_the_time_of_a_run_is_divided(monkeypatch):
    """Two intervals: a step that is compiled, and two others."""
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    meter = progress.StepMeter(8)
    scalars = dict(loss=1.0, lr=0.1)
    for asked, arrived, finished, ends in [(0, 2, 12, True), (12, 12, 13, False), (13, 14, 15, 1)]:
        now = float(finished)
        meter.add(asked, arrived, scalars)
        meter._interval.steps[-1][2].result()
        if ends:
            meter.summary()
    meter.close()
    spent = meter.whole(20.0)
    assert spent == {
        "steps": 3,
        "seconds_per_step": 1.5,
        "devices_busy": (10 + 1 + 1) / 20,
        "data_wait": (2 + 1) / 20,
    }
