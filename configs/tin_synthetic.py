"""TIN on the synthetic pairs: features move in time by learned steps.

    python -m trn_jax.main --config=configs/tin_synthetic.py --workdir=runs/tin

Identical to `trn_synthetic` but for the model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tin_resnet10")
