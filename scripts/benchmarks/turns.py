"""Things that are compared take turns: their clips per second and their processor time."""

import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_QUIET = 0.1  # seconds of next to no work after which all threads are taken to be idle


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    Attributes:
        name: its row in the table.
        clips: in one step.
        run: takes so many steps, and returns what the last one computed.
        rest: waits until threads that work ahead have nothing left to do, and returns the moment
            when that was so, by `time.perf_counter`.
    """

    name: str
    clips: int
    run: Callable[[int], Any]
    rest: Callable[[], float] = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one clip took.

    Attributes:
        wall: seconds.
        cpu: seconds, summed over all threads.
    """

    wall: float
    cpu: float


def measure(sides: Sequence[Side], *, rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Let the sides take turns, after one step each to warm up."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for side in sides:
        side.run(1)
        side.rest()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            start, used = time.perf_counter(), processor_seconds()
            side.run(steps)
            end = side.rest()
            clips = steps * side.clips
            turn = Turn((end - start) / clips, (processor_seconds() - used) / clips)
            turns[side.name].append(turn)
    return turns


def processor_seconds() -> float:
    """Processor time of this process and, where the system tells, of its workers."""
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
    """Wait until this process and its workers are idle; returns the moment when they became so.

    A turn of a pipeline thereby begins and ends with full buffers, and counts every batch once.
    """
    since, used = time.perf_counter(), processor_seconds()
    while time.perf_counter() - since < _QUIET:
        time.sleep(_QUIET / 10)
        if processor_seconds() - used > _QUIET / 10:  # asking takes some itself
            since, used = time.perf_counter(), processor_seconds()
    return since


def table(
    turns: Mapping[str, Sequence[Turn]],
    pairs: Mapping[tuple[str, str], float | None],
    unit: str = "clip",
) -> str:
    """Describe the turns, and the ratios of some `pairs` of sides.

    With each pair comes the largest ratio of processor time that is wanted, or `None`.
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
    """Processor time of one side in units of that of another, round by round."""
    return [turn.cpu / other.cpu for turn, other in zip(turns, others, strict=True)]


def spread(values: Sequence[float]) -> str:
    """The median, with the smallest and the largest value."""
    return f"{statistics.median(values):.4g} ({min(values):.4g}..{max(values):.4g})"
