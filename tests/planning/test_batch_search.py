"""Search for the largest batch that fits."""

import pytest

from trn_jax.errors import UserError
from trn_jax.planning import batch_search
from trn_jax.planning.hlo_cost import DoesNotFit, HloCost

MEMORY = 11_000  # of which 0.95 can be used


def cost(memory, flops=0.0):
    return HloCost(memory, 0, 0, 0, flops, 0.0, [])


def search(batch, cost_of):
    """The `BatchSearch`, and the batches that it compiled."""
    tried = []

    def compiled(batch):
        tried.append(batch)
        return cost_of(batch)

    return batch_search.find_largest_batch(compiled, batch, cost_of(batch), MEMORY, 16), tried


def test_memory_is_linear_in_the_batch():
    costs = {32: cost(1000 + 32 * 10), 64: cost(1000 + 64 * 10)}
    assert batch_search.largest_batch(costs, MEMORY, 1) == int((0.95 * MEMORY - 1000) / 10) == 945
    assert batch_search.largest_batch(costs, MEMORY, 16) == 944
    assert batch_search.largest_batch(costs, 900, 16) == 0


@pytest.mark.parametrize(("flops", "twice"), [(200.0, False), (201.0, False), (205.0, True)])
def test_more_flops_per_clip_are_rematerialization(flops, twice):
    assert batch_search.rematerializes({64: cost(10, flops), 32: cost(10, 100.0)}) == twice


def test_unknown_flops_are_no_rematerialization():
    unknown = float("nan")
    assert not batch_search.rematerializes({8: cost(10, unknown), 16: cost(20, unknown)})


@pytest.mark.parametrize(("batch", "second"), [(32, 16), (16, 32)])
def test_the_predicted_batch_is_compiled(batch, second):
    found, tried = search(batch, lambda batch: cost(1000 + 10 * batch))
    assert tried == [second, 944]
    assert found.describe() == "largest batch known to fit: 944 clips (0.000 GiB per chip)"


def test_rematerialization_makes_room_for_more():
    """The compiler trades FLOPs for memory, which is not linear."""

    def cost_of(batch):
        return cost(1000 + 20 * min(batch, 400), 1.03 * batch if batch > 400 else batch)

    found, tried = search(32, cost_of)
    assert tried == [16, 464] and found.largest == 464
    assert "recomputes" in found.describe()
    # Nor does it predict a larger batch.
    found, tried = search(512, cost_of)
    assert tried == [256] and found.largest == 512


def test_the_limit_is_bisected():
    """Memory grows faster than linearly, and the compiler rejects batches."""

    def cost_of(batch):
        if batch > 700:
            raise DoesNotFit(f"a batch of {batch} does not fit into the memory")
        return cost(1000 + 10 * batch + 2000 * (batch > 600))

    found, tried = search(128, cost_of)
    assert tried == [64, 944, 528]
    assert (found.largest, found.too_large, found.rejected) == (528, 944, [944])
    assert found.describe().endswith("fit: 528 clips (0.000 GiB per chip); 944 do not fit")


def test_some_memory_is_left_to_the_runtime():
    found, tried = search(1000, lambda batch: cost(1000 + 10 * batch))
    assert tried == [496, 944]
    assert (found.largest, found.too_large) == (944, 1000)


def test_no_smaller_or_larger_batch_to_try():
    def cost_of(batch):
        if batch > 16:
            raise DoesNotFit(f"a batch of {batch} does not fit into the memory")
        return cost(10_000)

    found, tried = search(16, cost_of)
    assert tried == [32]
    assert found.describe().endswith("fit: 16 clips (0.000 GiB per chip); 32 do not fit")


def test_other_compiler_errors_end_the_search():
    def cost_of(batch):
        if batch > 500:
            raise UserError(f"no way to compute a batch of {batch}")
        return cost(1000 + 10 * batch)

    found, tried = search(64, cost_of)
    assert tried == [32, 944]
    assert found.describe().endswith("fit: 64 clips (0.000 GiB per chip)")


def test_nothing_fits():
    found, _ = search(16, lambda batch: cost(10_900 + batch))
    assert found.largest == 0
    assert found.describe() == "no batch is known to fit; 16 do not fit"
