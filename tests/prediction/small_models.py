"""Checkpoints of small models that nobody trained, and videos to predict."""

import numpy as np
import painted
from flax import nnx

from trn_jax import create_model
from trn_jax.checkpoints import checkpoint
from trn_jax.config import base, view

NAMES = ["falling", "nothing", "rising", "turning"]
FRAMES = dict(short_side=32, crop_size=28)
SAMPLING = {"num_frames": 20.0, "seconds": 0.8, "frame_rate": 25.0}


def config_of(model, *, num_classes=4, **options):
    """The recipe of a small model with three protocols."""
    config = base(dataset="frames", model=model, num_classes=num_classes)
    config.model.update(width=4, num_segments=4, **options)
    config.data.train.update(FRAMES)
    config.data.val.update(FRAMES)
    config.protocols.efficient.update(FRAMES)
    config.protocols["twice_ten"] = view(**FRAMES, sampling="twice", crop="ten")
    config.protocols["clips"] = view(
        **FRAMES | dict(crop_size=32), sampling="clips", num_clips=2, frame_interval=3, crop="three"
    )
    return config


def store(folder, config, *, class_names=NAMES, sampling=SAMPLING, seed=0, fill=None):
    """Write a checkpoint whose scores differ between videos; returns its path."""
    model = create_model(**config.model, rngs=nnx.Rngs(seed))
    # Fresh heads are almost 0, so that all videos would have almost the same scores.
    state = nnx.state(model.head)
    rng = np.random.default_rng(seed)
    for _, leaf in nnx.to_flat_state(state):
        drawn = rng.normal(0, 0.1, leaf.shape) if fill is None else np.full(leaf.shape, fill)
        leaf[...] = drawn.astype(np.float32)
    nnx.update(model.head, state)
    about = {"config": config.to_dict(), "class_names": class_names[: config.model.num_classes]}
    checkpoint.save_model(str(folder), model, about | ({"sampling": sampling} if sampling else {}))
    return str(folder)


def write_films(folder, lengths):
    """Write one MP4 file per number of frames, each with other pictures; returns their paths."""
    return [
        str(painted.write(folder / f"film{n}.mp4", painted.frames(count, start=40 * n), g=8))
        for n, count in enumerate(lengths)
    ]
