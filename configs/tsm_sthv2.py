"""TSM with ResNet-50 on Something-Something V2, 8 frames.

    python -m trn_jax.main --config=configs/tsm_sthv2.py \
        --config.data_dir=data/sthv2 --workdir=runs/tsm_sthv2

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, in the set-up
of mmaction2 1.x (`tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv2-rgb`: 8 GPUs of 16 clips).
Published: 62.72 % top-1 and 87.70 % top-5 from 2 clips in 3 crops each.
"""

from trn_jax.config import base, recipe, view

row = recipe("tsm_k400").row
_ROW = row("r50_8xb16-1x1x8-50e_sthv2-rgb", "20230317-be0fc26e", crops=3, top1=62.72, top5=87.70)


def get_config(published=_ROW, *, num_segments=8, model="tsm_resnet50"):
    """The recipe; `published` is its row in the published table."""
    config = base(dataset="sthv2", model=model, num_classes=174)
    config.init_url = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    config.model.num_segments = num_segments
    config.model.norm_group = 16

    config.data.train.update(flip_rate=0.5)

    config.train.batch = 128
    config.optim.update(lr=0.02, base_batch=128, weight_decay=5e-4, clip_norm=20.0)
    config.optim.update(groups="tsm", fc_lr5=True, milestones=(25.0, 45.0))
    config.optim.update(warmup_epochs=5.0, warmup_by="epoch")

    config.protocols.accurate = view(sampling="twice", crop="three")
    config.published.accurate = published
    return config
