"""Orbax checkpoints: the exact training state, and self-describing models.

`<directory>/<step>/` is written atomically and holds the items `model` (parameters and statistics),
`optimizer` (momentum) and `about` (configuration, class names, version) with checksums of their
files; `metrics.json` is added after the evaluation. The step is also the data position, because a
batch is a function of its number.

Arrays are stored under their path in the model, such as `backbone.layer1.0.conv1.kernel`.

Corrupt checkpoints are never loaded: training renames them to `<step>.damaged` and resumes from the
previous one. Checkpoints written before there were checksums are loaded unchecked.
"""

import contextlib
import logging
import math
import os
import pathlib
import tempfile

import jax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import checkpoint_managers as policies

from trn_jax import __version__
from trn_jax.backbones.mobileone import reparameterize
from trn_jax.checkpoints import checksums, integrity
from trn_jax.distributed.sharding import make_mesh, replicated
from trn_jax.errors import UserError, first_line, listed
from trn_jax.files import reading, sync, sync_folder
from trn_jax.models import create_model

_ORBAX_METADATA = "_CHECKPOINT_METADATA"  # unused here, and rewritten after the checksums


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
        self._about = about | _origin()
        self._saving = None
        self._saved = saved
        self._keep = keep
        self._best = _Best(self.directory, best)
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
            model=ocp.args.StandardSave(_merged(model)),
            optimizer=ocp.args.StandardSave(named(optimizer)),
            about=ocp.args.JsonSave(self._about | {"step": step}),
        )
        self.wait()  # also raises errors of the previous save
        with self._explained():
            self._saving = step
            self._manager.save(step, args=items, force=True)

    def _complete(self):
        (folder,) = self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        checksums.write(folder, ignored=[_ORBAX_METADATA])
        # Once renamed, the checkpoint counts and older ones are deleted, so it must be on disk.
        sync_folder(folder)
        self._saved()

    def metrics(self, step):
        """Validation metrics of a checkpoint, a dict; empty if it was not evaluated."""
        return integrity.read_json(self.directory / str(step))["metrics"]

    def add_metrics(self, step, metrics):
        """Store the validation metrics of a checkpoint once it is on disk.

        If it becomes the best one, the previous best is deleted unless it is among the latest.

        Raises:
            UserError: the checkpoint or the metrics could not be written.
        """
        self.wait()
        if jax.process_index() == 0:
            integrity.write_metrics(self.directory / str(step), metrics)
        self._best.learn(step, metrics)
        steps = sorted(self._manager.all_steps())
        best = self._best.of(steps)
        for old in steps[: -self._keep]:
            if old != best:
                self._manager.delete(old)

    def restore(self, step, model, optimizer):
        """Load a checkpoint with the structure and sharding of `model` and `optimizer`."""
        directory = self.directory / str(step)
        values = _read(directory, "model", _merged(model))
        momentum = _read(directory, "optimizer", named(optimizer))
        return tuple(_filled(state, values) for state in model), _filled(optimizer, momentum)

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
                f"{first_line(error)}; {left}. Make room or mend the disk, then "
                "run the same command again to go on from there"
            ) from error


class _Best(policies.PreservationPolicy):
    """Preserves the checkpoint with the highest metric, the newest of equals.

    Orbax's own policy needs the metrics at save time; here they are known only later.
    """

    def __init__(self, directory, metric):
        self._directory = directory
        self._metric = metric
        self._values: dict[int, float] = {}

    def should_preserve(self, checkpoints, *, context):
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

    def learn(self, step, metrics):
        """Record the metrics of a checkpoint."""
        if self._metric in metrics:
            self._values[step] = metrics[self._metric]

    def _value(self, step):
        if step not in self._values:
            # It may still be written, or corrupt.
            with contextlib.suppress(Exception):
                self.learn(step, integrity.read_json(self._directory / str(step))["metrics"])
        return self._values.get(step, -math.inf)


def _origin():
    return {"version": __version__, "checksums": checksums.NAME}


def named(tree):
    """A pytree as a flat dict of its leaves, `{"backbone.conv1.kernel": array, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        _name(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    }


def _name(path):
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _merged(states):
    return {name: leaf for state in states for name, leaf in named(state).items()}


def _filled(tree, values):
    return jax.tree_util.tree_map_with_path(lambda path, _: values[_name(path)], tree)


def _read(directory, item, target):
    """Read one item of a checkpoint as the arrays `target` asks for."""
    handler = ocp.StandardCheckpointHandler()
    with _without_warnings(), ocp.Checkpointer(handler) as checkpointer:
        try:
            stored = checkpointer.metadata(directory / item).item_metadata.tree
        except Exception as error:
            raise UserError(
                f"{directory} is not a checkpoint of trn_jax: {first_line(error)}"
            ) from None
        problems = [f"missing {name}" for name in target if name not in stored]
        problems += [f"unexpected {name}" for name in stored if name not in target]
        problems += [
            f"{name} has shape {tuple(stored[name].shape)}, expected {tuple(leaf.shape)}"
            for name, leaf in target.items()
            if name in stored and tuple(stored[name].shape) != tuple(leaf.shape)
        ]
        if problems:
            raise UserError(
                f"the checkpoint {directory} is one of another model, {len(problems)} problems:"
                f"{listed(problems)}"
            )
        try:
            return checkpointer.restore(directory / item, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise UserError(
                f"the checkpoint {directory} cannot be read: {first_line(error)}; it may be "
                "damaged. Move it elsewhere and take the one before"
            ) from error


@contextlib.contextmanager
def _without_warnings():
    """Keep Orbax from warning that items have no metadata of their own; those of a step serve."""
    logger = logging.getLogger("absl")

    def is_news(record):
        return "Metadata file does not exist" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def save_model(directory, model, about, *, check=None):
    """Write a model that was not trained here as a checkpoint that describes itself.

    Args:
        directory: folder to create.
        model: a `Recognizer`.
        about: a dict that JSON can hold, with `config` and `class_names`, as `read_about` gives it.
        check: function of the folder of the checkpoint, called when everything is written, but
            before it is called `directory`. If it raises, nothing is left.

    Returns:
        What `check` returned.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    directory = pathlib.Path(directory).absolute()
    if directory.exists():
        raise UserError(f"{directory} exists; choose a folder that does not")
    values = named(nnx.as_pure(nnx.state(model)))
    about = about | _origin() | {"step": 0}
    items = dict(model=ocp.args.StandardSave(values), about=ocp.args.JsonSave(about))
    with contextlib.ExitStack() as stack:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent)
            unnamed = pathlib.Path(stack.enter_context(folder)) / directory.name
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                checkpointer.save(unnamed, args=ocp.args.Composite(**items))
            checksums.write(unnamed, ignored=[_ORBAX_METADATA])
            sync_folder(unnamed)
        except OSError as error:
            raise UserError(f"cannot write {directory}: {error}") from None
        checked = None if check is None else check(unnamed)
        unnamed.rename(directory)
    return checked


def find(path):
    """The folder of a checkpoint.

    Args:
        path: the folder itself; a working directory or its `checkpoints`, which stand for the
            newest one; or one of these with `@best` (by the metrics of its evaluation) or `@<step>`
            behind it. The newest one may be damaged (see `integrity.check`): another one is never
            taken in its place unasked.

    Raises:
        UserError: there is none.
    """
    path = os.path.abspath(path)
    directory, at, wanted = path.rpartition("@")
    if not at or os.path.exists(path):
        directory, wanted = path, ""
    if not wanted and _is_checkpoint(pathlib.Path(directory)):
        return pathlib.Path(directory)
    found = _stored_steps(pathlib.Path(directory))
    if not found:
        raise UserError(
            f"no checkpoint in {directory}; give a working directory of a training, or one of the "
            "folders in its checkpoints/"
        )
    if not wanted:
        return found[max(found)]
    if wanted == "best":
        best = find_best(found[max(found)].parent)
        if best is None:
            raise UserError(
                f"no checkpoint in {directory} has been evaluated, so none is the best; there are "
                f"{_listed_steps(found)}"
            )
        return found[best]
    if not wanted.isdecimal() or int(wanted) not in found:
        raise UserError(
            f"{directory} has no checkpoint @{wanted}; there are {_listed_steps(found)} and @best"
        )
    return found[int(wanted)]


def _stored_steps(path):
    """The checkpoints of a working directory or of its `checkpoints`: `{step: folder}`."""
    for candidate in (path, path / "checkpoints"):
        found = {
            step: candidate / str(step)
            for step in integrity.steps(candidate)
            if candidate.name == "checkpoints" or _is_checkpoint(candidate / str(step))
        }
        if found:
            return found
    return {}


def _listed_steps(found):
    return ", ".join(f"@{step}" for step in sorted(found))


def find_best(directory):
    """Step of the best checkpoint in `directory` by their evaluations, or `None`."""
    steps = integrity.steps(directory)
    for metric in ("map", "top1"):  # lists with several labels per video have no top-1
        best = _Best(directory, metric).of(steps)
        if best is not None:
            return best
    return None


def describe(directory):
    """A checkpoint with its place among those of a training, such as "..., the newest"."""
    name = directory.name
    if directory.parent.name != "checkpoints" or not name.isdecimal():
        return str(directory)
    best = find_best(directory.parent)
    kinds = ["the newest"] * (int(name) == max(integrity.steps(directory.parent)))
    kinds += ["the best"] * (int(name) == best)
    other = f"; the best is that of step {best}, @best" if best not in (None, int(name)) else ""
    return f"{directory}, {' and '.join(kinds) or 'neither the newest nor the best'}{other}"


def _is_checkpoint(folder):
    """Whether a folder is a checkpoint, or what is left of one."""
    return any((folder / name).exists() for name in ("about", checksums.NAME, _ORBAX_METADATA))


def read_about(directory):
    """What a checkpoint says: `config`, `class_names`, `step`, `metrics`, `version`.

    Raises:
        UserError: it is damaged.
    """
    integrity.check(directory, ())
    return integrity.read_json(directory)


def load_model(path, *, mesh=None, **overrides):
    """Rebuild the model of a checkpoint, on any number of devices.

    Args:
        path: a checkpoint, or a working directory (its newest checkpoint).
        mesh: where the parameters go, replicated; by default all devices.
        **overrides: arguments of `create_model` that replace those of the checkpoint's
            configuration, such as `eval_relations` or `dtype`. `deploy=True` fuses the branches of
            a trained MobileOne, see `reparameterize`.

    Returns:
        The `Recognizer` and what the checkpoint says about itself (see `read_about`).

    Raises:
        UserError: there is no checkpoint, it is damaged, or it does not fit its own description.
    """
    directory = find(path)
    integrity.check(directory, ("model",))
    about = integrity.read_json(directory)
    with reading(directory, "a checkpoint of a model"):
        stored = about["config"]["model"]
        options = stored | overrides
        fuse = bool(options.get("deploy")) and not stored.get("deploy")
        options |= {"deploy": None} if fuse else {}
        model = nnx.eval_shape(lambda: create_model(**options))
    graph, state = nnx.split(model)
    sharding = replicated(make_mesh() if mesh is None else mesh)
    target = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        for name, leaf in named(nnx.as_pure(state)).items()
    }
    values = _read(directory, "model", target)
    model = nnx.merge(graph, _filled(nnx.as_pure(state), values))
    return reparameterize(model) if fuse else model, about


def is_stored(path):
    """Whether a path names checkpoints, perhaps with `@best` or `@<step>`, see `find`."""
    path = os.path.abspath(path)
    if not os.path.exists(path):
        path = path.rpartition("@")[0]
    folder = pathlib.Path(path)
    return _is_checkpoint(folder) or bool(_stored_steps(folder))


def read_weights(directory):
    """The parameters and statistics of a checkpoint, as host arrays `{name: array}`.

    Raises:
        UserError: it is damaged.
    """
    model, _ = load_model(directory)
    return jax.device_get(named(nnx.as_pure(nnx.state(model))))


def take_weights(trees, values, *, backbone_only):
    """Fill the states of a model with the weights of a checkpoint as far as they fit.

    Args:
        trees: nested dictionaries of arrays by the names that the model has for them.
        values: `{name: array}` of the whole model, see `read_weights`.
        backbone_only: leave neck and head as they are.

    Returns:
        The new trees, placed as the old ones, and the names of what was left as it was: of neck and
        head, what the checkpoint lacks or has in another shape, such as a classifier of other
        classes; and a temporal op that the checkpoint does not have.

    Raises:
        UserError: the backbone is another one.
    """
    problems, drawn = [], []

    def choose(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        found = values.get(name)
        in_backbone = name.startswith("backbone.")
        if found is not None and found.shape == leaf.shape and (in_backbone or not backbone_only):
            return jax.device_put(found.astype(leaf.dtype), leaf.sharding)
        if in_backbone and (found is not None or ".temporal_op." not in name):
            has = "is missing" if found is None else f"has shape {found.shape}"
            problems.append(f"{name} {has}, expected {leaf.shape}")
        drawn.append(name)
        return leaf

    trees = tuple(jax.tree_util.tree_map_with_path(choose, tree) for tree in trees)
    if problems:
        raise UserError(f"it has another backbone, {len(problems)} differences:{listed(problems)}")
    return trees, drawn
