"""TIN with ResNet-50 on Kinetics-400, 8 frames, initialised from a TSM.

    python -m trn_jax.main --config=configs/tin_k400.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tin_k400

Shao et al., "Temporal Interlacing Network", AAAI 2020, in the set-up of mmaction2 0.x
(`tin_tsm_finetune_r50_1x1x8_50e_kinetics400_rgb`: 8 GPUs of 6 clips; the table says 8 x 4 GPUs).
Published: 70.89 % top-1 and 89.89 % top-5. There, the first convolution of each block kept its
ImageNet weights, because its name differs between TSM and TIN; here all weights of the TSM are
loaded. mmaction2 1.x (71.86 %): `optim.clip_norm=40`.
"""

from trn_jax.config import base

_NAME = "tin_tsm_finetune_r50_1x1x8_50e_kinetics400_rgb"
_ROW = dict(
    source=f"mmaction2 0.x, configs/recognition/tin/README.md, {_NAME}",
    config=f"{_NAME}.py",
    checkpoint=f"{_NAME}_20200810-4a146a70.pth",
    resolution="short-side 256",
    gpus="8x4",
    pretrain="TSM-Kinetics400",
    gpu_memory=6187,
)


def get_config():
    """The recipe."""
    config = base(dataset="k400", model="tin_resnet50", num_classes=400)
    config.init_url = (
        "https://download.openmmlab.com/mmaction/recognition/tsm/tsm_r50_1x1x8_50e_kinetics400_rgb/"
        "tsm_r50_1x1x8_50e_kinetics400_rgb_20200607-af7fb746.pth"
    )
    config.init_head = True
    config.model.norm_group = 6
    config.model.dropout_rate = 0.5

    config.data.train.update(num_positions=5, flip_rate=0.5)

    config.train.update(batch=48, eval_every=5.0)
    config.optim.update(lr=0.01, base_batch=48, clip_norm=20.0, groups="tsm", fc_lr5=True)

    config.published.efficient = dict(top1=70.89, top5=89.89, **_ROW)
    return config
