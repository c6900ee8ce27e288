"""TSN on the synthetic pairs: the control that averages frames and cannot see their order.

    python -m trn_jax.main --config=configs/tsn_synthetic.py --workdir=runs/tsn

Identical to `trn_synthetic` but for the head. Both classes of a pair consist of the same frames, so
50 % is the limit, although the pair itself can be told.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tsn_resnet10")
