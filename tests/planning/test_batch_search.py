"""The largest batch that fits."""

import pytest

from trn_jax.errors import UserError
from trn_jax.planning import batch_search
from trn_jax.planning.hlo_cost import Cost, DoesNotFit

MEMORY = 11_000  # of which 0.95 can be used


def cost(memory, flops=0.0):
    return Cost(memory, 0, 0, 0, flops, 0.0, [])


def search(batch, cost_of):
    """The `Fitting`, and the batches that were compiled for it."""
    asked = []

    def compiled(batch):
        asked.append(batch)
        return cost_of(batch)

    return batch_search.find_largest_batch(compiled, batch, cost_of(batch), MEMORY, 16), asked


def test_it_is_on_the_line_through_two():
    costs = {32: cost(1000 + 32 * 10), 64: cost(1000 + 64 * 10)}
    assert batch_search.largest_batch(costs, MEMORY, 1) == int((0.95 * MEMORY - 1000) / 10) == 945
    assert batch_search.largest_batch(costs, MEMORY, 16) == 944
    assert batch_search.largest_batch(costs, 900, 16) == 0


@pytest.mark.parametrize(("flops", "twice"), [(200.0, False), (201.0, False), (205.0, True)])
def test_work_out_of_proportion_is_noticed(flops, twice):
    assert batch_search.computes_twice({64: cost(10, flops), 32: cost(10, 100.0)}) == twice


def test_work_that_is_not_known_is_not_out_of_proportion():
    unknown = float("nan")
    assert not batch_search.computes_twice({8: cost(10, unknown), 16: cost(20, unknown)})


@pytest.mark.parametrize(("batch", "second"), [(32, 16), (16, 32)])
def test_what_follows_from_two_is_compiled(batch, second):
    found, asked = search(batch, lambda batch: cost(1000 + 10 * batch))
    assert asked == [second, 944]
    assert found.describe() == "largest batch that is known to fit: 944 clips (0.000 GiB per chip)"


def test_what_computes_twice_makes_room_for_more():
    """The compiler gives up time for memory, which no line tells."""

    def cost_of(batch):
        return cost(1000 + 20 * min(batch, 400), 1.03 * batch if batch > 400 else batch)

    found, asked = search(32, cost_of)
    assert asked == [16, 464] and found.largest == 464
    assert found.describe().endswith("where the compiler computes parts of the step twice)")
    # Nor does it tell where that ends.
    found, asked = search(512, cost_of)
    assert asked == [256] and found.largest == 512


def test_what_does_not_fit_is_between():
    """Memory that grows faster than in a line, and a compiler that refuses."""

    def cost_of(batch):
        if batch > 700:
            raise DoesNotFit(f"a batch of {batch} does not fit into the memory")
        return cost(1000 + 10 * batch + 2000 * (batch > 600))

    found, asked = search(128, cost_of)
    assert asked == [64, 944, 528]
    assert (found.largest, found.too_large, found.refused) == (528, 944, [944])
    assert found.describe().endswith("fit: 528 clips (0.000 GiB per chip); 944 do not fit")


def test_batches_that_leave_nothing_to_the_runtime_do_not_fit():
    found, asked = search(1000, lambda batch: cost(1000 + 10 * batch))
    assert asked == [496, 944]
    assert (found.largest, found.too_large) == (944, 1000)


def test_nothing_smaller_or_larger_to_look_at():
    def cost_of(batch):
        if batch > 16:
            raise DoesNotFit(f"a batch of {batch} does not fit into the memory")
        return cost(10_000)

    found, asked = search(16, cost_of)
    assert asked == [32]
    assert found.describe().endswith("fit: 16 clips (0.000 GiB per chip); 32 do not fit")


def test_what_cannot_be_compiled_tells_nothing():
    def cost_of(batch):
        if batch > 500:
            raise UserError(f"no way to compute a batch of {batch}")
        return cost(1000 + 10 * batch)

    found, asked = search(64, cost_of)
    assert asked == [32, 944]
    assert found.describe().endswith("fit: 64 clips (0.000 GiB per chip)")


def test_nothing_fits():
    found, _ = search(16, lambda batch: cost(10_900 + batch))
    assert found.largest == 0
    assert found.describe() == "no batch is known to fit; 16 do not fit"
