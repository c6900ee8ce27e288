"""TSM with ResNet-50 on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_k400.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, in the set-up
of mmaction2 1.x (`tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb`: 8 GPUs of 16
clips). Published: 73.18 % top-1 and 90.56 % top-5 in ten crops. Other TSM recipes change this one.
"""

from trn_jax.config import base, view


def row(
    name, version, *, crops=10, num_segments=8, gflops=32.88, million_parameters=23.87, **found
):
    """A row of the published table; `version` is the date and hash of its checkpoint."""
    name = f"tsm_imagenet-pretrained-{name}"
    return dict(
        source=f"mmaction2 1.x, configs/recognition/tsm/README.md, {name}",
        config=f"{name}.py",
        checkpoint=f"{name}_{version}.pth",
        resolution="224x224",
        gpus="8",
        pretrain="ImageNet",
        testing_protocol=f"{num_segments} clips x {crops} crop",
        gflops=gflops,
        million_parameters=million_parameters,
        **found,
    )


_ROW = row("r50_8xb16-1x1x8-50e_kinetics400-rgb", "20220831-64d69186", top1=73.18, top5=90.56)


def get_config(
    published=_ROW, *, num_segments=8, model="tsm_resnet50", protocol="1x10", crop="ten", **sampling
):
    """The recipe; `published` is its row in the published table, by the view of `protocol`."""
    config = base(dataset="k400", model=model, num_classes=400)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.num_segments = num_segments
    config.model.norm_group = 16

    config.data.train.update(flip_rate=0.5)

    config.train.batch = 128
    config.optim.update(lr=0.02, base_batch=128, clip_norm=20.0, groups="tsm", fc_lr5=True)
    config.optim.update(milestones=(25.0, 45.0), warmup_epochs=5.0, warmup_by="epoch")

    config.protocols[protocol] = view(crop=crop, **sampling)
    config.published[protocol] = published
    return config
