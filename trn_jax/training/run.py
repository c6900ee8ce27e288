"""What the training loop and its events share."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from trn_jax.build import Parts
from trn_jax.checkpoints.manager import Checkpoints
from trn_jax.distributed.watchdog import Watchdog
from trn_jax.errors import UserError
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.recipe_data import Data
from trn_jax.training.logs import Reporter, StepMeter, VideoMessages


@dataclasses.dataclass
class Run:
    """A training in progress.

    Attributes:
        config: the configuration.
        workdir: the working directory.
        mesh: the devices.
        data: lists and loaders.
        parts: model, optimizer, learning rate and loss.
        step_fn: the compiled step, a function of the state and a batch.
        evaluator: for validation and protocols.
        checkpoints: those of this training.
        watchdog: receives progress reports.
        meter: scalars and times of the steps.
        reporter: console, `metrics.jsonl` and TensorBoard.
        first_step: steps taken by earlier runs.
        evaluates_first: whether the evaluation after `first_step` was interrupted.
        videos: messages about videos that can't be read.
        examples: `{step: positions in the training list}` of the batches since the last log line.
        num_replaced: clips replaced since the last log line, because their videos can't be read.
        skipped: steps whose updates were skipped, see `train.on_nan`.
        evaluated: whether this process has compiled the evaluation.
        advice: what to log once, if the devices wait for data; or "".
        stopped_by: the signal that stopped the loop early, or "".
    """

    config: Any
    workdir: str
    mesh: jax.sharding.Mesh
    data: Data
    parts: Parts
    step_fn: Callable
    evaluator: Evaluator
    checkpoints: Checkpoints
    watchdog: Watchdog
    meter: StepMeter
    reporter: Reporter
    first_step: int
    evaluates_first: bool
    advice: str
    videos: VideoMessages
    examples: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    num_replaced: int = 0
    skipped: list[int] = dataclasses.field(default_factory=list)
    evaluated: bool = False
    stopped_by: str = ""

    def log(self, text):
        """Log a line, on process 0."""
        self.reporter.log(text)

    def add_batch(self, step, rest):
        """Record what the loader reports about a batch, see `BatchReader`."""
        self.examples[step] = np.array(rest["example"])
        self.reporter.step()
        self.videos.add("skipped", rest["problems"])
        self.videos.add("incomplete", rest["losses"])
        self.num_replaced += len(rest["problems"])

    @contextlib.contextmanager
    def closing(self, *resources):
        """Close resources, meter and reporter at the end; complete the pending save on errors."""
        try:
            yield
        except Exception:
            with contextlib.suppress(UserError):
                self.checkpoints.wait()  # the pending save is from before the error
            raise
        finally:
            for resource in (*reversed(resources), self.meter, self.reporter):
                resource.close()
