"""How a training starts: resumes from a checkpoint, or starts from given or random weights."""

import os
import re
from functools import partial

import jax
import jax.numpy as jnp

from trn_jax import convert, optim
from trn_jax.checkpoints import checkpoint, finding
from trn_jax.checkpoints.manager import Checkpoints
from trn_jax.distributed import processes
from trn_jax.distributed.processes import log
from trn_jax.errors import UserError
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.nn.precision import AUTO, compute_dtype
from trn_jax.settings import resolved_views, shared_json
from trn_jax.training.initial_state import init_state, load_weights
from trn_jax.training.logs import Reporter, StepMeter, VideoMessages
from trn_jax.training.run import Run
from trn_jax.training.train_step import (
    TrainState,
    classification_loss,
    jit_train_step,
    state_sharding,
)
from trn_jax.training.workdir import (
    check_config,
    check_data,
    describe_run,
    describe_workdir,
    dtype_of_run,
    list_texts,
)

_RESUMES = "resumes from the newest checkpoint"
_UNSURE = f"{_RESUMES}, or starts from the beginning if there is none yet"


def start(config, workdir, mesh, data, parts, watchdog, **accepted):
    """Check the data against earlier runs, and make or restore the state.

    Args:
        config: the configuration.
        workdir: the working directory, which this process holds.
        mesh: the devices.
        data: the `Data`.
        parts: the `Parts`.
        watchdog: receives progress reports.
        **accepted: `ignore_lists` and `ignore_class_names` of `check_data`.

    Returns:
        The `Run` and the initial `TrainState`.

    Raises:
        UserError: the working directory, the lists or the weights don't fit the configuration.
    """
    watchdog.note("startup (reading the lists)")
    lists, dtype = _checked_lists(config, workdir, data, mesh, **accepted)
    setting = config.to_dict()
    config.model.dtype = dtype
    graph, optimizer, state = init_state(
        parts.make_model, parts.make_optimizer, mesh, config.train.shard_state
    )
    evaluator = _evaluator(config, data, graph, state, watchdog)
    watchdog.note("startup (reading the checkpoints)")
    about = describe_run(setting, data, lists, dtype=dtype)
    checkpoints = _checkpoints(config, workdir, about, data.best_metric, watchdog)
    first_step, state = _first_state(config, graph, state, checkpoints, watchdog)
    describe_workdir(workdir, about, lists)
    # An evaluation that was interrupted runs first.
    evaluates_first = parts.evaluates_after(first_step) and not checkpoints.metrics(first_step)
    reporter = Reporter(
        workdir,
        first_step=first_step,
        last_step=parts.num_steps,
        active=jax.process_index() == 0,
        again=["val"] if evaluates_first else [],
    )
    automatic = setting["model"]["dtype"] == AUTO
    _log_start(reporter, config, data, parts, state, mesh, first_step, automatic=automatic)
    run = Run(
        config=config,
        workdir=workdir,
        mesh=mesh,
        data=data,
        parts=parts,
        step_fn=_step_fn(config, mesh, parts, graph, optimizer, state),
        evaluator=evaluator,
        checkpoints=checkpoints,
        watchdog=watchdog,
        meter=StepMeter(config.train.batch, finished=watchdog.alive),
        reporter=reporter,
        first_step=first_step,
        evaluates_first=evaluates_first,
        advice=advice(data.files),
        videos=VideoMessages(reporter.log),
    )
    return run, state


def _checked_lists(config, workdir, data, mesh, **accepted):
    """Lists and dtype of a run, the same as in earlier runs and on all processes.

    See `list_texts` and `dtype_of_run`.
    """
    about = check_config(config, os.path.join(workdir, "checkpoints"))
    lists = list_texts(data)
    check_data(lists, data.class_names, about, workdir, **accepted)
    dtype = dtype_of_run(config, about, mesh.devices.flat)
    processes.check_same(
        dtype=dtype,
        configuration=shared_json(config),
        label_map="\n".join(data.class_names),
        train_list=lists["train"],
        val_list=lists["val"],
    )
    return lists, dtype


def _evaluator(config, data, graph, state, watchdog):
    evaluator = Evaluator(
        graph,
        multi_label=data.multi_label,
        max_views=config.eval.max_views_per_step,
        alive=watchdog.alive,
        should_stop=watchdog.stop_requested,
    )
    # Without this, a protocol that doesn't fit the model would fail after the last step.
    views = resolved_views(config).items()
    evaluator.check({n: v for n, v in views if n.startswith("protocols.")}, state.model)
    return evaluator


def _checkpoints(config, workdir, about, best, watchdog):
    checkpoints = Checkpoints(
        os.path.join(workdir, "checkpoints"),
        keep=config.train.keep,
        about=about,
        best=best,
        saved=partial(setattr, watchdog, "again", _RESUMES),
    )
    for text in checkpoints.set_aside:
        log(text)
    return checkpoints


def _first_state(config, graph, state, checkpoints, watchdog):
    """Resume if there is a checkpoint, else start from the weights that `init_from` names, if any.

    Returns:
        The number of steps taken, and the state.
    """
    first_step = checkpoints.latest_step() or 0
    watchdog.again = _RESUMES if first_step else _UNSURE
    if first_step:
        return first_step, restore(checkpoints, first_step, state)
    if config.init_from:
        watchdog.note(f"startup (reading {config.init_from})")
        state = _initial_weights(config, graph, state)
    return 0, state


def _step_fn(config, mesh, parts, graph, optimizer, state):
    return jit_train_step(
        mesh,
        sharding=state_sharding(state, mesh, config.train.shard_state),
        graph=graph,
        optimizer=optimizer,
        rate=parts.rate,
        seed=config.seed,
        accumulation=config.train.accumulation,
        loss=partial(classification_loss, **parts.loss_options),
        skip_not_finite=config.train.on_nan == "skip",
    )


def restore(checkpoints, step, state):
    """The state after `step`, with the structure and sharding of `state`."""
    (params, stats, fixed), opt_state = checkpoints.restore(step, state.model, state.opt_state)
    return TrainState(
        step=jnp.full_like(state.step, step),
        params=params,
        stats=stats,
        fixed=fixed,
        opt_state=opt_state,
    )


def _initial_weights(config, graph, state):
    """The state with the weights that `config.init_from` names."""
    taken = dict(backbone_only=not config.init_head)
    if not finding.is_stored(config.init_from):
        weights = initial_weights(config)
        state, unread = load_weights(graph, state, weights, reset_temporal_op=None, **taken)
        for line in unread:
            log(f"{config.init_from}: {line}")
        return state
    found = checkpoint.open_checkpoint(config.init_from)
    try:
        model, drawn = checkpoint.take_weights(state.model, found.weights(), **taken)
    except UserError as error:
        raise UserError(f"init_from={config.init_from}: {error}") from None
    log(f"weights from {found}")
    if drawn:
        hint = (
            "" if config.init_head else " (init_head=True loads neck and head as far as they fit)"
        )
        log(f"{len(drawn)} arrays start at random values, such as {drawn[0]}{hint}")
    params, stats, fixed = model
    return state.replace(params=params, stats=stats, fixed=fixed)


def initial_weights(config):
    """The weights that `config.init_from` names, `{name: array}`.

    Raises:
        UserError: the file is missing, or its hash differs from that in its name.
    """
    path = config.init_from
    wanted = config.init_url and config.init_url.rpartition("/")[2]
    if os.path.isdir(path):
        if wanted is None:
            raise UserError(
                f"init_from={path} is a folder, and the recipe names no file in it; name the file"
            )
        path = os.path.join(path, wanted)
    if not os.path.exists(path):
        started = f". The recipe's numbers started from {wanted}: {config.init_url}"
        raise UserError(f"init_from: there is no file {path}{started if wanted else ''}")
    convert.check_name(path)
    return convert.read_torch_file(path)


def describe_start(config):
    """Warnings on weights that are not given, where the recipe counts on them, or ""."""
    if config.init_from:
        return ""
    found = []
    if config.init_url:
        found.append(_published_start(config))
    if config.optim.backbone_rate != 1:
        found.append(
            "warning: the backbone starts from random weights, so it learns at the full rate: "
            f"optim.backbone_rate={config.optim.backbone_rate:g} has no effect without "
            "--config.init_from"
        )
    return "\n".join(found)


def _published_start(config):
    """A warning that the published numbers started from weights that are not given."""
    name = config.init_url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    frozen = [key for key in ("partial_bn", "frozen_stages") if config.model[key] is not None]
    trains = " and ".join(f"model.{key}" for key in frozen)
    return (
        f"warning: the published numbers started from {name}"
        + (f" (its SHA-256 begins with {digest[1]})" if digest else "")
        + f", and this run starts from random weights. Download {config.init_url} and add "
        f"--config.init_from=<its folder>"
        + (f". Without these weights nothing is frozen: {trains} has no effect" if frozen else "")
    )


def _precision(dtype, mesh, *, automatic):
    """The dtype of a run in words; `automatic`: whether the configuration leaves it open."""
    if not automatic:
        return dtype
    usual = compute_dtype(AUTO, mesh.devices.flat)
    if dtype == usual:
        return f"{dtype} (model.dtype=auto)"
    return (
        f"{dtype}, in which this run began, although model.dtype=auto is {usual} on these devices"
    )


def _log_start(reporter, config, data, parts, state, mesh, first_step, *, automatic):
    """Log what trains on what, and from which weights; `automatic`: see `_precision`."""
    count = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.fixed)))
    trained = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    device = mesh.devices.flat[0]
    origin = f"the weights of {config.init_from}" if config.init_from else "random weights"
    begin = f"resuming after step {first_step}" if first_step else f"starting from {origin}"
    name = "own data" if config.data.dataset == "frames" else config.data.dataset
    lines = [
        f"{config.model.name}: {count:,} parameters, {trained:,} of them trained, "
        f"compute in {_precision(config.model.dtype, mesh, automatic=automatic)}",
        f"{name} ({data.files.source}): {len(data.train_records):,} training and "
        f"{len(data.val_records):,} validation videos of {len(data.class_names)} classes, "
        f"{data.num_threads} decoding threads",
        f"{mesh.size} x {device.device_kind}: {config.train.batch} clips per step; {begin}, "
        f"{parts.num_steps:,} steps in all",
    ]
    if config.optim.scale_lr:
        lr = optim.scaled_lr(config.optim, config.train.batch)
        lines.append(
            f"learning rate {lr:g}: {config.optim.lr:g} for a batch of {config.optim.base_batch}, "
            f"scaled to {config.train.batch}"
        )
    if config.data.train.flip_rate:
        lines.append(data.describe_flip(config.data.train))
    reporter.log("\n".join(lines))
    if not first_step and (warning := describe_start(config)):
        reporter.log(warning)


def advice(files):
    """What to log if the devices wait for the data of a `Dataset`, or ""."""
    if files.source != "videos":
        return ""
    frames = os.path.join(os.path.dirname(files.train_list), "rawframes")
    return (
        "the devices wait for videos to be decoded; folders of frames take a tenth of the "
        f"processor time: trn-jax extract {files.frames} --to={frames}"
    )
