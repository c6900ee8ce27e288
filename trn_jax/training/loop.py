"""The training loop: step, log, save, evaluate."""

import contextlib
import os
import time

import jax

from trn_jax import build, checks
from trn_jax.checkpoints import calibration_file, finding
from trn_jax.distributed.run_lock import hold
from trn_jax.distributed.sharding import DevicePrefetch, make_mesh
from trn_jax.distributed.watchdog import Watchdog
from trn_jax.errors import INTERRUPTED
from trn_jax.evaluation import results
from trn_jax.evaluation.calibrate import calibration_of
from trn_jax.evaluation.evaluate import cheapest_protocol, run_protocols
from trn_jax.signals import StopSignals
from trn_jax.training import first_batch, not_finite
from trn_jax.training.events import evaluate, log_end, log_progress, log_times, save
from trn_jax.training.profiling import Profile
from trn_jax.training.start import start


def train(
    config,
    workdir,
    *,
    profile_steps=None,
    ignore_lists=False,
    ignore_class_names=False,
    signals=None,
):
    """Train a configuration in `workdir`, or resume the run that is there.

    Args:
        config: see `trn_jax.config.base`.
        workdir: folder for checkpoints, logs and results; belongs to one run at a time.
        profile_steps: first and last step to record for XProf, in `<workdir>/profile`.
        ignore_lists: resume although the lists have changed.
        ignore_class_names: resume although the class names have changed.
        signals: the `StopSignals` of the process; by default new ones.

    Returns:
        The exit status: 0, or `INTERRUPTED` after a stop signal to any process.

    Raises:
        UserError: the configuration, the data or the working directory can't be used.
        PassingError: another run holds the working directory.
    """
    checks.check(config)
    checks.check_start(config)
    mesh = make_mesh()
    checks.check_batch(config, mesh.size, jax.process_count())
    with contextlib.ExitStack() as stack:
        signals = signals or stack.enter_context(StopSignals())
        watchdog = stack.enter_context(Watchdog(config.train.step_timeout))
        signals.action = watchdog.exit_at_once  # nothing to save before the first step
        watchdog.note("startup (looking for the data)")
        data, parts = build.training(config, workdir)
        stack.callback(data.close)
        watchdog.note("startup (waiting for the working directory)")
        stack.enter_context(hold(workdir))
        accepted = dict(ignore_lists=ignore_lists, ignore_class_names=ignore_class_names)
        run, state = start(config, workdir, mesh, data, parts, watchdog, **accepted)
        signals.action = watchdog.stop
        state = _loop(run, state, Profile(profile_steps, os.path.join(workdir, "profile")))
        return _finish(run, state)


def _loop(run, state, profile):
    """Train to the last step or a stop signal; returns the final state."""
    settings, watchdog, step = run.config.train, run.watchdog, run.first_step
    begun = time.perf_counter()
    run.meter.restart()
    # Batch k is a function of (seed, k), so resuming is asking for the next one.
    batches = DevicePrefetch(_batches(run), run.mesh)
    with run.closing(batches, profile):
        if run.evaluates_first:
            evaluate(run, step, state)
        if run.stopped_by:
            return state
        for step in range(run.first_step + 1, run.parts.num_steps + 1):
            profile.before(step)
            watchdog.note(f"step {step}, waiting for its clips")
            requested = time.perf_counter()
            arrays, rest = next(batches)
            arrived = time.perf_counter()
            watchdog.note(f"step {step}")
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, scalars = run.step_fn(state, arrays)
            # The devices compute this step while the host continues: nothing below waits for its
            # result, unless it logs or saves.
            run.meter.add(requested, arrived, scalars)
            run.add_batch(step, rest)
            if recorded := profile.after(step, scalars):
                run.log(recorded)

            # All processes take the same steps, also before a stop.
            run.stopped_by = watchdog.stops_here()
            evaluates = run.parts.evaluates_after(step)
            saves = evaluates or run.stopped_by or step % settings.checkpoint_every == 0
            diverged = not_finite.skips_too_many(run)
            if saves or diverged or step % settings.log_every == 0:
                log_progress(run, step)
            if diverged:
                not_finite.stop_skipping(run, step)
            if saves:
                # Before the next batch: the checkpoint is the state between two steps.
                save(run, step, state)
            if evaluates and not run.stopped_by:
                # After the save: a failing evaluation costs no step.
                evaluate(run, step, state)
            if run.stopped_by:
                break
        if step > run.first_step:
            log_times(run, step, time.perf_counter() - begun)
    return state


def _batches(run):
    """The batches from the first step on; process 0 draws the first one of a new training."""
    batches = run.data.train_batches(first_batch=run.first_step)
    if run.first_step or jax.process_index():
        return batches
    return first_batch.drawn(batches, run.data, run.workdir, run.log)


def _finish(run, state):
    """Evaluate the final state by all protocols, unless stopped; returns the exit status."""
    run.watchdog.note("the last save")
    run.checkpoints.close()
    step, found = int(state.step), None
    if not run.stopped_by:
        run.watchdog.note("the last evaluation", compiles=True)
        newest = finding.find(run.workdir)
        names = list(run.config.protocols)
        found = run_protocols(run.evaluator, run.data, run.config, state.model, newest, step, names)
        if found is None:
            run.stopped_by = run.watchdog.stops_here(requested=True)
    log_end(run, step)
    if found is None or run.stopped_by:
        return INTERRUPTED
    if jax.process_index() == 0:
        calibration = _calibrate(run, found, newest)
        found = [each | {"temperature": calibration.temperature} for each in found]
        results.write(found, os.path.join(run.workdir, "results"))
    return 0


def _calibrate(run, found, newest):
    """Store the calibration of the newest checkpoint by the protocol that `predict` takes."""
    name = cheapest_protocol(run.config)
    scores = next(each["scores"] for each in found if each["protocol"] == name)
    calibration = calibration_of(scores, run.data)
    calibration_file.write(newest, calibration)
    return calibration
