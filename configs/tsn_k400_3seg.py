"""TSN with ResNet-50 on Kinetics-400, 3 segments.

    python -m trn_jax.main --config=configs/tsn_k400_3seg.py --config.data_dir=data/kinetics400 \
        --workdir=runs/tsn_k400_3seg

Wang et al., "Temporal Segment Networks", ECCV 2016, in the set-up of mmaction2 1.x
(`tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb`: 8 GPUs of 32 clips). Published:
72.83 % top-1 and 90.65 % top-5 from 25 frames in ten crops each, all 250 averaged (the table says
"25 clips"). Frames were read from the videos. The other TSN recipes change this one.
"""

from trn_jax.config import base, view


def row(name, version, *, gflops=102.7, million_parameters=24.33, **columns):
    """A row of the published table; `version` is the date and hash of its checkpoint."""
    name = f"tsn_imagenet-pretrained-{name}"
    return dict(
        source=f"mmaction2 1.x, configs/recognition/tsn/README.md, {name}",
        config=f"{name}.py",
        checkpoint=f"{name}_{version}.pth",
        resolution="224x224",
        gpus="8",
        pretrain="ImageNet",
        testing_protocol="25 clips x 10 crop",
        gflops=gflops,  # of 25 frames
        million_parameters=million_parameters,
        **columns,
    )


_ROW = row("r50_8xb32-1x1x3-100e_kinetics400-rgb", "20220906-cd10898e", top1=72.83, top5=90.65)


def get_config(published=_ROW, *, num_segments=3, model="tsn_resnet50"):
    """The recipe; `published` is its row in the published table."""
    config = base(dataset="k400", model=model, num_classes=400)
    config.init_url = "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    config.model.num_segments = num_segments
    config.model.norm_group = 32

    config.data.train.update(num_positions=5, flip_rate=0.5)

    config.train.batch = 256
    config.train.epochs = 100.0
    config.optim.update(lr=0.01, base_batch=256, milestones=(40.0, 80.0))

    config.protocols["25x10"] = view(num_segments=25, crop="ten")
    config.published["25x10"] = published
    return config
