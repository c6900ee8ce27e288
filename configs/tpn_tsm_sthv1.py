"""TPN with TSM and ResNet-50 on Something-Something V1, 8 frames.

    python -m trn_jax.main --config=configs/tpn_tsm_sthv1.py \
        --config.data_dir=data/sthv1 --workdir=runs/tpn_tsm_sthv1

Yang et al., "Temporal Pyramid Network for Action Recognition", CVPR 2020, in the set-up of
mmaction2 1.x (`tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb`: 8 GPUs of 8 clips).
Published: 51.87 % top-1 and 79.67 % top-5 from 2 clips in 3 crops each; the table says
"8 clips x 3 crop", 8 x 6 GPUs, and initialisation from TSM, where the configuration has ImageNet.
"""

from trn_jax.config import base, view

_NAME = "tpn-tsm_imagenet-pretrained-r50_8xb8-1x1x8-150e_sthv1-rgb"
_ROW = dict(
    source=f"mmaction2 1.x, configs/recognition/tpn/README.md, {_NAME}",
    config=f"{_NAME}.py",
    checkpoint=f"{_NAME}_20230221-940a3615.pth",
    resolution="height 100",
    gpus="8x6",
    pretrain="TSM",
    testing_protocol="8 clips x 3 crop",
    gpu_memory=8828,
)


def get_config():
    """The recipe."""
    config = base(dataset="sthv1", model="tpn_tsm_resnet50", num_classes=174)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.norm_group = 8

    config.data.train.update(crop="random_resized", short_side=0, flip_rate=0.5)
    config.data.train.color_jitter = (0.5, 0.5, 0.5, 0.1)

    config.train.update(batch=64, epochs=150.0, eval_every=5.0, keep=5)
    config.optim.update(lr=0.01, base_batch=64, weight_decay=5e-4, clip_norm=20.0, nesterov=True)
    config.optim.milestones = (75.0, 125.0)

    config.protocols.accurate = view(sampling="twice", crop="three")
    config.published.accurate = dict(top1=51.87, top5=79.67, **_ROW)
    return config
