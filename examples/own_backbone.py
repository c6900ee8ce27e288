"""Use any NNX module that maps frames as a backbone, here with the head of a TRN."""

import numpy as np
from flax import nnx

import trn_jax


class Backbone(nnx.Module):
    """Two convolutions. Batch norm and dropout of Flax train and evaluate as the model does."""

    def __init__(self, *, rngs):
        self.first = nnx.Conv(3, 16, (7, 7), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)

    def __call__(self, frames):
        """Map `[frames, height, width, 3]` to `[frames, height / 8, width / 8, 32]`."""
        return self.second(nnx.relu(self.norm(self.first(frames))))


model = trn_jax.create_model("trn_resnet50", num_classes=5, backbone=Backbone, num_segments=4)
clips = np.zeros((2, 4, 64, 64, 3), np.uint8)
print("features", model.features(clips).shape, "logits", model(clips).shape)
