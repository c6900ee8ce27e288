"""TSM with ResNet-101 on Something-Something V2, 8 frames.

    python -m trn_jax.main --config=configs/tsm_resnet101_sthv2.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsm_resnet101_sthv2

`tsm_sthv2` with a ResNet-101. Published, mmaction2 1.x: 63.70 % top-1, 88.28 % top-5.
"""

from trn_jax.config import recipe

tsm_sthv2 = recipe("tsm_sthv2")


def get_config():
    """The recipe."""
    published = tsm_sthv2.row(
        "r101_8xb16-1x1x8-50e_sthv2-rgb",
        "20230320-efcc0d1b",
        crops=3,
        gflops=62.66,
        million_parameters=42.86,
        top1=63.70,
        top5=88.28,
    )
    config = tsm_sthv2.get_config(published, model="tsm_resnet101")
    config.init_url = "https://download.pytorch.org/models/resnet101-cd907fc2.pth"
    return config
