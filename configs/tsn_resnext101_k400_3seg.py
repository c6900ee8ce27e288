"""TSN with ResNeXt-101 32x4d on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_resnext101_k400_3seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_resnext101_k400_3seg

`tsn_k400_3seg` with another backbone. Published, mmaction2 1.x (`custom_backbones`): 72.95 % top-1,
90.36 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb",
        "20221209-de2d5615",
        gflops=200.3,
        million_parameters=42.95,
        top1=72.95,
        top5=90.36,
    )
    config = tsn_k400_3seg.get_config(published, model="tsn_resnext101_32x4d")
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/resnext/"
        "resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth"
    )
    return config
