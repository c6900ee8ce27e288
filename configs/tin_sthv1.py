"""TIN with ResNet-50 on Something-Something V1, 8 frames.

    python -m trn_jax.main --config=configs/tin_sthv1.py \
        --config.data_dir=data/sthv1 --workdir=runs/tin_sthv1

Shao et al., "Temporal Interlacing Network", AAAI 2020, in the set-up of mmaction2 0.x
(`tin_r50_1x1x8_40e_sthv1_rgb`: 6 clips per GPU; clips are never mirrored). Published: 44.25 % top-1
and 73.94 % top-5. The file says 8 GPUs, as the authors used; the table says 8 x 4 GPUs. mmaction2
1.x (39.68 %): `optim.lr=0.01 optim.style=mmengine optim.cosine_by=step optim.final_ratio=0`.
"""

from trn_jax.config import base

_NAME = "tin_r50_1x1x8_40e_sthv1_rgb"
_ROW = dict(
    source=f"mmaction2 0.x, configs/recognition/tin/README.md, {_NAME}",
    config=f"{_NAME}.py",
    checkpoint=f"{_NAME}_20200729-4a33db86.pth",
    resolution="height 100",
    gpus="8x4",
    pretrain="ImageNet",
    reference_top1=44.04,  # the authors' code, with its average meter fixed
    reference_top5=72.72,
    gpu_memory=6181,
)


def get_config():
    """The recipe."""
    config = base(dataset="sthv1", model="tin_resnet50", num_classes=174)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.norm_group = 6

    config.data.train.num_positions = 5

    config.train.update(batch=48, epochs=40.0, eval_every=5.0)
    config.optim.update(lr=0.02, base_batch=48, weight_decay=5e-4, clip_norm=20.0)
    config.optim.update(groups="tsm", fc_lr5=True, warmup_epochs=1.0, style="mmcv")
    config.optim.update(schedule="cosine", cosine_by="epoch", final_ratio=0.5)

    config.published.efficient = dict(top1=44.25, top5=73.94, **_ROW)
    return config
