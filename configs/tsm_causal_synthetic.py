"""Causal TSM on the synthetic pairs, for streams: features shift to later frames only.

    python -m trn_jax.main --config=configs/tsm_causal_synthetic.py --workdir=runs/tsm_causal
    trn-jax eval runs/tsm_causal --streamed

`tsm_synthetic`, trained on windows of eight adjacent frames from random places, because a stream
shows motions of any speed: the frames of clips that are three times as long come three times as
densely.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    config = trn_synthetic.get_config(model="tsm_resnet10")
    config.model.causal = True
    config.data.train.sampling = "random_clips"
    return config
