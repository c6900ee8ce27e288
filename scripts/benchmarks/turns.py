"""Interleaved measurements of what is compared: clips per second and CPU time."""

import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trn_jax.data import memory

_QUIET = 0.1  # seconds without CPU use after which all threads count as idle


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the programs that are compared.

    Attributes:
        name: its row in the table.
        clips: per step.
        run: takes the given number of steps and returns the result of the last.
        rest: waits until prefetching threads are idle; returns when they became so, by
            `time.perf_counter`.
    """

    name: str
    clips: int
    run: Callable[[int], Any]
    rest: Callable[[], float] = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Turn:
    """Time per clip.

    Attributes:
        wall: seconds.
        cpu: CPU seconds, summed over all threads.
    """

    wall: float
    cpu: float


def measure(sides: Sequence[Side], *, rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Run the sides in turns, after one warm-up step of each."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for side in sides:
        side.run(1)
        side.rest()
    memory.keep_all()  # as in training
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            start, used = time.perf_counter(), cpu_seconds()
            side.run(steps)
            end = side.rest()
            clips = steps * side.clips
            turn = Turn((end - start) / clips, (cpu_seconds() - used) / clips)
            turns[side.name].append(turn)
    return turns


def cpu_seconds() -> float:
    """CPU time of this process and, under Linux, of its workers."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        try:
            with open(f"/proc/{worker.pid}/stat") as file:
                ticks = file.read().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds


def rest() -> float:
    """Wait until this process and its workers are idle; returns when they became so.

    Each turn of a pipeline starts and ends with full buffers, so it counts each batch once.
    """
    since, used = time.perf_counter(), cpu_seconds()
    while time.perf_counter() - since < _QUIET:
        time.sleep(_QUIET / 10)
        if cpu_seconds() - used > _QUIET / 10:  # polling uses some itself
            since, used = time.perf_counter(), cpu_seconds()
    return since


def table(
    turns: Mapping[str, Sequence[Turn]],
    pairs: Mapping[tuple[str, str], float | None],
    unit: str = "clip",
) -> str:
    """Format the turns and the ratios of `pairs` of sides.

    The value of each pair is the goal for the ratio of CPU time, or `None`.
    """
    goals = any(pairs.values())
    header = f"{'':34}{f'{unit}s/s':>32}{f'CPU seconds per {unit}':>32}"
    lines = [f"{header}{'goal':>10}" if goals else header]
    for name, own in turns.items():
        rates = spread([1 / turn.wall for turn in own])
        lines.append(f"{name:34}{rates:>32}{spread([turn.cpu for turn in own]):>32}")
    for (name, other), goal in pairs.items():
        rounds = zip(turns[name], turns[other], strict=True)
        rates = spread([b.wall / a.wall for a, b in rounds])
        costs = spread(cost_ratios(turns[name], turns[other]))
        line = f"{f'{name} / {other}':34}{rates:>32}{costs:>32}"
        lines.append(f"{line}{f'<= {goal:.3g}':>10}" if goal else line)
    return "\n".join(lines)


def cost_ratios(turns: Sequence[Turn], others: Sequence[Turn]) -> list[float]:
    """CPU time of one side divided by that of another, round by round."""
    return [turn.cpu / other.cpu for turn, other in zip(turns, others, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median, minimum and maximum as text."""
    return f"{statistics.median(values):.4g} ({min(values):.4g}..{max(values):.4g})"
