"""MobileOne (Vasu et al., "MobileOne: An Improved One Millisecond Mobile Backbone", 2023).

A block has parallel branches in training and is deployed as the single convolution that equals
their sum; `reparameterize` converts it. Attribute names are mmpretrain's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.backbones.stages import check_remat, run_stages
from trn_jax.errors import UserError
from trn_jax.nn.concrete import concrete, placed
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, global_average_pool, relu


class Branch(nnx.Module):
    """A convolution and its batch norm, without ReLU."""

    def __init__(self, in_channels, out_channels, kernel_size, *, dtype, rngs, **geometry):
        self.conv = Conv(in_channels, out_channels, kernel_size, dtype=dtype, rngs=rngs, **geometry)
        self.norm = BatchNorm(out_channels, dtype=dtype)

    def __call__(self, x, **statistics):
        """Map `[batch, height, width, in_channels]` to `[batch, height', width', out_channels]`."""
        return self.norm(self.conv(x), **statistics)

    def fused(self, size):
        """Kernel, padded with zeros to `size` pixels, and bias of the equal convolution."""
        kernel = concrete(self.conv.kernel[...])
        border = (size - kernel.shape[0]) // 2
        scale, shift = self.norm.affine()
        pad = np.pad if isinstance(kernel, np.ndarray) else jnp.pad
        return pad(kernel * scale, ((border, border), (border, border), (0, 0), (0, 0))), shift


class SqueezeExcite(nnx.Module):
    """Scale each channel by a number in 0..1 that depends on the means of all channels.

    Hu et al., "Squeeze-and-Excitation Networks", 2018. The hidden layer has a sixteenth of the
    channels, rounded to a multiple of 8.
    """

    def __init__(self, channels, *, dtype, rngs):
        hidden = max(8, (channels // 16 + 4) // 8 * 8)
        self.conv1 = Conv(channels, hidden, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(hidden, channels, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        """Scale the channels of `x` `[batch, height, width, channels]`."""
        means = global_average_pool(x)[:, None, None]  # [batch, 1, 1, channels]
        hidden = relu(self.conv1(means))
        return x * jax.nn.sigmoid(self.conv2(hidden))


class MobileOneBlock(nnx.Module):
    """Sum of a convolution, a 1x1 convolution and the input, each with a batch norm.

    The 1x1 convolution exists beside larger kernels only, the input branch if the shape stays.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the convolution; odd, padded to keep the size.
        stride: step between outputs, in pixels.
        groups: groups of both convolutions.
        num_convs: number of parallel convolutions of `kernel_size`.
        squeeze_excite: scale the channels of the sum, see `SqueezeExcite`.
        temporal: see `MobileOne`.
        deploy: build the single convolution instead of the branches.
        dtype: dtype of the computation.
        rngs: source of the `params` key.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        *,
        stride=1,
        groups=1,
        num_convs=1,
        squeeze_excite=False,
        temporal=None,
        deploy=False,
        dtype=jnp.float32,
        rngs,
    ):
        self.temporal_op = temporal.op(in_channels) if temporal else None
        self.se = SqueezeExcite(out_channels, dtype=dtype, rngs=rngs) if squeeze_excite else None
        # `data`, because `fuse` assigns modules to them.
        self.branch_norm = nnx.data(None)
        self.branch_scale = nnx.data(None)
        self.branch_reparam = nnx.data(None)
        self.branch_conv_list: nnx.List = nnx.List([])
        padding = kernel_size // 2
        layer = dict(stride=stride, groups=groups, dtype=dtype, rngs=rngs)
        if deploy:
            self.branch_reparam = Conv(
                in_channels, out_channels, kernel_size, padding=padding, use_bias=True, **layer
            )
            return
        if in_channels == out_channels and stride == 1:
            self.branch_norm = BatchNorm(in_channels, dtype=dtype)
        if kernel_size > 1:
            self.branch_scale = Branch(in_channels, out_channels, 1, **layer)
        for _ in range(num_convs):
            self.branch_conv_list.append(
                Branch(in_channels, out_channels, kernel_size, padding=padding, **layer)
            )

    def __call__(self, x, **statistics):
        """Map `[frames, height, width, in_channels]` to `[frames, height', width', out_channels]`.

        `statistics` are the keyword arguments of `BatchNorm.__call__`.
        """
        if self.temporal_op is not None:
            x = self.temporal_op(x)
        if self.branch_reparam is not None:
            y = self.branch_reparam(x)
        else:
            branches = [self.branch_norm, self.branch_scale, *self.branch_conv_list]
            y = sum(branch(x, **statistics) for branch in branches if branch is not None)
        if self.se is not None:
            y = self.se(y)
        return relu(y)

    def fuse(self):
        """Replace the branches with the convolution that equals their sum in evaluation."""
        conv = self.branch_conv_list[0].conv
        size, _, per_group, channels = conv.kernel.shape
        branches = [branch.fused(size) for branch in self.branch_conv_list]
        if self.branch_scale is not None:
            branches.append(self.branch_scale.fused(size))
        if self.branch_norm is not None:
            # The identity as a convolution: output channel i is input channel i modulo the size of
            # a group.
            identity = np.tile(np.eye(per_group, dtype=conv.kernel.dtype), (1, conv.groups))
            border = (size // 2, size // 2)
            kernel = np.pad(identity[None, None], (border, border, (0, 0), (0, 0)))
            scale, shift = self.branch_norm.affine()
            branches.append((kernel * scale, shift))
        kernels, biases = zip(*branches, strict=True)
        options = dict(stride=conv.stride, padding=conv.padding, groups=conv.groups)
        options |= dict(use_bias=True, dtype=conv.dtype)
        self.branch_reparam = nnx.eval_shape(
            lambda: Conv(per_group * conv.groups, channels, size, rngs=nnx.Rngs(0), **options)
        )
        like = conv.kernel[...]
        self.branch_reparam.kernel.set_value(placed(sum(kernels), like))
        self.branch_reparam.bias.set_value(placed(sum(biases), like))
        self.branch_norm = self.branch_scale = None
        self.branch_conv_list = nnx.List([])


class MobileOne(nnx.Module):
    """MobileOne without its classifier.

    Every stage repeats a depthwise 3x3 block and a pointwise block.

    Args:
        depths: number of such pairs in each stage.
        widths: channels of each stage.
        stem_width: channels of the stem.
        num_se_blocks: number of pairs at the end of each stage with squeeze-and-excitation.
        num_convs: number of parallel convolutions of the same size in each block.
        temporal: the hook of TSM and TIN, a `TemporalHook`. Its op is applied to the whole input
            of every block but the stem, as a block has no shortcut around it.
        deploy: build the form that `reparameterize` makes.
        remat: number of stages to rematerialise, see `run_stages`.
        dtype: dtype of the computation.
        rngs: source of the `params` key.

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
        dtype: dtype of the computation.
    """

    sees_clips = False
    draws = False

    def __init__(
        self,
        depths,
        widths,
        *,
        stem_width=64,
        num_se_blocks=(0, 0, 0, 0),
        num_convs=1,
        temporal=None,
        deploy=False,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        check_remat(remat, len(depths))
        if temporal and (temporal.shift_place == "blockres" or temporal.every(()) > 1):
            raise UserError(
                f"MobileOne shifts the input of every block, not shift_place="
                f"{temporal.shift_place!r} with shift_every={temporal.shift_every}"
            )
        self.remat = remat
        block = partial(MobileOneBlock, deploy=deploy, dtype=dtype, rngs=rngs)
        self.stage0 = block(3, stem_width, 3, stride=2)
        channels = stem_width
        shape = zip(depths, widths, num_se_blocks, strict=True)
        for stage, (depth, width, num_se) in enumerate(shape, start=1):
            blocks = []
            for index in range(depth):
                options = dict(
                    num_convs=num_convs,
                    squeeze_excite=index >= depth - num_se,
                    temporal=temporal,
                )
                stride = 2 if index == 0 else 1
                blocks.append(
                    block(channels, channels, 3, stride=stride, groups=channels, **options)
                )
                blocks.append(block(channels, width, 1, **options))
                channels = width
            setattr(self, f"stage{stage}", nnx.List(blocks))
        self.stage_channels = tuple(widths)
        self.out_channels = channels
        self.dtype = dtype

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the features of all stages.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: normalise with batch statistics and update the running ones.
            num_groups: number of groups for the batch statistics, see `BatchNorm`.

        Returns:
            A list with one array `[frames, height / 2**(i + 1), width / 2**(i + 1), channels]` for
            each stage i = 1, 2, ...
        """
        statistics = dict(train=train, num_groups=num_groups)
        stages = [getattr(self, f"stage{i + 1}") for i in range(len(self.stage_channels))]
        x = self.stem(frames, **statistics)
        return run_stages(stages, x, remat=self.remat if train else 0, **statistics)

    def stem(self, frames, **statistics):
        """Map `[frames, height, width, 3]` to `[frames, height / 2, width / 2, stem_width]`."""
        return self.stage0(frames, **statistics)


def reparameterize(model):
    """Fuse the branches of every MobileOne block: same scores in evaluation, fewer operations.

    Args:
        model: a `MobileOne`, or a model that contains one, such as a `Recognizer`.

    Returns:
        A copy of `model` in deploy form, as built by `deploy=True`; `model` is unchanged.

    Raises:
        UserError: `model` has no block in train form.
    """
    model = nnx.clone(model)
    blocks = [module for _, module in nnx.iter_modules(model) if isinstance(module, MobileOneBlock)]
    blocks = [block for block in blocks if block.branch_reparam is None]
    if not blocks:
        raise UserError(
            "the model has no MobileOne block in train form: other backbones have none, and models "
            "built with deploy=True are in deploy form already"
        )
    for block in blocks:
        block.fuse()
    return model
