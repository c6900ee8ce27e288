"""Trains a head on a frozen backbone, and writes an ordinary checkpoint."""

import contextlib
import dataclasses
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax import build, checks
from trn_jax.checkpoints import arrays, checksums, integrity
from trn_jax.checkpoints.manager import Checkpoints
from trn_jax.data.views import View
from trn_jax.distributed.run_lock import hold
from trn_jax.errors import UserError
from trn_jax.evaluation.scoring import ClipScorer
from trn_jax.nn.precision import compute_dtype
from trn_jax.probing.head import HeadTraining
from trn_jax.probing.passes import Backbone, training_features, validation_features
from trn_jax.settings import resolved_views
from trn_jax.training.logs import Reporter
from trn_jax.training.workdir import describe_run, describe_workdir, list_texts


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        step: steps of the head.
        metrics: of the last checkpoint on the validation list.
        best_step: that of the best checkpoint.
        best_metrics: its metrics.
        messages: about videos that could not be read or have lost frames, each once.
    """

    step: int
    metrics: dict
    best_step: int
    best_metrics: dict
    messages: list


def probe(config, opened, workdir, *, passes=1):
    """Train a head on the features of a checkpoint.

    `<workdir>/features` keeps the features, so the same command resumes, and other settings of the
    head or more passes reuse them; then the head is trained anew, and replaces the earlier one.
    `<workdir>/checkpoints` has the whole model with the last and the best head.

    Args:
        config: see `settings.probe_config`; `model.num_classes` is filled in.
        opened: the `Checkpoint` with the backbone.
        workdir: belongs to one run at a time.
        passes: passes over the training videos, each with other crops, frames and flips.

    Returns:
        The `ProbeResult`.

    Raises:
        UserError: configuration, checkpoint, data or working directory don't fit each other.
        PassingError: another run holds the working directory.
    """
    checks.check(config)
    with contextlib.ExitStack() as stack:
        data, parts = build.training(config, workdir)
        stack.callback(data.close)
        stack.enter_context(hold(workdir))
        checkpoints = os.path.join(workdir, "checkpoints")
        _check_workdir(checkpoints)
        setting = config.to_dict()
        config.model.dtype = compute_dtype(config.model.dtype)
        model = opened.load(dtype=config.model.dtype)
        _check_model(config, model, opened, parts)
        kept = arrays.named(nnx.as_pure(nnx.state(model)))
        checksum = checksums.of_folder(pathlib.Path(opened.directory))
        cached, validation = _features(model, config, data, workdir, checksum, passes)
        del model
        reporter = Reporter(workdir, first_step=0, last_step=parts.num_steps, active=True)
        stack.callback(reporter.close)
        last, best = HeadTraining(config, data, parts, cached, validation, reporter).run()
        lists = list_texts(data)
        about = describe_run(setting, data, lists, dtype=config.model.dtype)
        describe_workdir(workdir, about, lists)
        about["probe"] = {"checkpoint": opened.path, "checksum": checksum, "passes": passes}
        _save(checkpoints, parts, kept, about, last, best, best_by=data.best_metric)
    messages = [message for cache in (*cached, validation) for message in cache.messages()]
    return ProbeResult(
        last.step, last.metrics, best.step, best.metrics, list(dict.fromkeys(messages))
    )


def _features(model, config, data, workdir, checksum, passes):
    """The caches of the features of the passes, a list, and of the validation videos."""
    backbone = Backbone(
        model,
        max_views=config.eval.max_views_per_step,
        num_segments=config.model.num_segments,
        checksum=checksum,
        size=resolved_views(config)["data.val"].crop_size,
    )
    folder = os.path.join(workdir, "features")
    cached = training_features(backbone, config, data, folder, passes)
    return cached, validation_features(backbone, config, data, folder)


def _check_workdir(checkpoints):
    """Check that checkpoints in the working directory may be replaced: a probe wrote them."""
    about = integrity.newest_about(pathlib.Path(checkpoints))
    if about and "probe" not in about:
        raise UserError(
            f"{checkpoints} belongs to a training, not to a probe; choose another --workdir"
        )


def _check_model(config, model, opened, parts):
    """Check that the backbone takes the clips of all views, and the head its features."""
    found, wanted = model.num_segments, config.model.num_segments
    if found is not None and found != wanted:
        raise UserError(
            f"model.num_segments={wanted}, but the backbone of {opened.directory} exchanges "
            f"features among the {found} frames of a clip; leave it at {found}"
        )
    graph, *states = nnx.split(nnx.eval_shape(parts.make_model))
    views = resolved_views(config)
    fixed = {name: view for name, view in views.items() if name != "data.train"}
    ClipScorer(graph, max_views=1).check(fixed, tuple(nnx.as_pure(tuple(states))))
    # The training view has as many segments, see `checks.check`, but a crop of its own.
    View(**views["data.train"])


def _save(directory, parts, kept, about, last, best, *, best_by):
    """Write the whole model with the last and the best head, in place of earlier ones."""
    shutil.rmtree(directory, ignore_errors=True)
    _, state = nnx.split(nnx.eval_shape(parts.make_model))
    tree = nnx.as_pure(state)
    manager = Checkpoints(directory, keep=1, about=about, best=best_by)
    try:
        for each in sorted({best.step: best, last.step: last}.values(), key=lambda e: e.step):
            head = {name: jnp.asarray(v) for name, v in _named(each.model).items()}
            model = arrays.filled(tree, kept | head | _auxiliary(tree, kept))
            manager.save(each.step, (model,), jax.tree.map(jnp.asarray, each.opt_state))
            manager.add_metrics(each.step, each.metrics)
    finally:
        manager.close()


def _auxiliary(tree, kept):
    """Zeros for an auxiliary classifier that had other classes; only training uses it."""
    return {
        name: jnp.zeros(leaf.shape, leaf.dtype)
        for name, leaf in arrays.named(tree).items()
        if name.startswith("neck.auxiliary.") and kept[name].shape != leaf.shape
    }


def _named(states):
    """The arrays of a head by their names in the model, such as `head.fc.kernel`."""
    return {
        arrays.name_of(path): leaf
        for state in states
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }
