"""The working directory: which run it belongs to, and what a run writes down about itself."""

import json
import os
import platform

import jax
import numpy as np

from trn_jax import __version__
from trn_jax.errors import UserError
from trn_jax.files import write_text
from trn_jax.recipe import flat, from_dict, to_json

# Parts of the configuration that a resumed run may change: they do not touch the parameters of a
# run that goes well, but for rounding.
_FREE_KEYS = (
    "data_dir",
    "data.max_pixels",
    "data.num_threads",
    "data.num_workers",
    "data.on_error",
    "data.val",
    "eval",
    "model.remat",
    "protocols",
    "published",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep",
    "train.log_every",
    "train.on_nan",
    "train.shard_state",
    "train.step_timeout",
    "train.steps",
)


def check_workdir(config, workdir):
    """Create `workdir`, or check that it holds a run of the same configuration.

    A run that ended before its first checkpoint leaves nothing to go on from, and no claim.

    Raises:
        UserError: it cannot be written to, or belongs to another configuration.
    """
    try:
        os.makedirs(workdir, exist_ok=True)
        probe = os.path.join(workdir, f".probe-{jax.process_index()}-{os.getpid()}")
        with open(probe, "w"):
            pass
        os.remove(probe)
    except OSError as error:
        raise UserError(
            f"cannot write to the working directory {workdir}: {error.strerror}; "
            "choose another --workdir"
        ) from None
    path = os.path.join(workdir, "config.json")
    checkpoints = os.path.join(workdir, "checkpoints")
    if not os.path.exists(path) or not os.path.isdir(checkpoints) or not os.listdir(checkpoints):
        return
    try:
        with open(path) as file:
            before = flat(json.loads(to_json(from_dict(json.load(file)))))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path}, the configuration of the run in {workdir}, cannot be read ({error}); if it "
            "is the run that you want to go on with, delete that file, and it is written again"
        ) from None
    now = flat(json.loads(to_json(config)))
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _FREE_KEYS)
    ]
    if changed:
        raise UserError(
            f"{workdir} belongs to a run of another configuration; choose another --workdir, or "
            "go back to the old values:\n  " + "\n  ".join(changed)
        )


def describe_workdir(config, workdir, class_names):
    """Write down what is run, and where: `config.json`, `environment.json`, `classes.txt`."""
    if jax.process_index():
        return
    write_text(os.path.join(workdir, "config.json"), to_json(config) + "\n")
    names = "".join(f"{name}\n" for name in class_names)
    write_text(os.path.join(workdir, "classes.txt"), names)
    environment = {
        "trn_jax": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "hosts": jax.process_count(),
    }
    path = os.path.join(workdir, "environment.json")
    write_text(path, json.dumps(environment, indent=1) + "\n")
