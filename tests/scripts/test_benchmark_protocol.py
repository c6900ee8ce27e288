"""What the benchmark of a protocol measures; `test_benchmark` runs the script."""

import importlib
import pathlib

import jax
import pytest

from trn_jax.config import base, view
from trn_jax.errors import UserError
from trn_jax.evaluation import scoring

SCRIPTS = pathlib.Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture
def protocol(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.protocol")


class CountingDevice:
    """Stands for a GPU, which keeps count of its memory."""

    def memory_stats(self):
        return {"peak_bytes_in_use": 123, "bytes_in_use": 1}


def test_peak_memory_is_that_of_a_device_that_keeps_count(protocol):
    assert protocol.peak_memory(CountingDevice()) == (123, "the device")
    memory, owner = protocol.peak_memory(jax.devices("cpu")[0])
    assert owner == "the process" and memory > 50_000_000


def test_the_number_of_classes_is_needed(protocol):
    config = base(dataset="frames", model="tsn_resnet10")
    with pytest.raises(UserError, match=r"model\.num_classes"):
        protocol.measure_protocol(config, "", rounds=1, steps=1)


@pytest.mark.thorough
def test_all_views_of_the_video_are_scored(protocol, monkeypatch):
    """As many clips go through the model as the protocol has views, and none is padding."""
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    config.model.update(width=4, num_segments=2)
    config.protocols["10x3"] = view(
        num_segments=2, sampling="clips", num_clips=10, crop="three", crop_size=32, short_side=32
    )
    del config.protocols["efficient"]
    config.data.train.num_segments = config.data.val.num_segments = 2
    monkeypatch.setattr(protocol.jax, "local_devices", lambda: jax.devices()[:1])
    shapes = []
    original = scoring.score_clips

    def counted(states, clips, *rest, graph):
        shapes.append(clips.shape[0])
        return original(states, clips, *rest, graph=graph)

    monkeypatch.setattr(scoring, "score_clips", counted)
    found = protocol.measure_protocol(config, "", rounds=2, steps=1)
    assert found.shape == (30, 2, 32, 32) and found.distinct_views == 30
    assert set(shapes) == {15}  # 2 x 15, where 16 may be scored at a time
    assert len(found.turns) == 2
