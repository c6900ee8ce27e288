"""TSM with ResNet-50 on Kinetics-400, 16 frames.

    python -m trn_jax.main --config=configs/tsm_k400_16seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_16seg

`tsm_k400` with 16 frames. Published, mmaction2 1.x: 75.12 % top-1, 91.55 % top-5.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50_8xb16-1x1x16-50e_kinetics400-rgb",
        "20220831-042b1748",
        num_segments=16,
        gflops=65.75,
        top1=75.12,
        top5=91.55,
    )
    return tsm_k400.get_config(published, num_segments=16)
