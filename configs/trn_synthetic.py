"""Multi-scale TRN on the synthetic pairs, whose classes differ only in the order of frames.

    python -m trn_jax.main --config=configs/trn_synthetic.py --workdir=runs/trn

Needs no download and takes about two minutes on two idle CPU cores. A model that uses the order
can reach 100 %.
"""

from trn_jax.config import base, view


def get_config(model="trn_resnet10"):
    """The recipe; the other `*_synthetic` recipes change only the model."""
    config = base(dataset="synthetic", model=model, num_classes=16)
    config.model.width = 16
    config.model.dropout_rate = 0.0
    config.model.init_std = 0.05

    config.update(size=64, short_side=64)
    config.data.train.update(scales=(1.0, 0.875), flip_rate=0.5)

    config.train.batch = 16
    config.train.epochs = 4.0

    config.optim.update(lr=0.03, base_batch=16, nesterov=True, clip_norm=20.0, schedule="cosine")

    config.protocols.reversed = view(frame_order="reversed")
    config.protocols.shuffled = view(frame_order="shuffled")
    return config
