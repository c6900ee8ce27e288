"""3-D convolution as a sum of 2-D convolutions.

A kernel with t taps over time is t kernels over space: each is applied to all frames as single
images, and the results are shifted by one frame per tap before the sum. XLA's 3-D convolutions take
several times as long on CPU, and their weight gradients are slow on GPU, too.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax.nn import initial
from trn_jax.nn.convolution import check_groups, convolve
from trn_jax.nn.layers import parameter, storage_dtype

FURTHER_TAP_SCOPE = "further_tap"  # taps after the first; `models.cost` counts their outputs once


def he_normal(key, shape, dtype):
    """Draw a kernel for ReLU (He et al., 2015): variance 2 / (taps * out_channels)."""
    taps, out_channels = math.prod(shape[:-2]), shape[-1]
    return initial.normal(key, shape, dtype, math.sqrt(2 / (taps * out_channels)))


def xavier_uniform(key, shape, dtype):
    """Draw a kernel uniformly (Glorot and Bengio, 2010).

    Its variance is 2 / (taps * (in_channels + out_channels)).
    """
    taps, channels = math.prod(shape[:-2]), sum(shape[-2:])
    return initial.uniform(key, shape, dtype, math.sqrt(6 / (taps * channels)))


class Conv3d(nnx.Module):
    """3-D convolution, zero-padded such that only `stride` changes the size.

    The kernel has shape `[time, size, size, in_channels / groups, out_channels]`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: `(time, size)`: taps over time, in frames, and height and width, in pixels;
            both odd.
        stride: step between outputs in space, in pixels; in time the step is one frame.
        groups: number of equal, contiguous groups of channels that are convolved separately.
        use_bias: add a bias, zero at first.
        init: initialiser `(key, shape, dtype)` of the kernel.
        dtype: dtype of the computation.
        rngs: source of the `params` key.

    Raises:
        UserError: `groups` does not divide the channels.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        groups=1,
        use_bias=False,
        init=he_normal,
        dtype=jnp.float32,
        rngs,
    ):
        check_groups(groups, in_channels, out_channels)
        self.stride = stride
        self.groups = groups
        self.dtype = dtype
        time, size = kernel_size
        shape = (time, size, size, in_channels // groups, out_channels)
        kept = storage_dtype(dtype)
        self.kernel = parameter(init(rngs.params(), shape, kept), frozen=False)
        self.use_bias = use_bias
        if use_bias:
            self.bias = parameter(jnp.zeros((out_channels,), kept), frozen=False)

    def __call__(self, x):
        """Map `[batch, time, height, width, in_channels]` to `[..., out_channels]`."""
        kernel = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype)
        num_taps, num_frames = kernel.shape[0], x.shape[1]
        # The tap of an offset multiplies frame t + offset for frame t of the output. In short clips
        # the outer taps multiply padding only.
        offsets = [offset - num_taps // 2 for offset in range(num_taps)]
        taps = [
            (tap, offset)
            for tap, offset in zip(kernel, offsets, strict=True)
            if abs(offset) < num_frames
        ]
        (tap, offset), *further = taps
        y = _look_ahead(self._in_space(x, tap), offset)
        with jax.named_scope(FURTHER_TAP_SCOPE):
            y = sum((_look_ahead(self._in_space(x, tap), o) for tap, o in further), y)
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y

    def _in_space(self, x, kernel):
        """Convolve every frame of `x` with `kernel` `[size, size, in / groups, out]`."""
        size = kernel.shape[0]
        if size > 1 or self.groups == 1:
            frames = x.reshape(-1, *x.shape[2:])
            y = convolve(frames, kernel, self.stride, size // 2, self.groups)
            return y.reshape(*x.shape[:2], *y.shape[1:])
        x = x[:, :, :: self.stride, :: self.stride]
        x = x.reshape(*x.shape[:-1], self.groups, -1)
        kernel = kernel.reshape(kernel.shape[2], self.groups, -1)  # [in / groups, groups, ...]
        y = jnp.einsum("bthwgi,igo->bthwgo", x, kernel)
        return y.reshape(*y.shape[:-2], -1)


def _look_ahead(x, offset):
    """`x[:, t + offset]` at time t, zero where there is no such frame."""
    if offset == 0:
        return x
    padding = [(0, 0)] * x.ndim
    padding[1] = (max(-offset, 0), max(offset, 0))
    x = x[:, offset:] if offset > 0 else x[:, :offset]
    return jnp.pad(x, padding)
