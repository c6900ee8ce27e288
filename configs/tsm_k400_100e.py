"""TSM with ResNet-50 on Kinetics-400, 8 frames, 100 epochs.

    python -m trn_jax.main --config=configs/tsm_k400_100e.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_100e

`tsm_k400` with twice as many epochs. Published, mmaction2 1.x: 73.22 % top-1, 90.22 % top-5.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50_8xb16-1x1x8-100e_kinetics400-rgb", "20220831-a6db1e5d", top1=73.22, top5=90.22
    )
    config = tsm_k400.get_config(published)
    config.train.epochs = 100.0
    config.optim.update(milestones=(50.0, 90.0), warmup_epochs=10.0)
    return config
