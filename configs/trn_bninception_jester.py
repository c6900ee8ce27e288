"""Multi-scale TRN with BN-Inception on Jester, 8 frames.

    python -m trn_jax.main --config=configs/trn_bninception_jester.py \
        --config.data_dir=data/jester --workdir=runs/trn_bninception_jester

Zhou et al., "Temporal Relational Reasoning in Videos", ECCV 2018, in the set-up of its MindSpore
version (8 GPUs of 8 clips), which got 94.50 % top-1 and 99.78 % top-5 by averaging the logits of
ten crops. Dropout is 0.8 in its README and 0.2 in its YAML, which is the fraction kept. There, each
frame of a clip was mirrored independently, without changing the label; here whole clips are
mirrored, and left and right swap labels. There, each GPU clipped its own gradients. That evaluation
drew relations at random, once per video; here scores are the mean over all draws, and
`--config.protocols.<name>.relations=sample` draws them `num_draws` times.
"""

from trn_jax.config import base, view

_ROW = dict(
    source="MindSpore model zoo, TRN on Jester, README.md",
    config="jester_config.yaml",
    gpus="8",
    pretrain="ImageNet",
)


def get_config():
    """The recipe."""
    config = base(dataset="jester", model="trn_bninception", num_classes=27)
    config.init_url = (
        "https://yjxiong.blob.core.windows.net/models/bn_inception-9f5701afb96c8044.pth"
    )
    config.model.partial_bn = True
    config.model.norm_group = 8

    config.data.train.update(short_videos="first", short_side=0, flip_rate=0.5)
    config.data.val.short_videos = "first"

    config.train.update(batch=64, epochs=120.0, eval_every=5.0)
    config.optim.update(lr=0.001, base_batch=64, weight_decay=5e-4, clip_norm=20.0)
    config.optim.update(groups="tsm", milestones=(50.0, 100.0))

    config.protocols.efficient = view(short_videos="first")
    config.protocols["1x10"] = view(crop="ten", merge_views="logits")
    config.published["1x10"] = dict(top1=94.50, top5=99.78, **_ROW)
    return config
