"""Searches for the largest batch that fits into device memory by compiling a few sizes."""

import dataclasses
import math

from trn_jax.errors import UserError
from trn_jax.planning.hlo_cost import Cost, DoesNotFit

_USABLE = 0.95  # of the memory, as some is taken by the runtime
# Batches that are compiled beside the first one, and how much larger than the largest that fits the
# next one has to be for that: each takes minutes.
_TRIES = 3
_WORTH_A_TRY = 1.05


@dataclasses.dataclass
class Fitting:
    """What is known of batches and the memory.

    Attributes:
        memory: bytes of a chip.
        step: batches are multiples of it.
        costs: `{batch: Cost}` of those that could be compiled.
        refused: those that could not for lack of memory.
    """

    memory: int
    step: int
    costs: dict[int, Cost]
    refused: list[int] = dataclasses.field(default_factory=list)

    @property
    def largest(self):
        """The largest batch that fits, of those that were compiled; 0 if none does."""
        return max((batch for batch in self.costs if self._fits(batch)), default=0)

    @property
    def too_large(self):
        """The smallest batch that does not fit, of those that were compiled; infinity if all do."""
        compiled = (batch for batch in self.costs if not self._fits(batch))
        return min([*self.refused, *compiled], default=math.inf)

    def _fits(self, batch):
        return self.costs[batch].memory <= _USABLE * self.memory

    def next_batch(self):
        """The batch to look at: as large as may fit, `largest` if nothing tells of larger ones."""
        guess = math.inf
        two = dict(sorted(self.costs.items())[-2:])
        if len(two) == 2 and not computes_twice(two):
            guess = largest_batch(two, self.memory, self.step)
        if guess < self.too_large:
            return guess
        if self.too_large == math.inf:
            return self.largest
        return (self.largest + self.too_large) // 2 // self.step * self.step

    def describe(self):
        """What was found, as text."""
        larger = f"; {self.too_large:,} do not fit" if self.too_large < math.inf else ""
        if not self.largest:
            return f"no batch is known to fit{larger}"
        needed = f"{self.costs[self.largest].memory / 2**30:.3f} GiB per chip"
        smallest = min(self.costs)
        if smallest < self.largest and computes_twice(
            {batch: self.costs[batch] for batch in (smallest, self.largest)}
        ):
            needed += ", where the compiler computes parts of the step twice"
        return f"largest batch that is known to fit: {self.largest:,} clips ({needed}){larger}"


def find_largest_batch(cost_of, batch, cost, memory, step):
    """Look for the largest batch that fits.

    A second batch tells how the memory grows, others whether what follows from that is so.

    Args:
        cost_of: function of a batch that gives its `Cost`, or raises `DoesNotFit`, or another
            `UserError` if there is no way to compute it: then nothing further is looked for.
        batch: the first one.
        cost: its `Cost`.
        memory: bytes of a chip.
        step: batches have to be multiples of it.

    Returns:
        The `Fitting`.
    """
    found = Fitting(memory, step, {batch: cost})
    guess = batch // 2 // step * step or batch + step
    for _ in range(_TRIES):
        try:
            found.costs[guess] = cost_of(guess)
        except DoesNotFit:
            found.refused.append(guess)
        except UserError:
            break
        guess = found.next_batch()
        if guess <= _WORTH_A_TRY * found.largest:
            break
    return found


def largest_batch(costs, memory, step):
    """The largest global batch that fits, from the costs of two.

    What a step needs grows with the batch in a straight line, but for what the compiler makes of
    it.

    Args:
        costs: `{batch: Cost}` of two batches.
        memory: bytes of a chip.
        step: a batch has to be a multiple of it.

    Returns:
        The batch, 0 if none fits.
    """
    (small, low), (large, high) = sorted(costs.items())
    slope = (high.memory - low.memory) / (large - small)
    fixed = high.memory - slope * large
    if slope <= 0:
        return large
    return max(0, int((_USABLE * memory - fixed) / slope) // step * step)


def computes_twice(costs):
    """Whether the compiler computes parts of the larger of two steps twice, for lack of memory.

    What such a step needs does not tell what still larger ones would. Of GPUs nothing is noticed,
    as operations are counted before the compiler adds any.

    Args:
        costs: `{batch: Cost}` of two batches.
    """
    (small, low), (large, high) = sorted(costs.items())
    return high.flops / large > 1.01 * low.flops / small
