"""TSM with ResNet-50 on Kinetics-400, 8 frames from a window of 64.

    python -m trn_jax.main --config=configs/tsm_k400_dense8.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400_dense8

`tsm_k400` with dense sampling. Published, mmaction2 1.x: 73.38 % top-1, 90.78 % top-5. The table
calls the protocol "8 clips x 10 crop"; its configuration is 8 frames at each of 10 positions, in
ten crops.
"""

from trn_jax.config import recipe

tsm_k400 = recipe("tsm_k400")


def get_config():
    """The recipe."""
    published = tsm_k400.row(
        "r50_8xb16-dense-1x1x8-50e_kinetics400-rgb", "20220831-f55d3c2b", top1=73.38, top5=90.78
    )
    dense = dict(sampling="dense", num_clips=10)
    config = tsm_k400.get_config(published, protocol="10x10", **dense)
    config.data.train.sampling = "random_dense"
    config.data.val.update(dense)
    config.protocols.efficient.update(dense)
    return config
