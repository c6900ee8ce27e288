"""TPN on the synthetic pairs: a temporal pyramid over the features of a TSM.

    python -m trn_jax.main --config=configs/tpn_synthetic.py --workdir=runs/tpn

`trn_synthetic` with another model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tpn_tsm_resnet10")
