"""Events of the training loop: log, save, evaluate, and the last lines."""

import jax

from trn_jax.data import memory
from trn_jax.distributed.processes import log
from trn_jax.evaluation.calibrate import calibration_of, validation_protocol
from trn_jax.evaluation.tables import title_of
from trn_jax.settings import resolved_views
from trn_jax.training import not_finite
from trn_jax.training.logs import duration

_LONG_WAIT = 0.25  # share of the time in which the devices are idle that is worth an advice


def log_progress(run, step):
    """Log the means over the steps since the last log line; waits for them to finish."""
    summary, scalars = run.meter.summary()
    memory.keep_all()  # now that the memory of a step is known
    not_finite.check_interval(run, scalars)
    run.examples = {step: run.examples[step]}
    epoch = step / run.parts.steps_per_epoch
    run.reporter.write(step, "train", {"epoch": epoch} | summary)
    num_left = run.parts.num_steps - step
    left = num_left * run.config.train.batch / summary["clips_per_second"]
    run.log(
        f"step {step}/{run.parts.num_steps}  epoch {epoch:.2f}  loss {summary['loss']:.4f}  "
        f"top-1 {100 * summary['top1']:.1f} %  lr {summary['lr']:.3g}  "
        f"grad norm {summary['grad_norm']:.2f}  {summary['clips_per_second']:.1f} clips/s  "
        f"waiting for data {100 * summary['data_wait']:.0f} %  {duration(left)} left"
        + (f"  {summary['skipped']} steps skipped" if summary.get("skipped") else "")
        + (f"  {run.num_replaced} clips replaced" if run.num_replaced else "")
    )
    run.num_replaced = 0
    if summary["data_wait"] > _LONG_WAIT and run.advice:
        run.log(run.advice)
        run.advice = ""  # once is enough


def save(run, step, state):
    """Start writing the checkpoint of `step`, if its state is finite."""
    not_finite.check_state(run, step, state)
    run.watchdog.note(f"the save after step {step}")
    run.checkpoints.save(step, state.model, state.opt_state)
    run.meter.restart()


def evaluate(run, step, state):
    """Evaluate the state after `step`; a stop signal postpones that until the run is resumed."""
    run.watchdog.note(f"the evaluation after step {step}", compiles=not run.evaluated)
    views = {"val": resolved_views(run.config)["data.val"]}
    results = run.evaluator.run(run.data, views, state.model)
    if results is not None:
        run.videos.add("unreadable", run.evaluator.unreadable)
        run.videos.add("incomplete", run.evaluator.losses)
        run.evaluated = True
        metrics = results["val"]["metrics"]
        run.reporter.write(step, "val", metrics)
        num = results["val"]["num_unreadable"]
        unreadable = f"  {num} videos unreadable, which count as wrong" if num else ""
        shares = "  ".join(f"{title_of(each)} {100 * metrics[each]:.2f} %" for each in metrics)
        run.log(f"step {step}  val  {shares}{unreadable}")
        run.checkpoints.add_metrics(step, metrics, _calibration(run, results["val"]["scores"]))
    memory.give_back()
    run.meter.restart()
    run.stopped_by = run.watchdog.stops_here(requested=results is None)


def _calibration(run, scores):
    """The calibration of a validation, on the process that stores it; else `None`."""
    if jax.process_index():
        return None
    return calibration_of(scores, run.data, protocol=validation_protocol(run.config))


def log_times(run, step, seconds):
    """Log how the run spent its time."""
    spent = run.meter.times(seconds)
    busy, waited = spent["devices_busy"], spent["data_wait"]
    run.reporter.write(step, "run", spent)
    run.log(
        f"{spent['steps']} steps in {duration(seconds)}, {spent['seconds_per_step']:.3g} s "
        f"each: devices busy {100 * busy:.0f} %, waiting for data {100 * waited:.0f} %, "
        f"evaluations, saves and the rest {100 * (1 - busy - waited):.0f} %"
    )


def log_end(run, step):
    """Log the summary of a run that ended after `step`: videos, skipped steps, stop signal."""
    run.videos.log_all()
    if run.skipped:
        more = " ..." if len(run.skipped) > 20 else ""
        shown = ", ".join(map(str, run.skipped[:20])) + more
        log(f"{len(run.skipped)} steps were skipped, their loss or gradient not finite: {shown}")
    if run.stopped_by:
        log(f"stopped by {run.stopped_by} after step {step}; the same command resumes")
