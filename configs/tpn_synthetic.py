"""TPN on the synthetic pairs: a pyramid over the features of a TSM.

    python -m trn_jax.main --config=configs/tpn_synthetic.py --workdir=runs/tpn

Identical to `trn_synthetic` but for the model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tpn_tsm_resnet10")
