"""TSN with ResNeXt-101 32x4d on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_resnext101_k400_3seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_resnext101_k400_3seg

As `tsn_k400_3seg` but for the backbone. Published, mmaction2 1.x (`custom_backbones`): 72.95 %
top-1, 90.36 % top-5.
"""

from configs import tsn_k400_3seg


def get_config():
    """The recipe."""
    config = tsn_k400_3seg.get_config(
        model="tsn_resnext101_32x4d",
        top1=72.95,
        top5=90.36,
        row="rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb",
    )
    config.init_url = (
        "https://download.openmmlab.com/mmclassification/v0/resnext/"
        "resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth"
    )
    return config
