"""TSN with Swin-B on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_swin_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_swin_k400_8seg

Published, mmaction2 1.x (`custom_backbones`, "32xb8", whose file says 8 x 32 clips): 79.22 % top-1,
94.20 % top-5. Features are the mean over all tokens, as that file intends but, with newer versions
of timm, does not compute.
"""

from trn_jax.config import recipe

tsn_swin_k400_3seg = recipe("tsn_swin_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_swin_k400_3seg.row(
        "32xb8-1x1x8-50e_kinetics400-rgb", "20230530-428f0064", top1=79.22, top5=94.20
    )
    config = tsn_swin_k400_3seg.get_config(published, num_segments=8)
    config.train.epochs = 50.0
    config.optim.milestones = (20.0, 40.0)
    return config
