"""What a training does when loss, gradient or parameters are not finite, see `train.on_nan`."""

import os

import jax
import numpy as np

from trn_jax.errors import UserError
from trn_jax.files import write_text
from trn_jax.training.train_step import all_finite

_MOST_SKIPPED = 20  # steps in a row, with train.on_nan="skip"


def skips_too_many(run):
    """Whether too many steps in a row were skipped, as far as they have finished."""
    return run.meter.skipped_in_row >= _MOST_SKIPPED


def stop_skipping(run, step):
    """Stop a training that only skips steps."""
    problem = f"the loss or gradient was not finite in {_MOST_SKIPPED} steps in a row"
    _stop(run, step, f"{problem}, which were skipped, up to")


def check_interval(run, scalars):
    """Record the skipped steps of an interval, or stop at the first that was not finite.

    Args:
        run: the `Run`.
        scalars: of each step since the last log line, see `StepMeter.summary`.
    """
    steps = list(run.examples)[-len(scalars) :]
    if run.config.train.on_nan == "skip":
        run.skipped += [s for s, each in zip(steps, scalars, strict=True) if each["skipped"]]
        return
    for step, each in zip(steps, scalars, strict=True):
        loss, norm = float(each["loss"]), float(each["grad_norm"])
        if not np.isfinite([loss, norm]).all():
            _stop(run, step, f"the loss is {loss:g}, the norm of its gradient {norm:g} at")


def check_state(run, step, state):
    """Stop if the state isn't finite: it must not become a checkpoint."""
    if not all_finite((state.params, state.stats, state.opt_state)):
        _stop(run, step, "parameters, statistics or momentum are not finite after")


def _stop(run, step, problem):
    """Raise `UserError` about `step`, and write the videos of its batch on this process."""
    process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = os.path.join(run.workdir, f"not_finite_step_{step}{process}.txt")
    names = run.data.train_names(run.examples[step])
    write_text(path, "".join(f"{name}\n" for name in names))
    run.checkpoints.wait()
    last = run.checkpoints.latest_step()
    skips = run.config.train.on_nan == "skip"
    kept = "there is no checkpoint yet" if last is None else f"checkpoint {last} is from before"
    raise UserError(
        f"{problem} step {step}: the training has diverged; {kept}. The videos of that batch "
        f"are listed in {path}. Try a lower optim.lr, optim.clip_norm, or a warm-up"
        + ("" if skips else "; or skip such steps with --config.train.on_nan=skip")
    )
