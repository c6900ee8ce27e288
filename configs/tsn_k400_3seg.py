"""TSN with ResNet-50 on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_k400_3seg.py --config.data_dir=data/kinetics400 \
        --workdir=runs/tsn_k400_3seg

Wang et al., "Temporal Segment Networks", ECCV 2016, in the set-up of mmaction2 1.x
(`tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb`: 8 GPUs of 32 clips). It got 72.83
% top-1 and 90.65 % top-5 from 25 frames in ten crops each, all 250 averaged (the table says "25
clips"). Its frames came straight from the videos. The other recipes of TSN say where they differ.
"""

from trn_jax.config import base, view

_SOURCE = "mmaction2 1.x, configs/recognition/tsn/README.md, tsn_imagenet-pretrained-"


def get_config(
    num_segments=3,
    model="tsn_resnet50",
    top1=72.83,
    top5=90.65,
    row="r50_8xb32-1x1x3-100e_kinetics400-rgb",
):
    """The recipe; `row` is the rest of its name in the published table."""
    config = base(dataset="k400", model=model, num_classes=400)
    config.init_url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    config.model.num_segments = num_segments
    config.model.norm_group = 32

    config.data.train.update(num_segments=num_segments, num_positions=5, flip_rate=0.5)
    config.data.val.update(num_segments=num_segments)

    config.train.batch = 256
    config.train.epochs = 100.0
    config.optim.update(lr=0.01, base_batch=256, milestones=(40.0, 80.0))

    config.protocols.efficient = view(num_segments=num_segments)
    config.protocols["25x10"] = view(num_segments=25, crop="ten")
    config.published["25x10"] = dict(top1=top1, top5=top5, source=_SOURCE + row)
    return config
