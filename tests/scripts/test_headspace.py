"""What the measured parts of a loader say about its limit."""

import contextlib
import importlib
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

SCRIPTS = pathlib.Path(__file__).parent.parent.parent / "scripts"


@pytest.fixture
def headspace(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.headspace")


FAST = dict(decode=0.004, crop=0.001, transfer=0.0001, wait=0.0, loader=700.0, replayed=300.0)
FAST |= dict(both=299.0, threads=4, source="frames", exact=False)
SLOW = FAST | dict(wait=1 / 150 - 1 / 300, loader=150.0, both=150.0, threads=1)


@pytest.mark.parametrize(
    ("values", "found", "missing"),
    [
        (FAST, "keeps up", "limit"),
        (SLOW | dict(decode=0.006), "2 threads of this kind", "exact_resize"),
        (SLOW | dict(decode=0.006), "data.fast_decode", "trn-jax extract"),
        (SLOW | dict(decode=0.006, source="videos"), "trn-jax extract", "fast_decode"),
        (SLOW | dict(decode=0.002, crop=0.004, exact=True), "data.exact_resize=False", "extract"),
        (SLOW | dict(decode=0.0005, crop=0.0005), "data.num_workers", "threads of"),
        (SLOW | dict(transfer=0.01), "transfer", "threads"),
    ],
)
def test_the_advice_names_the_limit(headspace, values, found, missing):
    measured = headspace.Headspace(**values)
    assert found in measured.advice() and missing not in measured.advice()
    assert measured.advice() in str(measured)
    record = measured.record()
    assert record["advice"] == measured.advice() and record["loader"] == values["loader"]
    assert record["wait_share"] == pytest.approx(1 - values["both"] / 300, abs=0.01)


def test_parts_are_differences_of_medians(headspace):
    turns = {
        name: [headspace.Turn(wall, cpu)] * 3
        for name, wall, cpu in (
            ("decode", 0.1, 0.004),
            ("crop", 0.1, 0.007),
            ("transfer", 0.002, 0.1),
            ("data", 0.01, 0.1),
            ("replayed", 0.02, 0.1),
            ("both", 0.025, 0.1),
        )
    }
    files = type("Files", (), dict(source="records"))
    data = type("Data", (), dict(num_threads=3, files=files))
    config = ConfigDict(dict(data=dict(exact_resize=True)))
    found = headspace.headspace_of(turns, config, data)
    assert (found.decode, found.crop) == (0.004, pytest.approx(0.003))
    assert (found.transfer, found.wait) == (0.002, pytest.approx(0.005))
    assert (found.loader, found.replayed, found.both) == (100, 50, 40)
    assert found.wait_share == pytest.approx(0.2)
    assert found.busy == pytest.approx(100 * 0.007 / 3)


def test_a_replayed_batch_is_always_the_same(headspace):
    batch = {"clip": np.ones((2, 3)), "label": np.zeros(2), "example": [1, 2]}
    replayed = headspace.Replayed(batch)
    batch["clip"][:] = 5  # the loader fills its buffers again
    with contextlib.closing(replayed):
        first, second = next(replayed), next(replayed)
    assert first.keys() == {"clip", "label"} and first["clip"] is second["clip"]
    assert (first["clip"] == 1).all()
