"""TSN with ResNet-101 on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_resnet101_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_resnet101_k400_8seg

As `tsn_k400_8seg` but for the backbone. Published, mmaction2 1.x: 75.89 % top-1, 92.07 % top-5.
"""

from configs import tsn_k400_3seg


def get_config():
    """The recipe."""
    config = tsn_k400_3seg.get_config(
        model="tsn_resnet101",
        num_segments=8,
        top1=75.89,
        top5=92.07,
        row="r101_8xb32-1x1x8-100e_kinetics400-rgb",
    )
    config.init_url = "https://download.pytorch.org/models/resnet101-cd907fc2.pth"
    return config
