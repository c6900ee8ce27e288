"""TSM with ResNet-50 on Jester, 8 frames.

    python -m trn_jax.main --config=configs/tsm_jester.py \
        --config.data_dir=data/jester --workdir=runs/tsm_jester

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, in the set-up
of mmaction2 0.x (`tsm_r50_1x1x8_50e_jester_rgb`: 8 GPUs of 8 clips). Published: 96.50 % top-1 in
the centre crop and 97.20 % from 2 clips in 3 crops each. As published, mirroring swaps the labels
of only two pairs of gestures; `data.train.flip_labels=True` also swaps those of turning hands. Its
checkpoints number the classes in the order of jester-v1-labels.csv, not alphabetically: to evaluate
one, give lists and `data.class_names` in that order.
"""

from trn_jax.config import base, view

_NAME = "tsm_r50_1x1x8_50e_jester_rgb"
_ROW = dict(
    source=f"mmaction2 0.x, configs/recognition/tsm/README.md, {_NAME}",
    config=f"{_NAME}.py",
    checkpoint=f"{_NAME}-c799267e.pth",
    resolution="height 100",
    gpus="8",
    pretrain="ImageNet",
)


def get_config():
    """The recipe."""
    config = base(dataset="jester", model="tsm_resnet50", num_classes=27)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.norm_group = 8

    config.data.train.update(crop="random_resized", short_side=0, flip_rate=0.5, flip_labels=False)
    config.data.train.flip_pairs = (
        ("Swiping Left", "Swiping Right"),
        ("Sliding Two Fingers Left", "Sliding Two Fingers Right"),
    )
    config.data.val.crop_size = 0  # the whole short side, as published

    config.train.update(batch=64, eval_every=2.0)
    config.optim.update(lr=0.01, base_batch=64, weight_decay=5e-4, clip_norm=20.0)
    config.optim.update(groups="tsm", fc_lr5=True, milestones=(20.0, 40.0))

    config.protocols.efficient.crop_size = 0
    config.protocols.accurate = view(sampling="twice", crop="three")
    config.published.efficient = dict(top1=96.5, **_ROW)
    config.published.accurate = dict(top1=97.2, **_ROW)
    return config
