"""Writes checkpoints as hub folders, and uploads them to the Hugging Face hub."""

import dataclasses
import math
import os
import pathlib
import tempfile

import flax
import jax
from flax import nnx

from trn_jax import __version__
from trn_jax.checkpoints import arrays, calibration_file, checksums, hub, hub_folder
from trn_jax.distributed.sharding import make_mesh
from trn_jax.errors import UserError, escaped
from trn_jax.export import model_card
from trn_jax.export.measured import measured
from trn_jax.files import as_text, new_folder
from trn_jax.loading import info_of
from trn_jax.prediction.contract import contract_of

_MESSAGE = "Upload a checkpoint of trn_jax"


@dataclasses.dataclass(frozen=True)
class Pushed:
    """What was uploaded.

    Attributes:
        address: `hf:<user>/<name>@<commit>`, which `load_model` takes.
        url: the page of the model.
        license: of the model; `None` if it has none.
    """

    address: str
    url: str
    license: str | None


def write(opened, directory, *, license=None, address=None):
    """Write a checkpoint as a hub folder, and read it back.

    Args:
        opened: a `checkpoints.checkpoint.Checkpoint`.
        directory: folder to create.
        license: of the model, such as "Apache-2.0"; by default that of the checkpoint.
        address: of the model on the hub, for the commands in the model card.

    Returns:
        The license; `None` if there is none.

    Raises:
        UserError: the checkpoint is corrupt, or the folder exists or can't be written.
    """
    model = opened.load(mesh=make_mesh(jax.devices()[:1]))
    values = jax.device_get(arrays.named(nnx.as_pure(nnx.state(model))))
    content = description(opened, model, license)
    name = escaped(pathlib.Path(directory).absolute().name)
    card = model_card.text(content, address or f"{hub.PREFIX}<user>/{name}")
    with new_folder(directory) as folder:
        folder.mkdir()
        hub_folder.write(folder, values, content, card)
        hub_folder.check_written(folder, values)
    return content["license"]


def description(opened, model, license=None):
    """What `config.json` of a hub folder has, see `checkpoints.hub_folder`.

    Args:
        opened: the `Checkpoint`.
        model: its `Recognizer`.
        license: see `write`.

    Returns:
        A dict that JSON in UTF-8 can hold. It names no path of this machine.
    """
    return _encodable(_description(opened, model, license))


def _encodable(value):
    """A nested value whose texts are UTF-8; names of files and classes may have other bytes."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list | tuple) else value


def _description(opened, model, license):
    info, about = info_of(opened), opened.info
    config = _without_paths(info.config)
    options = {key: value for key, value in config["model"].items() if value is not None}
    name, num_classes = options.pop("name"), options.pop("num_classes", None)
    calibration = info.calibration
    return {
        "architecture": name,
        "options": options,
        "num_classes": num_classes,
        "class_names": list(info.class_names),
        "multi_label": bool(config["data"].get("multi_label")),
        "merge_views": model.merge_views,
        "preprocessing": {
            "colors": "RGB",
            "range": [0, 255],
            "mean": list(model.mean),
            "std": list(model.std),
            "inside_the_model": True,
        },
        "contract": _contract(info),
        "calibration": calibration and calibration.to_dict(),
        "metrics": _finite(info.metrics),
        "results": measured(opened),
        "license": license or about.get("license"),
        "source": _without_paths(info.source),
        "lists": about.get("lists") or {},
        "checkpoint": {
            "step": info.step,
            "dtype": about.get("dtype"),
            "checksum": checksums.of_folder(opened.directory),
            "version": about.get("version"),
        },
        "versions": {"trn_jax": __version__, "jax": jax.__version__, "flax": flax.__version__},
        "config": config,
    }


def _contract(info):
    """The sampling contract; without protocols only the lengths of training examples."""
    if info.views:
        return contract_of(info).to_dict()
    return {"protocol": None, "view": None, **info.sampling}


def _finite(metrics):
    """Metrics, with `None` for what JSON has no numbers for."""
    found = dict(metrics)
    for name, value in metrics.items():
        found[name] = value if value is not None and math.isfinite(value) else None
    return found


def _without_paths(values):
    """Nested dicts without the places of files on this machine; their names stay."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = _without_paths(value)
        elif isinstance(value, str) and (os.path.isabs(value) or value.startswith("~")):
            # A folder of data by its name alone would be looked for in the wrong place.
            value = None if key == "data_dir" else os.path.basename(value.rstrip("/"))
        found[key] = value
    return found


def push(opened, address, *, private=False, license=None, message=None):
    """Upload a checkpoint to the Hugging Face hub, as one commit.

    Args:
        opened: a `checkpoints.checkpoint.Checkpoint`.
        address: `hf:<user>/<name>`; the repository is made if there is none.
        private: make a repository that only its owner can read.
        license: see `write`.
        message: of the commit.

    Returns:
        What was `Pushed`.

    Raises:
        UserError: the address is wrong, access is refused, or the hub can't be reached.
    """
    name = hub.check_target(address)
    library = hub.client()
    api = library.HfApi()
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / name.rpartition("/")[2]
        license = write(opened, folder, license=license, address=address)
        try:
            with hub.explained(address):
                page = api.create_repo(name, private=private or None, exist_ok=True)
                info = api.model_info(name)
                if private and not info.private:
                    raise UserError(
                        f"{address} exists and is public; make it private in its settings, choose "
                        "another name, or leave --private out"
                    )
                commit = api.create_commit(
                    name,
                    _operations(library, folder, {each.rfilename for each in info.siblings or ()}),
                    commit_message=message or _MESSAGE,
                )
        except ConnectionError as error:
            raise UserError(f"{address} can't be uploaded: {error}; try it again later") from error
    return Pushed(f"{address}@{commit.oid}", str(page), license)


def _operations(library, folder, present):
    """The files to add, and of those that are present one to delete.

    A calibration beside `config.json` counts more than the one inside, and is of other weights.
    """
    found = [library.CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]
    stale = calibration_file.NAME
    return found + ([library.CommitOperationDelete(stale)] if stale in present else [])
