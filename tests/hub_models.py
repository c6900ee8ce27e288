"""Small checkpoints to share, and what stands in for the hub while a test runs."""

import numpy as np
from flax import nnx

from trn_jax import create_model
from trn_jax.checkpoints import calibration_file, checkpoint
from trn_jax.checkpoints.calibration_file import Calibration
from trn_jax.config import base

NAMES = ("falling", "nothing", "rising")
SAMPLING = {"num_frames": 36, "seconds": 3.0, "frame_rate": 12.0}


def stored(folder, *, model="tsn_resnet10", names=NAMES, calibrated=False, settings=None, **about):
    """Write a checkpoint of a model with drawn weights; returns its folder."""
    config = base(dataset="frames", model=model, num_classes=len(names))
    config.model.update(width=2, num_segments=3)
    config.size = 32
    config.update(settings or {})
    built = create_model(**config.model, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for _, leaf in nnx.to_flat_state(nnx.state(built)):
        leaf[...] = rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32)
    about = {"class_names": list(names), "sampling": SAMPLING} | about
    checkpoint.save_model(folder, built, {"config": config.to_dict()} | about)
    if calibrated:
        calibration_file.write(folder, calibration(names))
    return folder


def calibration(names=NAMES, **changed):
    """A calibration of these classes."""
    values = dict(
        temperature=1.5,
        threshold=0.4,
        thresholds={name: 0.5 - 0.125 * number for number, name in enumerate(names)},
        multi_label=False,
        protocol="efficient",
        split="val",
        num_videos=12,
        list_sha256="0" * 64,
        before={"ece": 0.2, "nll": 1.25},
        after={"ece": 0.1, "nll": 1.0},
    )
    return Calibration(**values | changed)


_forward = nnx.jit(lambda model, clips: model(clips))


def logits(model):
    """Of two fixed clips."""
    clips = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    info, model.info = model.info, None  # or each model would be compiled anew
    found = np.asarray(_forward(model, clips))
    model.info = info
    return found


def connect(monkeypatch, url, cache, *, token=None, offline=False):
    """Let the client of the hub know another hub, cache and token."""
    from huggingface_hub import constants

    values = dict(
        ENDPOINT=url,
        HUGGINGFACE_CO_URL_TEMPLATE=url + "/{repo_id}/resolve/{revision}/{filename}",
        HF_HUB_CACHE=str(cache),
        HF_TOKEN_PATH=str(cache / "token"),
        HF_HUB_DISABLE_XET=True,  # the stand-in has git-lfs
        HF_HUB_OFFLINE=offline,
    )
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
