"""TSN on the synthetic pairs: the control, which averages frames and ignores their order.

    python -m trn_jax.main --config=configs/tsn_synthetic.py --workdir=runs/tsn

`trn_synthetic` with another head. Both classes of a pair have the same frames, so TSN can recognise
the pair, but its accuracy can't exceed 50 %.
"""

from trn_jax.config import recipe

trn_synthetic = recipe("trn_synthetic")


def get_config():
    """The recipe."""
    return trn_synthetic.get_config(model="tsn_resnet10")
