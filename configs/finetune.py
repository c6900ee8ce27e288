"""Fine-tuning on your own videos, by default of a TSM with ResNet-50.

    trn-jax prepare myvideos --to=data/mine --init-from=tsm.pth
    python -m trn_jax.main --config=configs/finetune.py --config.data_dir=data/mine \
        --config.init_from=tsm.pth --workdir=runs/mine

Start from published weights of the whole model (Something-Something for motions, Kinetics for
actions) or from ImageNet weights; without any, train `small`. The classifier is new and trains at
ten times the learning rate of the rest, which preserves the pretrained features. Another model:
`model.name=trn_resnet50`; little data: `model.frozen_stages=3`; unbalanced classes:
`data.balanced=True` or `train.class_weights=balanced`.
"""

from trn_jax.config import base, view


def get_config():
    """The recipe."""
    config = base(dataset="frames", model="tsm_resnet50")
    config.model.norm_group = 8
    config.init_required = True

    config.data.train.flip_rate = 0.5

    config.train.update(batch=8, epochs=25.0, label_smoothing=0.1)
    config.optim.update(lr=0.005, base_batch=8, weight_decay=5e-4, clip_norm=20.0)
    config.optim.update(backbone_rate=0.1, schedule="cosine", warmup_epochs=1.0)

    config.protocols.accurate = view(sampling="twice", crop="three")
    return config
