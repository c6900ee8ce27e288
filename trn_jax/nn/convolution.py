"""2-D convolutions: plain, grouped and depthwise, each in the form that is fast on its device."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from trn_jax.errors import UserError
from trn_jax.nn import initial
from trn_jax.nn.layers import parameter, storage_dtype


def check_groups(groups, in_channels, out_channels):
    """Check that `groups` divides both numbers of channels.

    Raises:
        UserError: it doesn't.
    """
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise UserError(
            f"groups={groups} does not divide both channels of a convolution, {in_channels} and "
            f"{out_channels}"
        )


class Conv(nnx.Module):
    """2-D convolution, zero-padded by `padding` on every side.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel, in pixels; one number, or a pair for stride 1
            and one group.
        stride: step between outputs, in pixels.
        padding: zeros on each side, in pixels; one number, or a pair for (top and bottom, left and
            right). Explicit, because XLA's "SAME" pads strided
            convolutions on one side only.
        use_bias: add a bias, zero at first.
        std: standard deviation of the normal initialisation; `None` takes sqrt(2 / fan_out), that
            of He et al. (2015) for ReLU networks, which torchvision and mmaction2 use.
        frozen: exclude the parameters from training.
        groups: number of equal groups of channels that are convolved separately; as many as
            channels make a depthwise convolution.
        dtype: dtype of the computation.
        rngs: source of the `params` key.

    Raises:
        UserError: the groups do not divide the channels.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        padding=0,
        use_bias=False,
        std=None,
        groups=1,
        frozen=False,
        dtype=jnp.float32,
        rngs,
    ):
        check_groups(groups, in_channels, out_channels)
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dtype = dtype
        size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        shape = (*size, in_channels // groups, out_channels)
        kept = storage_dtype(dtype)
        if std is None:
            std = math.sqrt(2 / (math.prod(size) * out_channels))
        self.kernel = parameter(initial.normal(rngs.params(), shape, kept, std), frozen=frozen)
        self.use_bias = use_bias
        if use_bias:
            self.bias = parameter(jnp.zeros((out_channels,), kept), frozen=frozen)

    def __call__(self, x):
        """Convolve `x` `[batch, height, width, in_channels]`."""
        kernel = self.kernel[...].astype(self.dtype)
        y = convolve(x.astype(self.dtype), kernel, self.stride, self.padding, self.groups)
        return y + self.bias[...].astype(self.dtype) if self.use_bias else y


def convolve(x, kernel, stride, padding, groups):
    """Convolve each of `groups` equal, contiguous groups of channels separately.

    GPU and TPU run XLA's own convolution and its gradients. On a CPU those of groups take up to
    1000 times longer than the arithmetic needs, so CPUs run other forms: a depthwise convolution is
    a sum of shifted, scaled images, one per tap of the kernel, and the gradient of a grouped kernel
    is a matrix product per tap. Images of fewer pixels than the kernel are unfolded and multiplied
    by it. A kernel of a single tap is a matrix product, except on TPUs. The form is chosen when a
    program is compiled for its device.

    Args:
        x: `[batch, height, width, in_channels]`.
        kernel: `[rows, columns, in_channels / groups, out_channels]`, of the same dtype; as many
            rows as columns, unless stride and groups are 1.
        stride: step between outputs, in pixels.
        padding: zeros on each side, in pixels; one number, or a pair for (rows, columns).
        groups: number of groups; divides both numbers of channels.

    Returns:
        `[batch, height', width', out_channels]`.
    """
    if groups == 1 and kernel.shape[:2] == (1, 1) and padding == 0:
        return _convolve_pixels(x, kernel, stride)
    if groups == 1:
        by_xla = partial(_convolve_by_xla, stride=stride, padding=padding, groups=1)
        if not _is_small(x, kernel, stride, padding):
            return by_xla(x, kernel)
        product = partial(_convolve_unfolded, stride=stride, padding=padding)
        return lax.platform_dependent(x, kernel, cpu=product, default=by_xla)
    return _convolve_groups(x, kernel, stride, padding, groups)


def _convolve_pixels(x, kernel, stride):
    def product(x, kernel):
        # On CPUs, gradients of a product are several times faster than those of a convolution, and
        # up to three times faster than with three axes of rows.
        x = x[:, ::stride, ::stride]
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:-1], -1)

    # TPUs have different layouts for convolutions and products; images would be copied twice.
    by_xla = partial(_convolve_by_xla, stride=stride, padding=0, groups=1)
    return lax.platform_dependent(x, kernel, tpu=by_xla, default=product)


def _is_small(x, kernel, stride, padding):
    """Whether the output has fewer pixels than the kernel.

    XLA swaps image and kernel then, in the convolution or in its gradient, and its library for CPUs
    knows no convolutions with so many images. They take ten times as long.
    """
    height, width = _output_size(x, kernel.shape[:2], stride, padding)
    return height * width < math.prod(kernel.shape[:2])


def _convolve_unfolded(x, kernel, *, stride, padding):
    kept = storage_dtype(x.dtype)
    taps = _taps(_pad(x, padding).astype(kept), kernel.shape[:2], stride)
    y = jnp.concatenate(taps, axis=-1) @ kernel.reshape(-1, kernel.shape[-1]).astype(kept)
    return y.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_groups(x, kernel, stride, padding, groups):
    general = partial(_convolve_by_xla, stride=stride, padding=padding, groups=groups)
    if not _is_depthwise(x, kernel, groups):
        return general(x, kernel)
    taps = partial(_depthwise_by_taps, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=taps, default=general)


def _forward(x, kernel, stride, padding, groups):
    general = partial(_convolve_by_xla, stride=stride, padding=padding, groups=groups)
    if not _is_depthwise(x, kernel, groups):
        return general(x, kernel), (x, kernel)
    rows = partial(_depthwise_by_rows, stride=stride, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=rows, default=general), (x, kernel)


def _backward(stride, padding, groups, saved, gradient):
    general = partial(_convolve_by_xla, stride=stride, padding=padding, groups=groups)

    def on_cpu(x, kernel, gradient):
        if _is_depthwise(x, kernel, groups):
            rows = partial(_depthwise_gradients_by_rows, stride=stride, padding=padding)
            return rows(x, kernel, gradient)
        (of_x,) = jax.vjp(lambda x: general(x, kernel), x)[1](gradient)
        taps = partial(_kernel_gradient_by_taps, stride=stride, padding=padding, groups=groups)
        return of_x, taps(x, kernel, gradient)

    def elsewhere(x, kernel, gradient):
        return jax.vjp(general, x, kernel)[1](gradient)

    return lax.platform_dependent(*saved, gradient, cpu=on_cpu, default=elsewhere)


_convolve_groups.defvjp(_forward, _backward)


def _is_depthwise(x, kernel, groups):
    return groups == x.shape[-1] == kernel.shape[-1]


def _convolve_by_xla(x, kernel, *, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=_borders(padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _borders(padding):
    above, left = padding if isinstance(padding, tuple) else (padding, padding)
    return (above, above), (left, left)


def _pad(x, padding):
    return jnp.pad(x, ((0, 0), *_borders(padding), (0, 0)))


def _output_size(x, size, stride, padding=0):
    """Height and width of the output for a kernel of `size`."""
    sides = zip(x.shape[1:3], size, _borders(padding), strict=True)
    return [(length + sum(border) - taps) // stride + 1 for length, taps, border in sides]


def _taps(x, size, stride):
    """The part of padded `x` under each tap of a kernel of `size`: arrays of the output's shape."""
    height, width = _output_size(x, size, stride)
    return [
        x[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
        for i in range(size[0])
        for j in range(size[1])
    ]


def _kernel_gradient_by_taps(x, kernel, gradient, *, stride, padding, groups):
    def in_groups(image):
        return image.reshape(-1, groups, image.shape[-1] // groups)

    per_tap = [
        jnp.einsum(
            "pgi,pgo->igo",
            in_groups(image),
            in_groups(gradient),
            preferred_element_type=storage_dtype(x.dtype),
        )
        for image in _taps(_pad(x, padding), kernel.shape[:2], stride)
    ]
    return jnp.stack(per_tap).reshape(kernel.shape).astype(kernel.dtype)


# Depthwise convolutions on a CPU. Sums are in float32, as in XLA's own convolution.


def _depthwise_by_taps(x, kernel, *, stride, padding):
    kept = storage_dtype(x.dtype)
    return _sum_of_taps(_pad(x, padding).astype(kept), kernel.astype(kept), stride).astype(x.dtype)


def _sum_of_taps(x, kernel, stride):
    images = _taps(x, kernel.shape[:2], stride)
    return sum(image * w for image, w in zip(images, kernel.reshape(len(images), -1), strict=True))


# In training, the sum of taps is a loop over rows, whose operands are computed once. Otherwise XLA
# recomputes its input for each tap, batch norms and their gradients included: blocks of MobileOne
# took 1.5 times as long to train and up to 3 times as long to compile. The loop is not over the
# batch, because that axis is sharded.


def _depthwise_by_rows(x, kernel, *, stride, padding):
    kept, size = storage_dtype(x.dtype), kernel.shape[0]
    padded, weights = _pad(x, padding).astype(kept), kernel.astype(kept)
    height, width = ((length - size) // stride + 1 for length in padded.shape[1:3])

    def add_row(row, y):
        window = lax.dynamic_slice_in_dim(padded, row * stride, size, axis=1)
        return lax.dynamic_update_slice_in_dim(y, _sum_of_taps(window, weights, stride), row, 1)

    y = jnp.zeros((x.shape[0], height, width, x.shape[-1]), kept)
    return lax.fori_loop(0, height, add_row, y).astype(x.dtype)


def _depthwise_gradients_by_rows(x, kernel, gradient, *, stride, padding):
    kept, size = storage_dtype(x.dtype), kernel.shape[0]
    padded, weights = _pad(x, padding).astype(kept), kernel.astype(kept)
    gradient = gradient.astype(kept)

    def add_row(row, sums):
        start = row * stride
        window = lax.dynamic_slice_in_dim(padded, start, size, axis=1)
        _, pull = jax.vjp(partial(_sum_of_taps, stride=stride), window, weights)
        of_window, of_kernel = pull(lax.dynamic_slice_in_dim(gradient, row, 1, axis=1))
        of_window += lax.dynamic_slice_in_dim(sums[0], start, size, axis=1)
        return lax.dynamic_update_slice_in_dim(sums[0], of_window, start, 1), sums[1] + of_kernel

    sums = (jnp.zeros_like(padded), jnp.zeros_like(weights))
    of_x, of_kernel = lax.fori_loop(0, gradient.shape[1], add_row, sums)
    of_x = of_x[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
    return of_x.astype(x.dtype), of_kernel.astype(kernel.dtype)
