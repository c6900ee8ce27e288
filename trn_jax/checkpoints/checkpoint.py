"""Opens and loads a checkpoint; writes one from a model that was not trained here.

`<directory>/<step>/` is written atomically and holds the items `model` (parameters and statistics),
`optimizer` (momentum) and `about` (configuration, class names, version) with checksums of their
files; `metrics.json` and `calibration.json` are added after the evaluation. The step is also the
data position, because a batch is a function of its number. A `hub_folder` is a checkpoint, too, and
so is `hf:<user>/<name>`, one on the Hugging Face hub.

Corrupt checkpoints are never loaded: training renames them to `<step>.damaged` and resumes from the
previous one. Checkpoints written before there were checksums are loaded unchecked.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from functools import partial

import jax
import orbax.checkpoint as ocp
from flax import nnx

from trn_jax.backbones.mobileone import reparameterize
from trn_jax.checkpoints import (
    arrays,
    calibration_file,
    checksums,
    hub,
    hub_folder,
    integrity,
)
from trn_jax.checkpoints.finding import find, find_best
from trn_jax.distributed.processes import log
from trn_jax.distributed.sharding import make_mesh, replicated
from trn_jax.errors import UserError, listed
from trn_jax.files import new_folder, reading
from trn_jax.models import create_model
from trn_jax.nn.precision import compute_dtype
from trn_jax.settings import from_dict

# Parts of a backbone that its pretrained form may lack.
_ADDED = (".temporal_op.", ".non_local.")


@dataclasses.dataclass(frozen=True)
class Storage:
    """A form in which checkpoints are stored: functions of the folder.

    Attributes:
        is_one: whether it is one, or what is left of one.
        require_intact: of the folder and items, see `integrity.require_intact`.
        read_json: see `integrity.read_json`.
        read_model: of the folder and what `arrays.read` takes as `target`.
    """

    is_one: Callable
    require_intact: Callable
    read_json: Callable
    read_model: Callable


_ORBAX = Storage(
    integrity.is_one, integrity.require_intact, integrity.read_json, partial(arrays.read, "model")
)
_HUB_FOLDER = Storage(
    hub_folder.is_one, hub_folder.require_intact, hub_folder.read_json, hub_folder.read_model
)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose metadata is intact.

    Attributes:
        directory: its folder.
        info: `config`, `class_names`, `step`, `metrics` and `version`; of a training also `dtype`,
            `lists` and `sampling`, of converted or downloaded ones `source`.
        path: what opens the same checkpoint again: its folder, or its address on the hub with the
            commit.
        storage: its form.
    """

    directory: pathlib.Path
    info: dict
    path: str
    storage: Storage

    def load(self, *, mesh=None, **overrides):
        """Rebuild the model, on any number of devices.

        Args:
            mesh: where the parameters go, replicated; by default all devices.
            **overrides: arguments of `create_model` that replace those of the configuration, such
                as `eval_relations` or `dtype`. `deploy=True` fuses the branches of a trained
                MobileOne, see `reparameterize`.

        Returns:
            The `Recognizer`.

        Raises:
            UserError: the weights are corrupt, or don't fit the configuration.
        """
        self.storage.require_intact(self.directory, ("model",))
        with reading(self.directory, "a checkpoint of a model"):
            stored = self.info["config"]["model"]
            mesh = make_mesh() if mesh is None else mesh
            options = stored | overrides
            options["dtype"] = compute_dtype(options.get("dtype", "float32"), mesh.devices.flat)
            fuse = bool(options.get("deploy")) and not stored.get("deploy")
            options |= {"deploy": None} if fuse else {}
            model = nnx.eval_shape(lambda: create_model(**options))
        graph, state = nnx.split(model)
        sharding = replicated(mesh)
        target = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            for name, leaf in arrays.named(nnx.as_pure(state)).items()
        }
        values = self.storage.read_model(self.directory, target)
        model = nnx.merge(graph, arrays.filled(nnx.as_pure(state), values))
        return reparameterize(model) if fuse else model

    @property
    def class_names(self):
        """Names of its outputs, a tuple; `class <number>` where they are unknown."""
        found = self.info["class_names"]
        return tuple(found or class_numbers(self.info["config"]["model"].get("num_classes") or 0))

    def calibration(self):
        """Its `calibration_file.Calibration`; `None` if it has none, or a corrupt one (logged)."""
        try:
            found = calibration_file.read(self.directory, self.class_names)
            if found is None and self.info.get("calibration") is not None:
                found = calibration_file.from_dict(self.info["calibration"], self.class_names)
            several = from_dict(self.info["config"]).data.multi_label
            if found and found.multi_label != several:
                raise UserError(f"its multi_label={found.multi_label}, but the model's {several}")
            return found
        except UserError as error:
            log(f"the calibration is ignored: {error}; `trn-jax calibrate` makes it again")
            return None

    def weights(self):
        """Parameters and statistics as host arrays, `{name: array}`; see `load` for errors."""
        return jax.device_get(arrays.named(nnx.as_pure(nnx.state(self.load()))))

    def __str__(self):
        """Its place among those of the training, such as "runs/a/checkpoints/20, the newest"."""
        if hub.is_address(self.path):
            return self.path
        directory, name = self.directory, self.directory.name
        if directory.parent.name != "checkpoints" or not name.isdecimal():
            return str(directory)
        best = find_best(directory.parent)
        kinds = ["the newest"] * (int(name) == max(integrity.steps(directory.parent)))
        kinds += ["the best"] * (int(name) == best)
        other = f"; the best is that of step {best}, @best" if best not in (None, int(name)) else ""
        return f"{directory}, {' and '.join(kinds) or 'neither the newest nor the best'}{other}"


def class_numbers(count):
    """Names of the outputs of a model whose classes have none, a list."""
    return [f"class {number}" for number in range(count)]


def open_checkpoint(path):
    """Open a checkpoint; see `finding.find` for `path`.

    Raises:
        UserError: there is none, or it is corrupt.
    """
    if hub.is_address(path):
        directory, address = hub.download(path)
    else:
        directory, address = find(path), ""
    storage = _storage_of(directory)
    storage.require_intact(directory, ())
    info = storage.read_json(directory)
    if address:
        info["source"] = info["source"] | {"hub": address}
    return Checkpoint(directory, info, address or str(directory), storage)


def _storage_of(folder):
    """The form of the checkpoint in a folder."""
    return _HUB_FOLDER if hub_folder.is_one(folder) else _ORBAX


def take_weights(trees, values, *, backbone_only):
    """Fill the states of a model with the weights of a checkpoint as far as they fit.

    Args:
        trees: nested dictionaries of arrays, with the names of the model.
        values: `{name: array}` of the whole model, see `Checkpoint.weights`.
        backbone_only: leave neck and head as they are.

    Returns:
        The new trees, sharded as the old ones, and the names of the arrays that were left
        unchanged: those of neck and head that the checkpoint lacks or has in another shape, such as
        a classifier of other classes; and a temporal op or non-local blocks that it lacks.

    Raises:
        UserError: the backbone differs.
    """
    problems, drawn = [], []

    def choose(path, leaf):
        name = arrays.name_of(path)
        found = values.get(name)
        in_backbone = name.startswith("backbone.")
        if found is not None and found.shape == leaf.shape and (in_backbone or not backbone_only):
            return jax.device_put(found.astype(leaf.dtype), leaf.sharding)
        if in_backbone and (found is not None or not any(part in name for part in _ADDED)):
            has = "is missing" if found is None else f"has shape {found.shape}"
            problems.append(f"{name} {has}, expected {leaf.shape}")
        drawn.append(name)
        return leaf

    trees = tuple(jax.tree_util.tree_map_with_path(choose, tree) for tree in trees)
    if problems:
        raise UserError(f"another backbone: {len(problems)} problems:{listed(problems)}")
    return trees, drawn


def save_model(directory, model, about, *, check=None):
    """Write a model that was not trained here as a checkpoint.

    Args:
        directory: folder to create.
        model: a `Recognizer`.
        about: a dict that JSON can hold, with `config` and `class_names`, see `Checkpoint.info`.
        check: function of the folder of the checkpoint, called when everything is written, but
            before it gets its name. If it raises, nothing is left.

    Returns:
        What `check` returned.

    Raises:
        UserError: the folder exists, or cannot be written.
    """
    values = arrays.named(nnx.as_pure(nnx.state(model)))
    about = about | integrity.origin() | {"step": 0}
    items = dict(model=ocp.args.StandardSave(values), about=ocp.args.JsonSave(about))
    with new_folder(directory) as unnamed:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(unnamed, args=ocp.args.Composite(**items))
        checksums.write(unnamed, ignored=[integrity.ORBAX_METADATA])
        return None if check is None else check(unnamed)
