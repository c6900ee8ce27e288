"""Training: the step, the data pipeline, and both together."""

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.loading import pipeline_side
from benchmarks.turns import Side, rest
from trn_jax import build, checks, create_model
from trn_jax.distributed.sharding import DevicePrefetch, make_mesh
from trn_jax.recipe_data import Data
from trn_jax.training import initial_state, train_step


class Stepper:
    """Takes training steps of a recipe.

    Args:
        config: see `trn_jax.config.base`.
        mesh: the devices.
        num_videos: length of the training list.
        loss: see `train_step.train_step`.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        num_videos: int,
        loss: Callable[..., jax.Array] = train_step.classification_loss,
    ):
        parts = build.parts(config, steps_per_epoch=num_videos / config.train.batch)
        self.graph, optimizer, self.state = initial_state.init_state(
            lambda: create_model(**config.model, rngs=nnx.Rngs(config.seed)),
            parts.make_optimizer,
            mesh,
        )
        self._mesh = mesh
        self._step = train_step.jit_train_step(
            mesh,
            graph=self.graph,
            optimizer=optimizer,
            rate=parts.rate,
            seed=config.seed,
            accumulation=config.train.accumulation,
            loss=loss,
            skip_not_finite=config.train.on_nan == "skip",
        )

    def load(self, state_dict: dict[str, np.ndarray]) -> None:
        """Load a PyTorch state dict, see `trn_jax.convert`."""
        self.state, _ = initial_state.load_weights(self.graph, self.state, state_dict)

    def compile(self, batch: dict[str, jax.Array]) -> int:
        """Compile the step for batches like `batch`; returns the bytes that each device needs."""
        self._step = self._step.lower(self.state, batch).compile()
        memory = self._step.memory_analysis()
        results = memory.output_size_in_bytes - memory.alias_size_in_bytes
        return memory.argument_size_in_bytes + memory.temp_size_in_bytes + results

    def __call__(self, batches: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        """Take one step per batch and wait; returns the scalars of the last."""
        for batch in batches:
            self.state, scalars = self._step(self.state, batch)
        jax.block_until_ready(self.state)
        return scalars


@dataclasses.dataclass(frozen=True)
class Training:
    """A training to measure.

    Attributes:
        data: of the recipe.
        stepper: takes steps.
        mesh: the devices.
        sides: the data pipeline, the training step, and both together.
    """

    data: Data
    stepper: Stepper
    mesh: Mesh
    sides: list[Side]


def training_of(config: ConfigDict, workdir: str, stack: ExitStack) -> Training:
    """The training of a recipe; `stack` closes its threads."""
    mesh = make_mesh()
    checks.check_batch(config, mesh.size)
    data, parts = build.training(config, workdir)
    loss = partial(train_step.classification_loss, **parts.loss_options)
    stepper = Stepper(config, mesh, len(data.train_records), loss)
    prefetch = stack.enter_context(closing(DevicePrefetch(data.train_batches(0), mesh)))
    resident, _ = next(prefetch)

    def step(steps: int) -> None:
        stepper([resident] * steps)

    def both(steps: int) -> None:
        stepper(arrays for arrays, _ in islice(prefetch, steps))

    clips = config.train.batch
    sides = [
        pipeline_side("data", config, workdir, stack),
        Side("step", clips, step),
        Side("both", clips, both, rest),
    ]
    return Training(data, stepper, mesh, sides)
