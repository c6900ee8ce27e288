"""The training loop: step, log, save, evaluate."""

import contextlib
import os
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from trn_jax import build, checks, optim
from trn_jax.checkpoints import checkpoint
from trn_jax.data.memory import give_back
from trn_jax.distributed import processes
from trn_jax.distributed.sharding import DevicePrefetch, make_mesh
from trn_jax.distributed.watchdog import Watchdog
from trn_jax.errors import INTERRUPTED, UserError, escaped
from trn_jax.evaluation import evaluate, results
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.files import write_text
from trn_jax.settings import resolved_views, shared_json
from trn_jax.training.logs import Profile, Reporter, StepMeter, duration, first_not_finite
from trn_jax.training.signals import StopSignals
from trn_jax.training.train_step import (
    TrainState,
    all_finite,
    classification_loss,
    copy_weights,
    init_state,
    jit_train_step,
    load_weights,
    state_sharding,
)
from trn_jax.training.workdir import (
    check_config,
    check_data,
    describe_lists,
    describe_workdir,
    hold,
    list_texts,
)

_LONG_WAIT = 0.25  # share of the time in which the devices have nothing to do
_RESUMES = "resumes from the newest checkpoint"
_UNSURE = f"{_RESUMES}, or starts from the beginning if there is none yet"
_MOST_SKIPPED = 20  # steps in a row, with train.on_nan="skip"


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
    mesh = make_mesh()
    checks.check_batch(config, mesh.size, jax.process_count())
    with contextlib.ExitStack() as stack:
        signals = signals or stack.enter_context(StopSignals())
        watchdog = stack.enter_context(Watchdog(config.train.step_timeout))
        signals.action = watchdog.exit_at_once
        watchdog.note("startup (looking for the data)")
        data, parts = build.training(config, workdir)
        stack.callback(data.close)
        watchdog.note("startup (waiting for the working directory)")
        stack.enter_context(hold(workdir))
        watchdog.note("startup (reading the lists)")
        about = check_config(config, os.path.join(workdir, "checkpoints"))
        lists = list_texts(data)
        accepted = dict(ignore_lists=ignore_lists, ignore_class_names=ignore_class_names)
        check_data(lists, data.class_names, about, workdir, **accepted)
        processes.check_same(
            configuration=shared_json(config),
            label_map="\n".join(data.class_names),
            train_list=lists["train"],
            val_list=lists["val"],
        )
        return _train(config, workdir, mesh, data, parts, lists, watchdog, signals, profile_steps)


def _train(config, workdir, mesh, data, parts, lists, watchdog, signals, profile_steps):
    graph, optimizer, state = init_state(
        parts.make_model, parts.make_optimizer, mesh, config.train.shard_state
    )
    views = resolved_views(config)
    evaluator = Evaluator(
        graph,
        multi_label=data.multi_label,
        max_views=config.eval.max_views_per_step,
        alive=watchdog.alive,
        should_stop=watchdog.asked,
    )
    # Without this, a protocol that does not fit the model would fail after the last step.
    evaluator.check(
        {name: view for name, view in views.items() if name.startswith("protocols.")}, state.model
    )
    watchdog.note("startup (reading the checkpoints)")
    checkpoints = checkpoint.Checkpoints(
        os.path.join(workdir, "checkpoints"),
        keep=config.train.keep,
        about={
            "config": config.to_dict(),
            "class_names": data.class_names,
            "lists": describe_lists(lists),
        },
        best="map" if data.multi_label else "top1",
        saved=partial(setattr, watchdog, "again", _RESUMES),
    )
    for text in checkpoints.set_aside:
        say(text)
    first_step = checkpoints.latest_step() or 0
    watchdog.again = _RESUMES if first_step else _UNSURE
    if first_step:
        state = _restore(checkpoints, first_step, state)
    elif config.init_from:
        watchdog.note(f"startup (reading {config.init_from})")
        state = _start_from(config, graph, state)
    describe_workdir(config, workdir, data.class_names, lists)

    step_fn = jit_train_step(
        mesh,
        layout=state_sharding(state, mesh, config.train.shard_state),
        graph=graph,
        optimizer=optimizer,
        rate=parts.rate,
        seed=config.seed,
        accumulation=config.train.accumulation,
        loss=partial(classification_loss, **parts.loss_options),
        skip_not_finite=config.train.on_nan == "skip",
    )
    loop = _Loop(config, workdir, data, evaluator, checkpoints, first_step, watchdog)
    loop.say(_first_lines(config, data, state, mesh, first_step, loop.num_steps))
    if not first_step and (warning := build.describe_start(config)):
        loop.say(warning)
    profile = Profile(profile_steps, os.path.join(workdir, "profile"))
    signals.action = watchdog.stop
    state = loop.run(step_fn, state, mesh, profile)
    watchdog.note("the last save")
    checkpoints.close()
    step = int(state.step)
    found = None
    if not loop.stopped_by:
        watchdog.note("the last evaluation", compiles=True)
        newest = checkpoint.find(workdir)
        found = evaluate.run_protocols(
            evaluator, data, config, state.model, newest, step, list(config.protocols)
        )
        if found is None:
            loop.stopped_by = watchdog.ends_here(asked=True)
    loop.conclude(step)
    if loop.stopped_by:
        return INTERRUPTED
    results.write(found, os.path.join(workdir, "results"))
    return 0


class _Loop:
    """The training loop: step, log, evaluate, save.

    Args:
        config: the configuration.
        workdir: folder for the logs.
        data: a `build.Data`.
        evaluator: an `Evaluator`.
        checkpoints: a `Checkpoints`.
        first_step: steps taken by earlier runs.
        watchdog: a `Watchdog`, which receives progress reports.

    Attributes:
        num_steps: steps of the whole training.
        problems: messages about unreadable training videos, which were replaced.
        losses: messages about videos with missing frames, see `decode.Video.loss`.
        unreadable: messages about unreadable validation videos, which count as wrong.
        skipped: steps whose updates were skipped, see `train.on_nan`.
        stopped_by: the signal that stopped the loop early, or "".
    """

    def __init__(self, config, workdir, data, evaluator, checkpoints, first_step, watchdog):
        self._config = config
        self._workdir = workdir
        self._data = data
        self._evaluator = evaluator
        self._checkpoints = checkpoints
        self._first_step = first_step
        self._watchdog = watchdog
        self._steps_per_epoch = len(data.train_records) / config.train.batch
        self._eval_steps = round(config.train.eval_every * self._steps_per_epoch)
        self.num_steps = config.train.steps or round(config.train.epochs * self._steps_per_epoch)
        self._val = resolved_views(config)["data.val"]
        self.problems: set[str] = set()
        self.losses: set[str] = set()
        self.unreadable: set[str] = set()
        self._num_replaced = 0  # since the last log line
        self.skipped: list[int] = []
        self.stopped_by = ""
        self._advice = _advice(data.files)
        self._batches: dict[int, np.ndarray] = {}  # examples of the steps since the last log line
        # An evaluation that was interrupted runs first.
        evaluates = self._evaluates_after(first_step) and not checkpoints.metrics(first_step)
        self._evaluates_first = evaluates
        self._evaluated = False  # in this process, so that its programs are compiled
        self._meter = StepMeter(config.train.batch, finished=watchdog.alive)
        self._reporter = Reporter(
            workdir,
            first_step=first_step,
            last_step=self.num_steps,
            active=jax.process_index() == 0,
            again=["val"] if evaluates else [],
        )
        self.say = self._reporter.say

    def run(self, step_fn, state, mesh, profile):
        """Train to the last step or a stop signal; returns the final state."""
        start = time.perf_counter()
        self._meter.restart()
        watchdog = self._watchdog
        batches = DevicePrefetch(self._data.train_batches(self._first_step), mesh)
        step = self._first_step
        try:
            if self._evaluates_first:
                self._evaluate(step, state)
            while step < self.num_steps and not self.stopped_by:
                step += 1
                profile.before(step)
                watchdog.note(f"step {step}, waiting for its clips")
                asked = time.perf_counter()
                arrays, rest = next(batches)
                arrived = time.perf_counter()
                watchdog.note(f"step {step}")
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, scalars = step_fn(state, arrays)
                self._meter.add(asked, arrived, scalars)
                self._batches[step] = np.array(rest["example"])
                self._reporter.step()
                self._note(rest["problems"])
                self._note(rest["losses"], "incomplete", self.losses)
                self._num_replaced += len(rest["problems"])
                if recorded := profile.after(step, scalars):
                    self.say(recorded)
                if self._meter.skipped_in_row >= _MOST_SKIPPED:
                    self._log(step)
                    skipped = (
                        f"the loss or gradient was not finite in {_MOST_SKIPPED} steps in a row"
                    )
                    self._stop(step, f"{skipped}, which were skipped, up to")
                self.stopped_by = watchdog.ends_here()
                self._between(step, state)
            if step > self._first_step:
                self._sum_up(step, time.perf_counter() - start)
        except Exception:
            with contextlib.suppress(UserError):
                self._checkpoints.wait()  # the pending save is from before the error
            raise
        finally:
            profile.close()
            batches.close()
            self._meter.close()
            self._reporter.close()
        return state

    def _sum_up(self, step, seconds):
        """Log where the time up to `step` went."""
        spent = self._meter.whole(seconds)
        busy, waited = spent["devices_busy"], spent["data_wait"]
        self._reporter.write(step, "run", spent)
        self.say(
            f"{spent['steps']} steps in {duration(seconds)}, {spent['seconds_per_step']:.3g} s "
            f"each: devices busy {100 * busy:.0f} %, waiting for data {100 * waited:.0f} %, "
            f"evaluations, saves and the rest {100 * (1 - busy - waited):.0f} %"
        )

    def conclude(self, step):
        """Log the summary of a training that ended after `step`."""
        if self.problems:
            say_here(f"{len(self.problems)} videos could not be read and were replaced:")
            say_here("\n".join(f"  {problem}" for problem in sorted(self.problems)))
        if self.losses:
            say_here(f"{len(self.losses)} videos have lost frames:")
            say_here("\n".join(f"  {loss}" for loss in sorted(self.losses)))
        if self.unreadable:
            say_here(f"{len(self.unreadable)} validation videos could not be read, so are wrong:")
            say_here("\n".join(f"  {problem}" for problem in sorted(self.unreadable)))
        if self.skipped:
            more = " ..." if len(self.skipped) > 20 else ""
            shown = ", ".join(map(str, self.skipped[:20])) + more
            say(
                f"{len(self.skipped)} steps were skipped, because their loss or gradient was not "
                f"finite: {shown}"
            )
        if self.stopped_by:
            say(
                f"stopped by {self.stopped_by} after step {step}; the same command goes on from "
                "there"
            )

    def _note(self, messages, kind="skipped", known=None):
        """Log new messages about videos, each once."""
        known = self.problems if known is None else known
        for message in sorted(set(messages) - known):
            (say_here if jax.process_index() else self.say)(f"{kind}: {message}")
        known.update(messages)

    def _between(self, step, state):
        """Log, save and evaluate if they are due after `step`."""
        settings = self._config.train
        evaluates = self._evaluates_after(step)
        saves = evaluates or self.stopped_by or step % settings.checkpoint_every == 0
        if saves or step % settings.log_every == 0:
            self._log(step)
        if saves and not all_finite((state.params, state.stats, state.opt_state)):
            self._stop(step, "parameters, statistics or momentum are not finite after")
        if saves:
            self._watchdog.note(f"the save after step {step}")
            # The next batch is asked for after this: what is saved is the state between steps.
            self._checkpoints.save(step, state.model, state.opt_state)
            self._meter.restart()
        # After the save: whatever happens to it, the steps before are not lost.
        if evaluates and not self.stopped_by:
            self._evaluate(step, state)

    def _evaluates_after(self, step):
        """Whether an evaluation is due after `step`."""
        often = self._eval_steps > 0 and step % self._eval_steps == 0
        return step > 0 and (step == self.num_steps or often)

    def _evaluate(self, step, state):
        """Evaluate the state after `step`, unless a notice comes: then it is done on resuming."""
        self._watchdog.note(f"the evaluation after step {step}", compiles=not self._evaluated)
        results = self._evaluator.run(self._data, {"val": self._val}, state.model)
        if results is not None:
            self._note(self._evaluator.unreadable, "unreadable", self.unreadable)
            self._note(self._evaluator.losses, "incomplete", self.losses)
            self._evaluated = True
            metrics = results["val"]["metrics"]
            self._reporter.write(step, "val", metrics)
            num = results["val"]["num_unreadable"]
            unreadable = f"  {num} videos unreadable, which count as wrong" if num else ""
            self.say(f"step {step}  val  " + _percentages(metrics) + unreadable)
            self._checkpoints.add_metrics(step, metrics)
        give_back()
        self._meter.restart()
        self.stopped_by = self._watchdog.ends_here(asked=results is None)

    def _log(self, step):
        summary, scalars = self._meter.summary()
        self._look_for_nan(scalars)
        self._batches = {step: self._batches[step]}
        epoch = step / self._steps_per_epoch
        self._reporter.write(step, "train", {"epoch": epoch} | summary)
        left = (self.num_steps - step) * self._config.train.batch / summary["clips_per_second"]
        self.say(
            f"step {step}/{self.num_steps}  epoch {epoch:.2f}  loss {summary['loss']:.4f}  "
            f"top-1 {100 * summary['top1']:.1f} %  lr {summary['lr']:.3g}  "
            f"grad norm {summary['grad_norm']:.2f}  {summary['clips_per_second']:.1f} clips/s  "
            f"waiting for data {100 * summary['data_wait']:.0f} %  {duration(left)} left"
            + (f"  {summary['skipped']} steps skipped" if summary.get("skipped") else "")
            + (f"  {self._num_replaced} clips replaced" if self._num_replaced else "")
        )
        self._num_replaced = 0
        if summary["data_wait"] > _LONG_WAIT and self._advice:
            self.say(self._advice)
            self._advice = ""  # once is enough

    def _look_for_nan(self, scalars):
        """Note or stop at steps that were not finite; `scalars` are those since the last line."""
        steps = list(self._batches)[-len(scalars) :]
        if self._config.train.on_nan == "skip":
            self.skipped += [s for s, each in zip(steps, scalars, strict=True) if each["skipped"]]
            return
        first = first_not_finite(scalars)
        if first is not None:
            loss, norm = (float(scalars[first][name]) for name in ("loss", "grad_norm"))
            self._stop(steps[first], f"the loss is {loss:g}, the norm of its gradient {norm:g} at")

    def _stop(self, step, problem):
        """Raise `UserError` about `step`, and write down the videos of its batch on this host."""
        host = f"_host_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = os.path.join(self._workdir, f"not_finite_step_{step}{host}.txt")
        names = self._data.train_names(self._batches[step])
        write_text(path, "".join(f"{name}\n" for name in names))
        self._checkpoints.wait()
        last = self._checkpoints.latest_step()
        skips = self._config.train.on_nan == "skip"
        kept = "there is no checkpoint yet" if last is None else f"checkpoint {last} is from before"
        raise UserError(
            f"{problem} step {step}: the training has diverged; {kept}. The videos of that batch "
            f"are named in {path}. Try a lower optim.lr, optim.clip_norm, or a warm-up"
            + ("" if skips else "; or leave such steps out with --config.train.on_nan=skip")
        )


def _advice(files):
    """What helps a training that waits for its clips, which are those of a `Dataset`; or ""."""
    if files.source != "videos":
        return ""
    frames = os.path.join(os.path.dirname(files.train_list), "rawframes")
    return (
        "the devices wait for videos to be decoded; folders of frames take a tenth of the "
        f"processor time: trn-jax extract {files.frames} --to={frames}"
    )


def _restore(checkpoints, step, state):
    """The state after `step`, in the form and placement of `state`."""
    model, opt_state = checkpoints.restore(step, state.model, state.opt_state)
    params, stats, fixed = model
    return TrainState(
        step=jnp.full_like(state.step, step),
        params=params,
        stats=stats,
        fixed=fixed,
        opt_state=opt_state,
    )


def _start_from(config, graph, state):
    """The state with the weights that `config.init_from` names."""
    parts = dict(backbone_only=not config.init_head)
    if not checkpoint.is_stored(config.init_from):
        weights = build.initial_weights(config)
        state, unread = load_weights(graph, state, weights, reset_temporal_op=None, **parts)
        for line in unread:
            say(f"{config.init_from}: {line}")
        return state
    directory = checkpoint.find(config.init_from)
    try:
        state, drawn = copy_weights(state, checkpoint.read_weights(directory), **parts)
    except UserError as error:
        raise UserError(f"init_from={config.init_from}: {error}") from None
    say(f"weights from {checkpoint.describe(directory)}")
    if drawn:
        kept = (
            "" if config.init_head else " (init_head=True takes neck and head as far as they fit)"
        )
        say(f"{len(drawn)} arrays are drawn, such as {drawn[0]}{kept}")
    return state


def _first_lines(config, data, state, mesh, first_step, num_steps):
    count = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.fixed)))
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    device = mesh.devices.flat[0]
    origin = "random weights"
    if config.init_from:
        origin = f"the weights of {config.init_from}"
    start = f"resuming after step {first_step}" if first_step else f"starting from {origin}"
    name = "own data" if config.data.dataset == "frames" else config.data.dataset
    lines = [
        f"{config.model.name}: {count:,} parameters, {trained:,} of them trained, "
        f"compute in {config.model.dtype}",
        f"{name} ({data.files.source}): {len(data.train_records):,} training and "
        f"{len(data.val_records):,} validation videos of {len(data.class_names)} classes, "
        f"{data.num_threads} threads decode",
        f"{mesh.size} x {device.device_kind}: {config.train.batch} clips per step; {start}, "
        f"{num_steps:,} steps in all",
    ]
    if config.optim.scale_lr:
        lr = optim.scaled_lr(config.optim, config.train.batch)
        lines.append(
            f"learning rate {lr:g}: {config.optim.lr:g} for a batch of {config.optim.base_batch}, "
            f"scaled to {config.train.batch}"
        )
    if config.data.train.flip_rate:
        lines.append(data.describe_flip(config.data.train))
    return "\n".join(lines)


def _percentages(metrics):
    return "  ".join(f"{name} {100 * value:.2f} %" for name, value in metrics.items())


def say(text):
    """Print a line for people, from process 0 only."""
    if jax.process_index() == 0:
        print(escaped(text, keep="\n\t"), file=sys.stderr, flush=True)


def say_here(text):
    """Print lines about this process, with its number if it is not the first of several."""
    host = f"host {jax.process_index()}: " if jax.process_index() else ""
    print(host + escaped(text, keep="\n\t"), file=sys.stderr, flush=True)
