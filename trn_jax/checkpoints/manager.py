"""The checkpoints of a training: saved while it runs, the newest and the best of them kept."""

import contextlib
import math
import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from trn_jax.checkpoints import arrays, calibration_file, checksums, integrity
from trn_jax.errors import UserError, first_line
from trn_jax.files import sync, sync_folder


class Checkpoints:
    """The checkpoints of one training.

    Args:
        directory: folder of the checkpoints; created if it is missing.
        keep: number of latest checkpoints to keep, in addition to the best one.
        best: metric that selects the best checkpoint; higher is better.
        about: metadata of every checkpoint, a JSON-serialisable dict.
        saved: called by the writer thread after each completed checkpoint.

    Attributes:
        set_aside: messages about corrupt checkpoints that were renamed (on process 0).

    Raises:
        UserError: all checkpoints are corrupt, or the folder can't be used.
    """

    def __init__(self, directory, *, keep, about, best="top1", saved=lambda: None):
        self.directory = pathlib.Path(directory).absolute()
        self.set_aside = integrity.set_aside(self.directory)
        self._about = about | integrity.origin()
        self._saving = None
        self._saved = saved
        self._keep = keep
        self._best = Best(self.directory, best)
        kept = [policies.LatestN(keep), self._best]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            # Runs on the writer thread after all processes have written, before the folder is
            # renamed to its step.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot use {self.directory} for checkpoints: {error}") from None

    def latest_step(self):
        """Step of the newest complete checkpoint, or `None`."""
        return self._manager.latest_step()

    def save(self, step, model, optimizer):
        """Start saving; the arrays may be overwritten once this returns.

        Args:
            step: number of steps taken.
            model: the states that make up the model, a tuple of pytrees.
            optimizer: state of the optimizer, a pytree.

        Raises:
            UserError: this or the previous checkpoint could not be written.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            model=ocp.args.StandardSave(arrays.merged(model)),
            optimizer=ocp.args.StandardSave(arrays.named(optimizer)),
            about=ocp.args.JsonSave(self._about | {"step": step}),
        )
        self.wait()  # also raises errors of the previous save
        with self._explained():
            self._saving = step
            self._manager.save(step, args=items, force=True)

    def _complete(self):
        (folder,) = self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        checksums.write(folder, ignored=[integrity.ORBAX_METADATA])
        # Once renamed, the checkpoint counts and older ones are deleted, so it must be on disk.
        sync_folder(folder)
        self._saved()

    def metrics(self, step):
        """Validation metrics of a checkpoint, a dict; empty if it was not evaluated."""
        return integrity.read_json(self.directory / str(step))["metrics"]

    def add_metrics(self, step, metrics, calibration=None):
        """Store the validation metrics and the `Calibration` of a checkpoint once it is on disk.

        If it becomes the best one, the previous best is deleted unless it is among the latest.

        Raises:
            UserError: the checkpoint or the metrics could not be written.
        """
        self.wait()
        if jax.process_index() == 0:
            # Metrics come last: a checkpoint that has them is not evaluated again.
            if calibration is not None:
                calibration_file.write(self.directory / str(step), calibration)
            integrity.write_metrics(self.directory / str(step), metrics)
        self._best.record(step, metrics)
        steps = sorted(self._manager.all_steps())
        best = self._best.of(steps)
        for old in steps[: -self._keep]:
            if old != best:
                self._manager.delete(old)

    def restore(self, step, model, optimizer):
        """Load a checkpoint with the structure and sharding of `model` and `optimizer`."""
        directory = self.directory / str(step)
        values = arrays.read("model", directory, arrays.merged(model))
        momentum = arrays.read("optimizer", directory, arrays.named(optimizer))
        return tuple(arrays.filled(state, values) for state in model), arrays.filled(
            optimizer, momentum
        )

    def wait(self):
        """Wait until everything is on disk."""
        with self._explained():
            self._manager.wait_until_finished()
            sync(self.directory)

    def close(self):
        """Wait until everything is on disk, and stop the threads."""
        self.wait()
        self._manager.close()

    @contextlib.contextmanager
    def _explained(self):
        """Turn errors of a failed save into one message that names the last good checkpoint."""
        try:
            yield
        except Exception as error:
            self._manager.reload()
            good = self._manager.latest_step()
            left = "no good one exists" if good is None else f"the last good one is step {good}"
            raise UserError(
                f"a checkpoint could not be written to {self.directory}: "
                f"{first_line(error)}; {left}. Free some space or repair the disk; the same "
                "command then resumes from there"
            ) from error


class Best(policies.PreservationPolicy):
    """Preserves the checkpoint with the highest metric, the newest of equals.

    Orbax's own policy needs the metrics at save time; here they are known only later.

    Args:
        directory: folder of the checkpoints.
        metric: its name.
    """

    def __init__(self, directory, metric):
        self._directory = directory
        self._metric = metric
        self._values: dict[int, float] = {}

    def should_preserve(self, checkpoints, *, context):
        """Whether Orbax may not delete each of the checkpoints."""
        del context
        best = self.of([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]

    def of(self, steps):
        """The best one of `steps`, or `None` if none has been evaluated."""
        values = {step: self._value(step) for step in steps}
        best = max(values.values(), default=-math.inf)
        return max(
            (step for step, value in values.items() if value == best > -math.inf), default=None
        )

    def record(self, step, metrics):
        """Record the metrics of a checkpoint."""
        if self._metric in metrics:
            self._values[step] = metrics[self._metric]

    def _value(self, step):
        if step not in self._values:
            # It may still be written, or corrupt.
            with contextlib.suppress(Exception):
                self.record(step, integrity.read_json(self._directory / str(step))["metrics"])
        return self._values.get(step, -math.inf)
