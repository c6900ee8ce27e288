"""Small models with numbers, and checkpoints of them, for tests of exports."""

import numpy as np
from filled_models import filled
from flax import nnx

from trn_jax import create_model
from trn_jax.checkpoints import calibration_file, checkpoint
from trn_jax.config import base, view

NAMES = ["falling", "nothing", "rising", "turning"]
FRAMES, SIZE = 4, 32


def build(name, **options):
    """A model with numbers."""
    sizes = dict(num_classes=len(NAMES), num_segments=FRAMES)
    return filled(nnx.eval_shape(lambda: create_model(name, **sizes | options)))


def clips(rows=2, frames=FRAMES, size=SIZE, seed=9):
    """Clips of noise, uint8 `[rows, frames, size, size, 3]`."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, frames, size, size, 3), np.uint8)


def config_of(name="tsm_resnet10", *, size=SIZE, **options):
    """The recipe of a small model, with a second protocol, `twice`."""
    frames = dict(short_side=size + 4, crop_size=size)
    config = base(dataset="frames", model=name, num_classes=len(NAMES))
    config.model.update(num_segments=FRAMES, **dict(width=4) | options)
    for section in (config.data.train, config.data.val, config.protocols.efficient):
        section.update(frames)
    three = dict(frames, crop_size=size + 4, sampling="twice", crop="three")
    config.protocols["twice"] = view(**three)
    return config


def store(folder, config, *, temperature=None, **about):
    """Write a checkpoint of a recipe; returns its path."""
    options = dict(config.model)
    model = filled(nnx.eval_shape(lambda: create_model(**options)))
    sampling = {"num_frames": 20.0, "seconds": 0.8, "frame_rate": 25.0}
    known = {"config": config.to_dict(), "class_names": NAMES, "sampling": sampling}
    checkpoint.save_model(str(folder), model, known | about)
    if temperature is not None:
        calibration_file.write(folder, _calibration(temperature, config.data.multi_label))
    return str(folder)


def _calibration(temperature, multi_label):
    measured = dict(ece=0.1, nll=1.0)
    return calibration_file.Calibration(
        temperature=temperature,
        threshold=0.3,
        thresholds=dict.fromkeys(NAMES, 0.3),
        multi_label=multi_label,
        protocol="efficient",
        split="val",
        num_videos=9,
        list_sha256="",
        before=measured,
        after=measured,
    )
