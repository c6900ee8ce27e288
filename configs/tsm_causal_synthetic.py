"""Causal TSM on the synthetic pairs, for streams: features shift to later frames only.

    python -m trn_jax.main --config=configs/tsm_causal_synthetic.py --workdir=runs/tsm_causal
    trn-jax eval runs/tsm_causal --streamed

`tsm_synthetic` whose quarter of shifted channels all come from the previous frame. It trains on
windows of adjacent frames at random places, because a stream shows motions at any speed: its frames
of videos that are three times as long are not further apart.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    config = trn_synthetic.get_config(model="tsm_resnet10")
    config.model.update(causal=True, shift_div=4)
    config.data.train.sampling = "random_clips"
    return config
