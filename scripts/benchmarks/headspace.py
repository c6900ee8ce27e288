"""What the devices could take if clips came for free, and where the time of the loader goes."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.loading import stage_sides
from benchmarks.training import Stepper
from benchmarks.turns import Side, Turn, rest
from trn_jax.distributed.sharding import DevicePrefetch, batch_sharding
from trn_jax.recipe_data import Data

_KEEPS_UP = 0.05  # share of the time that the devices may wait
_BUSY = 0.6  # share of the processors' time from which on they are the limit
_MOST = 0.6  # share of a clip's time from which on a stage is named


class Replayed:
    """The same batch again and again; an iterator that `DevicePrefetch` can close."""

    def __init__(self, batch: Mapping[str, np.ndarray]):
        self.batch = {key: np.array(batch[key]) for key in ("clip", "label")}

    def __iter__(self) -> "Replayed":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return dict(self.batch)

    def close(self) -> None:
        """Nothing to close."""


def headspace_sides(data: Data, stepper: Stepper, mesh: Mesh, stack: ExitStack) -> list[Side]:
    """Stages of the loader in one thread, the transfer, and steps on a batch that is replayed.

    Args:
        data: of the recipe.
        stepper: takes the steps.
        mesh: the devices.
        stack: closes the prefetching threads.
    """
    with closing(data.train_batches(0)) as batches:
        replayed = Replayed(next(batches))
    batch = replayed.batch
    clips, split = len(batch["label"]), batch_sharding(mesh)
    prefetch = stack.enter_context(closing(DevicePrefetch(replayed, mesh)))

    def transfer(steps: int) -> None:
        for _ in range(steps):
            moved = {
                key: jax.make_array_from_process_local_data(split, value)
                for key, value in batch.items()
            }
            jax.block_until_ready(moved)

    def replay(steps: int) -> None:
        stepper(arrays for arrays, _ in islice(prefetch, steps))

    return [
        *stage_sides(data, clips),
        Side("transfer", clips, transfer),
        Side("replayed", clips, replay, rest),
    ]


@dataclasses.dataclass(frozen=True)
class Headspace:
    """Medians of one run.

    Attributes:
        decode: CPU seconds per clip in one thread, with reading.
        crop: the same for crops, resizing and colours.
        transfer: seconds per clip to the devices.
        wait: seconds per clip that the devices wait for the loader while they train.
        loader: clips per second of the loader alone, in all threads.
        replayed: clips per second of the devices, if a batch is replayed.
        both: clips per second of the training.
        threads: that decode.
        source: "frames", "videos" or "records".
        exact: whether training resizes as published.
    """

    decode: float
    crop: float
    transfer: float
    wait: float
    loader: float
    replayed: float
    both: float
    threads: int
    source: str
    exact: bool

    @property
    def wait_share(self) -> float:
        """Share of the time that the devices wait for the loader."""
        return self.wait * self.both

    @property
    def busy(self) -> float:
        """Share of the time of the loader's threads that reading a clip takes, in one thread."""
        return self.loader * (self.decode + self.crop) / self.threads

    def __str__(self) -> str:
        per_clip = {"decode": self.decode, "crop": self.crop, "transfer": self.transfer}
        parts = [f"{name} {1e3 * value:.3g}" for name, value in per_clip.items()]
        return (
            f"milliseconds per clip: {', '.join(parts)}, wait {1e3 * self.wait:.3g} "
            f"({100 * self.wait_share:.0f} % of the time)\n"
            f"headspace: the devices take {self.replayed:.4g} clips/s if one batch is replayed, "
            f"{self.replayed / self.both:.2f} times those of the training; the loader gives "
            f"{self.loader:.4g} with {self.threads} threads\n"
            f"advice: {self.advice()}"
        )

    def advice(self) -> str:
        """What to change."""
        if self.wait_share < _KEEPS_UP:
            return "none, the loader keeps up"
        if self.transfer > 1 / self.replayed and self.transfer > 1 / self.loader:
            return "the transfer to the devices is the limit: smaller clips, or more processes"
        if self.busy < _BUSY:
            return (
                "the loader's threads are not busy, so the storage or Python's lock is the limit: "
                "move the data to a local disk or into memory, pack it with `trn-jax records`, or "
                "set data.num_workers to the number of processors / 4"
            )
        needed = self.threads * self.replayed / self.loader
        found = [f"{needed:.0f} threads of this kind would keep up"]
        if self.decode > _MOST * (self.decode + self.crop):
            found.append(_LESS_DECODING[self.source])
        elif self.exact:
            found.append("data.exact_resize=False takes a fifth of the time for crops")
        return "; ".join(["processors are the limit", *found])

    def record(self) -> dict[str, Any]:
        """All numbers, the shares and the advice, for JSON."""
        more = dict(wait_share=self.wait_share, busy=self.busy, advice=self.advice())
        return dataclasses.asdict(self) | more


_LESS_DECODING = {
    "videos": "folders of frames take a tenth of the time of videos: trn-jax extract",
    "frames": "data.fast_decode=True decodes faster, and smaller files do, such as of 256 pixels",
    "records": "data.fast_decode=True decodes faster, and smaller frames do, such as of 256 pixels",
}


def headspace_of(turns: Mapping[str, Sequence[Turn]], config: ConfigDict, data: Data) -> Headspace:
    """What the turns of `headspace_sides` and `training.training_of` show."""

    def wall(name: str) -> float:
        return statistics.median(turn.wall for turn in turns[name])

    def cpu(name: str) -> float:
        return statistics.median(turn.cpu for turn in turns[name])

    return Headspace(
        decode=cpu("decode"),
        crop=max(cpu("crop") - cpu("decode"), 0.0),  # the stages add up
        transfer=wall("transfer"),
        wait=max(wall("both") - wall("replayed"), 0.0),
        loader=1 / wall("data"),
        replayed=1 / wall("replayed"),
        both=1 / wall("both"),
        threads=data.num_threads,
        source=data.files.source,
        exact=config.data.exact_resize,
    )
