"""TPN with SlowOnly ResNet-50 on Kinetics-400, 8 frames with stride 8.

    python -m trn_jax.main --config=configs/tpn_slowonly_k400.py \
        --config.data_dir=data/kinetics400 --workdir=runs/tpn_slowonly_k400

Yang et al., "Temporal Pyramid Network for Action Recognition", CVPR 2020, in the set-up of
mmaction2 1.x (`tpn-slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb`: 8 GPUs of 8
clips, read from videos). Published: 76.74 % top-1 and 92.57 % top-5 from 10 clips in 3 crops each.
There, colour jitter was also on in validation, which chose the best checkpoint:
`"--config.data.val.color_jitter=(0.5,0.5,0.5,0.1)"`. mmaction2 0.x:
`"--config.protocols['10x3'].clip_positions=middles" --config.data.val.clip_positions=middles`.
"""

from trn_jax.config import base, view


def row(name, version, **columns):
    """A row of the published table; `version` is the date and hash of its checkpoint."""
    return dict(
        source=f"mmaction2 1.x, configs/recognition/tpn/README.md, {name}",
        config=f"{name}.py",
        checkpoint=f"{name}_{version}.pth",
        resolution="short-side 320",
        testing_protocol="10 clips x 3 crop",
        gpu_memory=6916,
        **columns,
    )


_ROW = row(
    "tpn-slowonly_imagenet-pretrained-r50_8xb8-8x8x1-150e_kinetics400-rgb",
    "20220913-fed3f4c1",
    gpus="8",
    pretrain="ImageNet",
    top1=76.74,
    top5=92.57,
    reference_top1=75.49,
    reference_top5=92.05,
)


def get_config(published=_ROW):
    """The recipe; `published` is its row in the published table."""
    config = base(dataset="k400", model="tpn_slowonly_resnet50", num_classes=400)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.norm_group = 8

    config.data.train.update(sampling="random_clips", frame_interval=8, flip_rate=0.5)
    config.data.train.update(crop="random_resized", short_side=0)
    config.data.train.color_jitter = (0.5, 0.5, 0.5, 0.1)
    config.data.val.update(sampling="clips", frame_interval=8)

    config.train.update(batch=64, epochs=150.0, eval_every=10.0, keep=5)
    config.optim.update(lr=0.01, base_batch=64, nesterov=True, milestones=(75.0, 125.0))

    clips = dict(sampling="clips", frame_interval=8)
    config.protocols.efficient = view(**clips)
    config.protocols["10x3"] = view(num_clips=10, crop="three", **clips)
    config.published["10x3"] = published
    return config
