"""The order of the rows of a head's training."""

import collections

import pytest

from trn_jax.data.annotations import Record
from trn_jax.probing.head import Order

LABELS = (0, 0, 0, 1, 1, 2, 0)
RECORDS = [Record(n, f"v{n}", 8, label) for n, label in enumerate(LABELS)]


def test_every_example_comes_once_per_epoch():
    order = Order(RECORDS, 3)
    rows = [order[k] for k in range(21)]
    epochs = [sorted(example for e, example in rows if e == epoch) for epoch in range(3)]
    assert epochs == [list(range(7))] * 3
    assert rows[:7] != [(0, example) for _, example in rows[7:14]]
    assert [Order(RECORDS, 3)[k] for k in (20, 5, 12)] == [rows[k] for k in (20, 5, 12)]
    assert [Order(RECORDS, 4)[k] for k in range(21)] != rows


@pytest.mark.parametrize("seed", [0, 1])
def test_balanced_classes_come_in_turn(seed):
    order = Order(RECORDS, seed, balanced=True)
    rows = [order[k] for k in range(24)]
    assert [LABELS[example] for _, example in rows] == [0, 1, 2] * 8
    counts = collections.Counter(example for _, example in rows)
    assert counts[3] == counts[4] == 4 and counts[5] == 8 and all(counts[n] == 2 for n in (0, 1))
