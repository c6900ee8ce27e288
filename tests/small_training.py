"""A training of seconds: its data, the command that people type, and what it leaves behind.

The command starts several processes of this machine; `tests/test_main.py` has one for a single one.
"""

import json
import os
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp
import simplejpeg

from trn_jax.checkpoints import finding

REPOSITORY = pathlib.Path(__file__).parent.parent
RECIPE = """
from trn_jax.config import base, view


def get_config():
    config = base(dataset="frames", model="trn_resnet10", num_classes=4)
    config.model.update(width=2, num_segments=3, norm_group=2, dtype="float64")
    frames = dict(num_segments=3, short_side=16, crop_size=16)
    config.data.train.update(frames, flip_rate=0.5)
    config.data.val.update(frames)
    config.data.num_threads = 2
    config.train.update(batch=32, epochs=9.0, steps=5)
    config.train.update(log_every=1, eval_every=0.0, checkpoint_every=3)
    config.optim.update(lr=0.05, clip_norm=5.0)
    config.protocols.efficient = view(**frames)
    return config
"""


def write_frames(folder, num_frames, rng, *, size=(36, 40)):
    """Write a folder of JPEGs of random pixels."""
    folder.mkdir(parents=True)
    for number in range(1, num_frames + 1):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        (folder / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))


def make_tree(folder, recipe=RECIPE, *, num_val=7, class_names=("a", "b", "c", "d")):
    """Write a recipe and a data set of 24 clips, and some for validation, of 2 to 6 frames."""
    rng = np.random.default_rng(0)
    data = folder / "data"
    for split, count in (("train", 24), ("val", num_val)):
        lines = []
        for index in range(count):
            num_frames = 2 + index % 5
            write_frames(data / "rawframes" / f"{split}{index}", num_frames, rng)
            lines.append(f"{split}{index} {num_frames} {index % 4}\n")
        (data / f"{split}_list.txt").write_text("".join(lines))
    (data / "label_map.txt").write_text("".join(f"{name}\n" for name in class_names))
    (folder / "recipe.py").write_text(recipe)


def command(tree, workdir, *flags, devices=4, launch=(), start=("-m", "trn_jax.main")):
    """Train on two processes of four devices each."""
    return [
        *(sys.executable, "scripts/launch_local.py", "--processes=2"),
        f"--devices-per-process={devices}",
        *(*launch, "--"),
        *(sys.executable, *start, f"--config={tree}/recipe.py"),
        *(f"--config.data_dir={tree}/data", f"--workdir={tree}/{workdir}", *flags),
    ]


def environment():
    found = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(REPOSITORY)}
    return found | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def losses(folder):
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if entry["group"] == "train"]


def parameters(workdir):
    """All arrays of the newest checkpoint, as they were stored, whatever devices they lay on."""
    found = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        for item in ("model", "optimizer"):
            folder = finding.find(workdir) / item
            names = reader.metadata(folder).item_metadata.tree
            kinds = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
            tree = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=kinds))
            found |= {f"{item}/{name}": value for name, value in tree.items()}
    return found


def assert_identical(found, expected):
    """Arrays by name, bit by bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
