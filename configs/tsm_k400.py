"""TSM with ResNet-50 on Kinetics-400, 8 frames.

    python -m trn_jax.main --config=configs/tsm_k400.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tsm_k400

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, in the set-up
of mmaction2 1.x (`tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb`: 8 GPUs of 16
clips). Published: 73.18 % top-1 and 90.56 % top-5 in ten crops.
"""

from trn_jax.config import base, view

_NAME = "tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb"
_ROW = dict(
    source=f"mmaction2 1.x, configs/recognition/tsm/README.md, {_NAME}",
    config=f"{_NAME}.py",
    checkpoint=f"{_NAME}_20220831-64d69186.pth",
    resolution="224x224",
    gpus="8",
    pretrain="ImageNet",
    testing_protocol="8 clips x 10 crop",
    gflops=32.88,
    million_parameters=23.87,
)


def get_config():
    """The recipe."""
    config = base(dataset="k400", model="tsm_resnet50", num_classes=400)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.norm_group = 16

    config.data.train.update(flip_rate=0.5)

    config.train.batch = 128
    config.optim.update(lr=0.02, base_batch=128, clip_norm=20.0, groups="tsm", fc_lr5=True)
    config.optim.update(milestones=(25.0, 45.0), warmup_epochs=5.0, warmup_by="epoch")

    config.protocols["1x10"] = view(crop="ten")
    config.published["1x10"] = dict(top1=73.18, top5=90.56, **_ROW)
    return config
