"""Training on your own videos from scratch, on a CPU in minutes: a TSM with a narrow ResNet-10.

    trn-jax prepare myvideos --to=data/mine
    python -m trn_jax.main --config=configs/small.py --config.data_dir=data/mine \
        --workdir=runs/mine

Needs no pretrained weights; to start from some, train `finetune`. Takes videos and frame folders;
the classes come from the label map. With thousands of videos, try `model.name=tsm_resnet18`,
`model.width=32` and `size=112`; TRN: `model.name=trn_resnet10`.
"""

from trn_jax.config import base, view


def get_config():
    """The recipe."""
    config = base(dataset="frames", model="tsm_resnet10")
    config.model.width = 16
    # The defaults are for pretrained features; these are what `trn_synthetic` trains with.
    config.model.dropout_rate = 0.0
    config.model.init_std = 0.05

    config.size = 64
    config.data.train.flip_rate = 0.5

    config.train.update(batch=16, epochs=20.0)
    # Sixty times the backbone's rate in `finetune`, at which random weights hardly train.
    config.optim.update(lr=0.03, base_batch=16, nesterov=True, clip_norm=20.0, schedule="cosine")

    # Crops as large as in training; those of a larger short side cost this network accuracy.
    config.protocols.accurate = view(sampling="twice", crop="three", short_side=64)
    return config
