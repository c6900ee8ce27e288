"""TSN with ResNet-50 on Something-Something V2, 8 segments.

    python -m trn_jax.main --config=configs/tsn_sthv2_8seg.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsn_sthv2_8seg

Published, mmaction2 1.x: 35.51 % top-1, 67.09 % top-5. Many classes of this data set depend on the
order of the frames, which TSN ignores.
"""

from trn_jax.config import recipe

tsn_k400_3seg = recipe("tsn_k400_3seg")

_ROW = tsn_k400_3seg.row(
    "r50_8xb32-1x1x8-50e_sthv2-rgb", "20230313-06ad7d03", top1=35.51, top5=67.09
)


def get_config(published=_ROW, *, num_segments=8):
    """The recipe; `published` is its row in the published table."""
    config = tsn_k400_3seg.get_config(published, num_segments=num_segments)
    config.data.dataset = "sthv2"
    config.model.num_classes = 174
    config.model.dropout_rate = 0.5
    config.train.update(epochs=50.0, eval_every=5.0)
    config.optim.milestones = (20.0, 40.0)
    return config
