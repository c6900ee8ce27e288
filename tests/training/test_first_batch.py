"""The picture of a training's first batch."""

import itertools
import threading

import numpy as np
import pytest
from tiny_training import tiny_training

from trn_jax.recipe_data import Data
from trn_jax.training import first_batch


class Batches:
    """Two batches, and whether they were closed."""

    closed = False

    def __init__(self, data):
        stream = data.train_batches(0)
        self.given = list(itertools.islice(stream, 2))
        self._left = iter(self.given)
        stream.close()

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._left)

    def close(self):
        self.closed = True


@pytest.fixture
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    return Data(tiny_training(folder), str(folder))


def test_batches_pass_unchanged_while_it_is_drawn(data, tmp_path, monkeypatch):
    batches, said = Batches(data), []
    drawing, release = threading.Event(), threading.Event()
    picture = first_batch.picture

    def slow_picture(sheet):
        drawing.set()
        release.wait(30)
        return picture(sheet)

    monkeypatch.setattr(first_batch, "picture", slow_picture)
    before = [batch["clip"].copy() for batch in batches.given]
    passing = first_batch.drawn(batches, data, str(tmp_path), said.append)
    found = [next(passing), next(passing)]
    assert drawing.wait(30) and not list(tmp_path.iterdir())  # nothing has waited for it
    assert all(a is b for a, b in zip(found, batches.given, strict=True))
    release.set()
    passing.close()
    assert batches.closed and said == []
    assert [path.name for path in tmp_path.iterdir()] == ["first_batch.png"]
    for batch, pixels in zip(found, before, strict=True):
        np.testing.assert_array_equal(batch["clip"], pixels)


def test_a_failure_is_logged_and_ends_nothing(data, tmp_path, monkeypatch):
    batches, said = Batches(data), []
    passing = first_batch.drawn(batches, data, str(tmp_path / "none"), said.append)
    assert len(list(passing)) == 2 and batches.closed
    (message,) = said
    assert message.startswith("warning: ") and f"{tmp_path}/none/first_batch.png" in message

    def broken(sheet):
        raise ValueError("no such colour")

    monkeypatch.setattr(first_batch, "picture", broken)
    list(first_batch.drawn(Batches(data), data, str(tmp_path), said.append))
    assert "no such colour" in said[1]
