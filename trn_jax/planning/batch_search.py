"""Largest batch that fits into device memory, found by compiling a few sizes."""

import dataclasses
import math

from trn_jax.errors import UserError
from trn_jax.planning.hlo_cost import DoesNotFit, HloCost

_USABLE = 0.95  # fraction of the memory; the runtime takes the rest
# Compiling takes minutes per batch: try at most so many besides the first, and none that is less
# than 5 % larger than the largest that fits.
_TRIES = 3
_WORTH_A_TRY = 1.05


@dataclasses.dataclass
class BatchSearch:
    """Batches that were compiled, and the memory that they need.

    Attributes:
        memory: bytes of a chip.
        step: batches are multiples of it.
        costs: `{batch: HloCost}` of the compiled ones.
        rejected: batches that the compiler rejected for lack of memory.
    """

    memory: int
    step: int
    costs: dict[int, HloCost]
    rejected: list[int] = dataclasses.field(default_factory=list)

    @property
    def largest(self):
        """The largest compiled batch that fits; 0 if none does."""
        return max((batch for batch in self.costs if self._fits(batch)), default=0)

    @property
    def too_large(self):
        """The smallest batch that doesn't fit; infinity if all do."""
        compiled = (batch for batch in self.costs if not self._fits(batch))
        return min([*self.rejected, *compiled], default=math.inf)

    def _fits(self, batch):
        return self.costs[batch].memory <= _USABLE * self.memory

    def next_batch(self):
        """The largest batch that may fit, to compile next; `largest` if no larger one is known."""
        guess = math.inf
        two = dict(sorted(self.costs.items())[-2:])
        if len(two) == 2 and not rematerializes(two):
            guess = largest_batch(two, self.memory, self.step)
        if guess < self.too_large:
            return guess
        if self.too_large == math.inf:
            return self.largest
        return (self.largest + self.too_large) // 2 // self.step * self.step

    def describe(self):
        """The result as text."""
        larger = f"; {self.too_large:,} do not fit" if self.too_large < math.inf else ""
        if not self.largest:
            return f"no batch is known to fit{larger}"
        needed = f"{self.costs[self.largest].memory / 2**30:.3f} GiB per chip"
        smallest = min(self.costs)
        if smallest < self.largest and rematerializes(
            {batch: self.costs[batch] for batch in (smallest, self.largest)}
        ):
            needed += ", where the compiler recomputes parts of the step"
        return f"largest batch known to fit: {self.largest:,} clips ({needed}){larger}"


def find_largest_batch(cost_of, batch, cost, memory, step):
    """Search for the largest batch that fits.

    The slope of the memory between two batches predicts it; compiling confirms the prediction.

    Args:
        cost_of: function from a batch to its `HloCost`. Raises `DoesNotFit`, or another `UserError`
            if the compiler fails otherwise, which ends the search.
        batch: the first batch.
        cost: its `HloCost`.
        memory: bytes of a chip.
        step: batches must be multiples of it.

    Returns:
        The `BatchSearch`.
    """
    found = BatchSearch(memory, step, {batch: cost})
    guess = batch // 2 // step * step or batch + step
    for _ in range(_TRIES):
        try:
            found.costs[guess] = cost_of(guess)
        except DoesNotFit:
            found.rejected.append(guess)
        except UserError:
            break
        guess = found.next_batch()
        if guess <= _WORTH_A_TRY * found.largest:
            break
    return found


def largest_batch(costs, memory, step):
    """Predict the largest global batch that fits, from the costs of two.

    Memory grows linearly with the batch unless the compiler rematerializes.

    Args:
        costs: `{batch: HloCost}` of two batches.
        memory: bytes of a chip.
        step: batches must be multiples of it.

    Returns:
        The batch, 0 if none fits.
    """
    (small, low), (large, high) = sorted(costs.items())
    slope = (high.memory - low.memory) / (large - small)
    fixed = high.memory - slope * large
    if slope <= 0:
        return large
    return max(0, int((_USABLE * memory - fixed) / slope) // step * step)


def rematerializes(costs):
    """Whether the compiler recomputes parts of the larger of two steps to save memory.

    The memory of such a step predicts nothing about larger ones. Not detected for GPUs, where FLOPs
    are counted before compilation.

    Args:
        costs: `{batch: HloCost}` of two batches.
    """
    (small, low), (large, high) = sorted(costs.items())
    return high.flops / large > 1.01 * low.flops / small
