"""Non-local blocks (Wang et al., "Non-local Neural Networks", 2018) for 2-D ResNets.

Every position of a frame receives features from all positions of all frames of its clip.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.nn.layers import split_clips, storage_dtype
from trn_jax.nn.pooling import max_pool

MODES = ("embedded_gaussian", "gaussian", "dot_product")

# The blocks of each stage with a non-local block behind them, as far as they exist: five in a
# ResNet-50 (section 5.1 of the paper, and mmaction2).
PLACES = ((), (0, 2), (0, 2, 4), ())

_STD = 0.01  # of the initial weights of the embeddings


class NonLocal(nnx.Module):
    """Add to each position the weighted mean of embedded features of all positions of its clip.

    Weights are the softmax of inner products of features ("gaussian") or of their embeddings
    ("embedded_gaussian"), or inner products of embeddings divided by the number of positions
    ("dot_product"). The features that are averaged are first pooled over 2x2 pixels. The scale of
    the last norm starts at zero, so that the block starts as the identity.

    Args:
        channels: channels of the features; embeddings have half as many.
        mode: one of `MODES`.
        num_segments: number of frames of a clip.
        conv: constructor of convolutions.
        norm: constructor of batch norms.

    Raises:
        UserError: an unknown mode, or no number of frames.
    """

    def __init__(self, channels, *, mode, num_segments, conv, norm):
        if mode not in MODES:
            raise UserError(f"non_local={mode!r} is not one of {', '.join(MODES)}")
        if not num_segments:
            raise UserError("non_local needs num_segments, the number of frames of a clip")
        self.mode = mode
        self.num_segments = num_segments
        embedded = max(channels // 2, 1)

        def embedding():
            return conv(channels, embedded, 1, use_bias=True, std=_STD)

        self.g = embedding()
        self.theta = None if mode == "gaussian" else embedding()
        self.phi = None if mode == "gaussian" else embedding()
        self.conv = conv(embedded, channels, 1)
        self.bn = norm(channels)
        self.bn.scale[...] = jnp.zeros_like(self.bn.scale[...])

    def __call__(self, x, **statistics):
        """Map `[batch * segments, height, width, channels]` to the same shape.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.

        Raises:
            UserError: the maps are too small, or the number of frames does not fit.
        """
        height, width = x.shape[1:3]
        if min(height, width) < 2:
            raise UserError(
                f"non_local pools maps over 2x2 pixels, but they have {height}x{width}; use frames "
                "of at least 32x32 pixels"
            )
        theta = x if self.theta is None else self.theta(x)
        phi = x if self.phi is None else self.phi(x)
        theta, phi, g = map(self._positions, (theta, _pooled(phi), _pooled(self.g(x))))
        weights = jnp.einsum(
            "bic,bjc->bij", theta, phi, preferred_element_type=storage_dtype(x.dtype)
        )
        if self.mode == "dot_product":
            weights /= phi.shape[1]
        else:
            weights = jax.nn.softmax(weights)
        y = jnp.einsum("bij,bjc->bic", weights.astype(g.dtype), g)
        y = self.conv(y.reshape(*x.shape[:-1], -1))
        return x + self.bn(y, **statistics)

    def _positions(self, x):
        """`[batch * segments, height, width, channels]` as `[batch, positions, channels]`."""
        clips = split_clips(x, self.num_segments)
        return clips.reshape(clips.shape[0], -1, x.shape[-1])


def _pooled(x):
    return max_pool(x, 2, stride=2)
