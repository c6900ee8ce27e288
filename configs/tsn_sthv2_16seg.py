"""TSN with ResNet-50 on Something-Something V2, 16 segments.

    python -m trn_jax.main --config=configs/tsn_sthv2_16seg.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsn_sthv2_16seg

`tsn_sthv2_8seg` with 16 segments and 13 crop positions. Published, mmaction2 1.x: 36.91 % top-1,
68.77 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")
tsn_sthv2_8seg = recipe("tsn_sthv2_8seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "r50_8xb32-1x1x16-50e_sthv2-rgb", "20230221-85bcc1c3", top1=36.91, top5=68.77
    )
    config = tsn_sthv2_8seg.get_config(published, num_segments=16)
    config.data.train.num_positions = 13
    return config
