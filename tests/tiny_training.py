"""A training of six steps in one process: its recipe, data, environment and checkpoints."""

import os
import runpy

import jax
import numpy as np
import orbax.checkpoint as ocp
from small_training import write_frames

RECIPE = """
from trn_jax.config import base, view


def get_config():
    config = base(dataset="frames", model="trn_resnet10", num_classes=4)
    config.model.width = 4
    config.model.num_segments = 3
    config.model.norm_group = 4
    frames = dict(num_segments=3, short_side=32, crop_size=32)
    config.data.train.update(frames, flip_rate=0.5)
    config.data.val.update(frames)
    config.data.num_threads = 2
    config.train.update(batch=8, epochs=4.0, log_every=2, eval_every=2.0, checkpoint_every=3)
    config.optim.update(lr=0.05, clip_norm=5.0)
    config.protocols.efficient = view(**frames)
    config.protocols.accurate = view(**frames, sampling="twice", crop="three")
    return config
"""


def tiny_training(folder):
    """The configuration of a training of two epochs of three steps; writes its data set."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4)):
        for index in range(count):
            write_frames(folder / "data" / "rawframes" / f"{split}{index}", 3, rng)
        lines = [f"{split}{index} 3 {index % 4}\n" for index in range(count)]
        (folder / "data" / f"{split}_list.txt").write_text("".join(lines))
    (folder / "data" / "label_map.txt").write_text("a\nb\nc\nd\n")
    (folder / "recipe.py").write_text(RECIPE)
    config = runpy.run_path(str(folder / "recipe.py"))["get_config"]()
    config.data_dir = str(folder / "data")
    config.train.update(steps=6, eval_every=1.0)
    config.data.train.flip_rate = 0.0
    return config


def stored(directory):
    """The arrays of a checkpoint, read by Orbax alone: `{item: {name: array}}`."""
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return {
            item: jax.tree.map(np.asarray, reader.restore(directory / item))
            for item in ("model", "optimizer")
        }


def environment(num_devices=1):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return os.environ | {"XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0"}
