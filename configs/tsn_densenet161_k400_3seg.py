"""TSN with DenseNet-161 on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_densenet161_k400_3seg.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_densenet161_k400_3seg

`tsn_k400_3seg` with another backbone and random resized crops. Published, mmaction2 1.x
(`custom_backbones`): 72.07 % top-1, 90.15 % top-5.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "dense161_8xb32-1x1x3-100e_kinetics400-rgb",
        "20220906-5f4c0daf",
        gflops=194.6,
        million_parameters=27.36,
        top1=72.07,
        top5=90.15,
    )
    config = tsn_k400_3seg.get_config(published, model="tsn_densenet161")
    config.init_url = "https://download.pytorch.org/models/densenet161-8d451a50.pth"
    config.data.train.crop = "random_resized"
    return config
