"""TSM with ResNet-50 on Something-Something V2, 16 frames.

    python -m trn_jax.main --config=configs/tsm_sthv2_16seg.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsm_sthv2_16seg

`tsm_sthv2` with 16 frames. Published, mmaction2 1.x: 64.16 % top-1, 88.61 % top-5.
"""

from trn_jax.config import recipe

tsm_sthv2 = recipe("tsm_sthv2")


def get_config():
    """The recipe."""
    published = tsm_sthv2.row(
        "r50_8xb16-1x1x16-50e_sthv2-rgb",
        "20230317-ec6696ad",
        crops=3,
        num_segments=16,
        gflops=65.75,
        top1=64.16,
        top5=88.61,
    )
    return tsm_sthv2.get_config(published, num_segments=16)
