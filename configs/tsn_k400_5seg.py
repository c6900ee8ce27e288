"""TSN with ResNet-50 on Kinetics-400, 5 segments.

    python -m trn_jax.main --config=configs/tsn_k400_5seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_k400_5seg

`tsn_k400_3seg` with 5 segments. Published, mmaction2 1.x: 73.80 % top-1, 91.21 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "r50_8xb32-1x1x5-100e_kinetics400-rgb", "20220906-65d68713", top1=73.80, top5=91.21
    )
    return tsn_k400_3seg.get_config(published, num_segments=5)
