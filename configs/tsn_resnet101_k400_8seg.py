"""TSN with ResNet-101 on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_resnet101_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_resnet101_k400_8seg

`tsn_k400_8seg` with another backbone. Published, mmaction2 1.x: 75.89 % top-1, 92.07 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "r101_8xb32-1x1x8-100e_kinetics400-rgb",
        "20220906-23cff032",
        gflops=195.8,
        million_parameters=43.32,
        top1=75.89,
        top5=92.07,
    )
    config = tsn_k400_3seg.get_config(published, num_segments=8, model="tsn_resnet101")
    config.init_url = "https://download.pytorch.org/models/resnet101-cd907fc2.pth"
    return config
