"""Temporal Segment Networks (Wang et al., 2016): mean scores of frames, regardless of order."""

import jax.numpy as jnp
from flax import nnx

from trn_jax.nn.layers import Linear, dropout, global_average_pool, storage_dtype


class TSNHead(nnx.Module):
    """Average the features of all frames, then classify.

    The classifier is linear, so this equals the average of the frames' scores. Dropout comes after
    the average: one mask per clip.

    Args:
        in_channels: channels of the backbone's features.
        num_classes: number of classes.
        dropout_rate: share of the averaged features that is dropped in training.
        init_std: standard deviation of the classifier's initial weights.
        dtype: dtype of the computation.
        rngs: source of the `params` key.
    """

    merge_views = "logits"

    def __init__(
        self, in_channels, num_classes, *, dropout_rate=0.4, init_std=0.01, dtype=jnp.float32, rngs
    ):
        self.dropout_rate = dropout_rate
        self.fc = Linear(in_channels, num_classes, std=init_std, dtype=dtype, rngs=rngs)

    def __call__(self, features, *, train=False, rngs=None, clip_index=None):
        """Map `[batch, segments, height, width, channels]` to logits `[batch, num_classes]`."""
        x = global_average_pool(features)  # [batch, segments, channels]
        x = jnp.mean(x, axis=1)
        if train and self.dropout_rate:
            x = dropout(x, self.dropout_rate, key=rngs.dropout(), clip_index=clip_index)
        return self.fc(x).astype(storage_dtype(x.dtype))
