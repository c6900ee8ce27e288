"""TSM on the synthetic pairs: features shift to neighbouring frames.

    python -m trn_jax.main --config=configs/tsm_synthetic.py --workdir=runs/tsm

`trn_synthetic` with another model.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tsm_resnet10")
