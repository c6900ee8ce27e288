"""A small recipe to plan for."""

import jax
import pytest

from trn_jax.config import base


@pytest.fixture
def config():
    """A TRN of few channels, frames and pixels."""
    jax.devices()  # all eight, before a plan asks for fewer
    found = base(dataset="frames", model="trn_resnet10", num_classes=5)
    found.model.update(width=4, num_segments=3)
    for section in (found.data.train, found.data.val, found.protocols.efficient):
        section.update(num_segments=3, short_side=36, crop_size=32)
    found.train.batch = 16
    found.eval.max_views_per_step = 4
    return found
