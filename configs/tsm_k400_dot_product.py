"""TSM with ResNet-50 and non-local blocks (dot product) on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_k400_dot_product.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_dot_product

`tsm_k400` with five non-local blocks (Wang et al., "Non-local Neural Networks", CVPR 2018).
Published, mmaction2 1.x: 74.49 % top-1, 91.15 % top-5.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50-nl-dot-product_8xb16-1x1x8-50e_kinetics400-rgb",
        "20220831-108bfde5",
        gflops=61.30,
        million_parameters=31.68,
        top1=74.49,
        top5=91.15,
    )
    config = tsm_k400.get_config(published)
    config.model.non_local = "dot_product"
    return config
