"""TSN with ResNet-50 on Kinetics-400, 8 segments.

    python -m trn_jax.main --config=configs/tsn_k400_8seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_k400_8seg

`tsn_k400_3seg` with 8 segments. Published, mmaction2 1.x: 74.12 % top-1, 91.34 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "r50_8xb32-1x1x8-100e_kinetics400-rgb", "20220906-2692d16c", top1=74.12, top5=91.34
    )
    return tsn_k400_3seg.get_config(published, num_segments=8)
