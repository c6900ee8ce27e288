"""Add a custom head to a backbone: the maximum of each class score over the frames."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import trn_jax


class MaxScore(nnx.Module):
    """Scores each frame; extra keyword arguments are options of `create_model`."""

    merge_views = "logits"

    def __init__(self, in_channels, num_classes, *, scale=1.0, rngs):
        self.scale = scale
        self.fc = nnx.Linear(in_channels, num_classes, rngs=rngs)

    def __call__(self, features, *, train=False, rngs=None, clip_index=None):
        """Map `[batch, segments, height, width, channels]` to logits `[batch, num_classes]`."""
        return self.scale * self.fc(features.mean((2, 3))).max(1)


model = trn_jax.create_model("tsm_resnet10", num_classes=5, head=MaxScore, scale=2.0)
clips = np.zeros((1, 8, 64, 64, 3), np.uint8)
print("logits", jnp.round(model(clips), 3))
