"""TIN on the synthetic pairs: learned temporal shifts of features.

    python -m trn_jax.main --config=configs/tin_synthetic.py --workdir=runs/tin

`trn_synthetic` with another model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tin_resnet10")
