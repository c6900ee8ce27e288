"""TSN with ResNet-50 on Kinetics-400, 5 frames from a window of 64.

    python -m trn_jax.main --config=configs/tsn_k400_dense5.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsn_k400_dense5

`tsn_k400_3seg` with dense sampling and another learning rate, dropout and initialisation of the
classifier. Published, mmaction2 1.x: 71.37 % top-1, 89.67 % top-5. The table calls the protocol
"25 clips x 10 crop"; its configuration is 25 frames at each of 10 positions, in the centre crop.
"""

from trn_jax.config import recipe, view

tsn_k400_3seg = recipe("tsn_k400_3seg")


def get_config():
    """The recipe."""
    published = tsn_k400_3seg.row(
        "r50_8xb32-dense-1x1x5-100e_kinetics400-rgb", "20220906-dcbc6e01", top1=71.37, top5=89.67
    )
    config = tsn_k400_3seg.get_config(published, num_segments=5)
    config.model.dropout_rate = 0.5
    config.model.init_std = 0.001
    config.data.train.update(sampling="random_dense", num_positions=13)
    dense = dict(sampling="dense", num_clips=10)
    config.data.val.update(dense)
    config.optim.lr = 0.06

    config.protocols.efficient.update(dense)
    config.protocols["10x25"] = view(num_segments=25, **dense)
    config.published["10x25"] = config.published["25x10"]
    del config.protocols["25x10"], config.published["25x10"]
    return config
