"""TSM with ResNet-50 and non-local blocks (embedded Gaussian) on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_k400_embedded_gaussian.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_embedded_gaussian

`tsm_k400` with five non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018).
Published, mmaction2 1.x: 74.34 % top-1, 91.23 % top-5.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50-nl-embedded-gaussian_8xb16-1x1x8-50e_kinetics400-rgb",
        "20220831-35eddb57",
        gflops=61.30,
        million_parameters=31.68,
        top1=74.34,
        top5=91.23,
    )
    config = tsm_k400.get_config(published)
    config.model.non_local = "embedded_gaussian"
    return config
