"""TSM with MobileOne-S4 on Kinetics-400, 16 frames.

    python -m trn_jax.main --config=configs/tsm_mobileone_k400_16seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_mobileone_k400_16seg

Published, mmaction2 1.x: 74.38 % top-1, 91.71 % top-5. The table says ten crops; its configuration
has three, 8 clips per GPU at half the learning rate, and a backbone that shifts within each half of
the clip. After training, `trn-jax reparameterize` fuses the branches of each block.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "mobileone-s4_8xb16-1x1x16-50e_kinetics400-rgb",
        "20230825-a7f8876b",
        num_segments=16,
        gflops=48.65,
        million_parameters=13.72,
        top1=74.38,
        top5=91.71,
    )
    config = tsm_k400.get_config(
        published, num_segments=16, model="tsm_mobileone_s4", protocol="1x3", crop="three"
    )
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/mobileone/"
        "mobileone-s4_8xb32_in1k_20221110-28d888cb.pth"
    )
    config.model.update(shift_segments=8, norm_group=8)
    config.train.batch = 64
    config.optim.update(scale_lr=True, weight_decay=2e-5)
    return config
