"""TSM with ResNet-50 and non-local blocks (Gaussian) on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_k400_gaussian.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_gaussian

`tsm_k400` with five non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018).
Published, mmaction2 1.x: 73.66 % top-1, 90.99 % top-5.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50-nl-gaussian_8xb16-1x1x8-50e_kinetics400-rgb",
        "20220831-7e54dacf",
        gflops=59.06,
        million_parameters=28.00,
        top1=73.66,
        top5=90.99,
    )
    config = tsm_k400.get_config(published)
    config.model.non_local = "gaussian"
    return config
