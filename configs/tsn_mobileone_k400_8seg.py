"""TSN with MobileOne-S4 on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_mobileone_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_mobileone_k400_8seg

Published, mmaction2 1.x (`custom_backbones`): 73.65 % top-1, 91.32 % top-5. The row says 8 x 32
clips; its file has 8 x 16 at the same rate: `train.batch=128 model.norm_group=16`. After training,
`trn-jax reparameterize` fuses the branches of each block.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "mobileone-s4_8xb32-1x1x8-100e_kinetics400-rgb",
        "20230825-2da3c1f7",
        gflops=76.0,
        million_parameters=13.72,
        top1=73.65,
        top5=91.32,
    )
    config = tsn_k400_3seg.get_config(published, num_segments=8, model="tsn_mobileone_s4")
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/mobileone/"
        "mobileone-s4_8xb32_in1k_20221110-28d888cb.pth"
    )
    return config
