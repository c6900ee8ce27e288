"""TSN with MobileOne-S4 on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_mobileone_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_mobileone_k400_8seg

Published, mmaction2 1.x (`custom_backbones`, "8xb32", whose file says 8 x 16 clips at the same
rate): 73.65 % top-1, 91.32 % top-5. `reparameterize` fuses its branches after training.
"""

from configs import tsn_k400_3seg


def get_config():
    """The recipe."""
    config = tsn_k400_3seg.get_config(
        model="tsn_mobileone_s4",
        num_segments=8,
        top1=73.65,
        top5=91.32,
        row="1x1x8-100e_kinetics400-rgb, with MobileOne-S4",
    )
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/mobileone/"
        "mobileone-s4_8xb32_in1k_20221110-28d888cb.pth"
    )
    config.model.norm_group = 16
    config.train.batch = 128
    config.optim.base_batch = 128
    return config
