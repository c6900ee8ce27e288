"""Causal TSM with ResNet-50 on Jester, for streams of one frame at a time.

    python -m trn_jax.main --config=configs/tsm_causal_jester.py \
        --config.data_dir=data/jester --workdir=runs/tsm_causal_jester

`tsm_jester` with shifts from the previous frame only (section 4.2 of Lin et al., "TSM: Temporal
Shift Module for Efficient Video Understanding", ICCV 2019). The paper publishes no accuracy of this
set-up; its demonstration has a MobileNetV2. `trn-jax predict 0 --stream` runs it on a camera.
"""

from trn_jax.config import recipe

tsm_jester = recipe("tsm_jester")


def get_config():
    """The recipe."""
    config = tsm_jester.get_config()
    config.model.causal = True
    config.published = {}
    return config
