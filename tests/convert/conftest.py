"""Small models whose temporal ops compute nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import create_model, models
from trn_jax.convert import variables


class Layer(nnx.Module):
    def __init__(self, *shape):
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.bias = nnx.Param(jnp.zeros(shape[-1:]))


class Interlace(nnx.Module):
    """The parameters of TIN, in the layers that tables count on."""

    def __init__(self, channels, *, num_segments):
        channels //= 4
        self.offset_conv = Layer(3, channels, 1)
        self.offset_fc1 = Layer(num_segments, num_segments)
        self.offset_fc2 = Layer(num_segments, 2)
        self.weight_conv = Layer(3, channels, 2)


class Shift(nnx.Module):
    def __init__(self, channels):
        self.channels = channels


@pytest.fixture
def build(monkeypatch):
    """Builds models full of sevens, whose temporal ops have parameters, but compute nothing."""
    monkeypatch.setitem(models.TEMPORAL_OPS, "a_shift", Shift)
    monkeypatch.setitem(models.TEMPORAL_OPS, "an_interlace", Interlace)

    def create(temporal_op=None, **options):
        options = dict(num_classes=5, num_segments=4, head="tsn", backbone="resnet10") | options
        options |= dict(width=4, temporal_op=temporal_op)
        model = nnx.eval_shape(lambda: create_model("tsn_resnet10", **options))
        for leaf in variables(model).values():
            leaf.set_value(jnp.asarray(np.full(leaf.shape, 7, np.float32)))
        return model

    return create
