"""TSM on the synthetic pairs: the shift lets a frame see its neighbours.

    python -m trn_jax.main --config=configs/tsm_synthetic.py --workdir=runs/tsm

Identical to `trn_synthetic` but for the model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tsm_resnet10")
