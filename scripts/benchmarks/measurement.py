"""Measured training steps of a recipe, as a table and as JSON."""

import dataclasses
import statistics
from typing import Any

from benchmarks.turns import Turn, spread

OURS = "JAX"
# Goals in clips per second on one H200, for 8 frames of 224 pixels in bfloat16.
GOALS = {"trn_resnet50": 450, "tsm_resnet50": 450}

# Reads and writes of each activation in a training step without fusion: convolution, batch
# statistics, norm and ReLU, forward and backward. In bfloat16 that is 28 bytes per activation.
_ACCESSES = 14
_BYTES = {"bfloat16": 2, "float32": 4}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Speed and memory of the training steps of a recipe.

    Attributes:
        model: its name.
        shape: batch, frames, height and width.
        dtype: of the computation.
        device: its kind.
        versions: see `machine.describe`.
        activations: of one clip, see `trn_jax.models.cost`.
        bandwidth: of the device's memory, bytes per second, measured.
        turns: of each side.
        memory: peak bytes of each side, where known.
        left_out: one line for each missing side, with the reason.
    """

    model: str
    shape: tuple[int, int, int, int]
    dtype: str
    device: str
    versions: str
    activations: int
    bandwidth: float
    turns: dict[str, list[Turn]]
    memory: dict[str, int]
    left_out: list[str]

    def rates(self, side: str) -> list[float]:
        """Clips per second, turn by turn."""
        return [1 / turn.wall for turn in self.turns[side]]

    def ratios(self, side: str) -> list[float]:
        """Clips per second of JAX divided by those of another side, round by round."""
        pairs = zip(self.rates(OURS), self.rates(side), strict=True)
        return [own / other for own, other in pairs]

    def share(self, side: str) -> float:
        """Fraction of the memory bandwidth that the step would use without fusion."""
        moved = self.activations * _ACCESSES * _BYTES[self.dtype]
        return moved * statistics.median(self.rates(side)) / self.bandwidth

    @property
    def goal(self) -> int | None:
        """Goal for JAX in clips per second, if there is one."""
        applies = "H200" in self.device and self.shape[1:] == (8, 224, 224)
        return GOALS.get(self.model) if applies and self.dtype == "bfloat16" else None

    def record(self) -> dict[str, Any]:
        """The measurement as JSON-able values."""
        sides = {
            name: {
                "clips_per_second": self.rates(name),
                "peak_bytes": self.memory.get(name),
                "bandwidth_share": self.share(name),
            }
            for name in self.turns
        }
        fields = dataclasses.asdict(self)
        del fields["turns"], fields["memory"]
        return fields | {"sides": sides}


def table(name: str, found: Measurement) -> str:
    """Format a measurement, with the goals on a GPU."""
    batch, frames, height, width = found.shape
    lines = [
        f"{name}: {found.model}, {batch} clips of {frames} x {height} x {width}, {found.dtype}",
        f"{found.device}, {found.bandwidth / 1e9:.4g} GB/s; "
        f"{found.activations / 1e6:.4g} million activations per clip",
        *found.left_out,
        f"{'':34}{'clips/s':>32}{'GiB at most':>14}{'of bandwidth':>14}",
    ]
    for side in found.turns:
        peak = found.memory.get(side)
        memory = "-" if peak is None else f"{peak / 2**30:.3g}"
        goal = f"{f'>= {found.goal}':>10}" if found.goal and side == OURS else ""
        cells = f"{memory:>14}{found.share(side):>14.3g}{goal}"
        lines.append(f"{side:34}{spread(found.rates(side)):>32}{cells}")
    goal = "" if found.device == "cpu" else f"{'>= 1':>38}"
    for side in (side for side in found.turns if side != OURS):
        lines.append(f"{f'{OURS} / {side}':34}{spread(found.ratios(side)):>32}{goal}")
    return "\n".join(lines)
