"""TSN with ResNet-50 on Something-Something V2, 8 segments.

    python -m trn_jax.main --config=configs/tsn_sthv2_8seg.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsn_sthv2_8seg

Published, mmaction2 1.x: 35.51 % top-1, 67.09 % top-5: much of this data set is in the order of
the frames, which TSN does not see.
"""

from configs import tsn_k400_3seg


def get_config(num_segments=8, top1=35.51, top5=67.09, row="r50_8xb32-1x1x8-50e_sthv2-rgb"):
    """The recipe; `row` is the rest of its name in the published table."""
    config = tsn_k400_3seg.get_config(num_segments=num_segments, top1=top1, top5=top5, row=row)
    config.data.dataset = "sthv2"
    config.model.num_classes = 174
    config.model.dropout_rate = 0.5
    config.train.update(epochs=50.0, eval_every=5.0)
    config.optim.milestones = (20.0, 40.0)
    return config
