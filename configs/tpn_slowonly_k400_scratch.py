"""TPN with SlowOnly ResNet-50 on Kinetics-400, from random weights.

    python -m trn_jax.main --config=configs/tpn_slowonly_k400_scratch.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tpn_slowonly_k400_scratch

`tpn_slowonly_k400` without initial weights. Published, mmaction2 1.x: 74.20 % top-1, 91.48 % top-5
(the table says 8 x 2 GPUs, the file 8 of 8 clips).
"""

from trn_jax.config import recipe

tpn_slowonly_k400 = recipe("tpn_slowonly_k400")


def get_config():
    """The recipe."""
    published = tpn_slowonly_k400.row(
        "tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb",
        "20220913-97d0835d",
        gpus="8x2",
        pretrain="None",
        top1=74.20,
        top5=91.48,
    )
    config = tpn_slowonly_k400.get_config(published)
    config.init_url = None
    return config
