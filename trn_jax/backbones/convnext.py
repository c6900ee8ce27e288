"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022), with torchvision's numerics."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trn_jax.backbones.stages import check_frozen, check_remat, drop_path_keys, run_stages
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import LayerNorm, Linear, drop_path, freeze, global_average_pool


class ConvNeXtBlock(nnx.Module):
    """A depthwise 7x7 convolution and a multilayer perceptron per pixel, with a shortcut.

    Args:
        channels: channels of the input and of the output.
        layer_scale: initial factor of each channel of the residual branch.
        drop_path_rate: probability that a frame skips the branch in training.
        conv: constructor of convolutions.
        norm: constructor of layer norms.
        linear: constructor of linear layers.
    """

    def __init__(self, channels, *, layer_scale, drop_path_rate, conv, norm, linear):
        self.drop_path_rate = drop_path_rate
        self.conv = conv(channels, channels, 7, padding=3, groups=channels)
        self.norm = norm(channels)
        self.fc1 = linear(channels, 4 * channels)
        self.fc2 = linear(4 * channels, channels)
        kept = self.conv.kernel.dtype
        self.gamma = nnx.Param(jnp.full((channels,), layer_scale, kept))

    def __call__(self, x, *, rngs=None, clip_index=None):
        """Map `[frames, height, width, channels]` to the same shape; `rngs` only in training."""
        y = self.fc1(self.norm(self.conv(x)))
        y = self.fc2(jax.nn.gelu(y, approximate=False)) * self.gamma[...].astype(x.dtype)
        if rngs is not None:
            y = drop_path(y, self.drop_path_rate, key=rngs.dropout(), clip_index=clip_index)
        return x + y


class Downsample(nnx.Module):
    """Normalise, then merge 2x2 pixels into one, between two stages."""

    def __init__(self, in_channels, channels, *, conv, norm):
        self.norm = norm(in_channels)
        self.conv = conv(in_channels, channels, 2, stride=2)

    def __call__(self, x):
        """Map `[frames, height, width, in_channels]` to half the sides and `channels`."""
        return self.conv(self.norm(x))


class ConvNeXt(nnx.Module):
    """ConvNeXt without its classifier; other arguments as in `ResNet`.

    Its last norm sees the means of all pixels. The features of the last stage are therefore
    vectors, `[frames, 1, 1, channels]`.

    Args:
        depths: number of blocks in each stage.
        widths: channels of each stage.
        layer_scale: initial factor of each channel of a residual branch.
        drop_path_rate: probability that a frame skips the last block in training. It rises
            linearly from 0 at the first block (Huang et al., "Deep Networks with Stochastic
            Depth", 2016).

    Attributes:
        stage_channels: channels of the features of each stage.
        out_channels: those of the last stage.
    """

    sees_clips = False
    draws = True

    def __init__(
        self,
        depths,
        widths,
        *,
        layer_scale=1e-6,
        drop_path_rate=0.1,
        frozen_stages=-1,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        check_frozen(frozen_stages, len(depths))
        check_remat(remat, len(depths))
        self.remat = remat
        self.dtype = dtype
        self.drop_path_rate = drop_path_rate
        self.stage_channels = tuple(widths)
        self.out_channels = widths[-1]
        conv = partial(Conv, use_bias=True, std=0.02, dtype=dtype, rngs=rngs)
        norm = partial(LayerNorm, epsilon=1e-6, dtype=dtype)
        linear = partial(Linear, std=0.02, dtype=dtype, rngs=rngs)
        self.stem_conv = conv(3, widths[0], 4, stride=4)
        self.stem_norm = norm(widths[0])
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        block = partial(ConvNeXtBlock, layer_scale=layer_scale, conv=conv, norm=norm, linear=linear)
        self.stages = nnx.List(
            nnx.List(block(width, drop_path_rate=next(rates)) for _ in range(depth))
            for depth, width in zip(depths, widths, strict=True)
        )
        self.downsamples = nnx.List(
            Downsample(*pair, conv=conv, norm=norm) for pair in itertools.pairwise(widths)
        )
        self.norm = norm(self.out_channels)
        frozen = [self.stem_conv, self.stem_norm] if frozen_stages >= 0 else []
        frozen += [*self.stages[: max(frozen_stages, 0)]]
        frozen += [*self.downsamples[: max(frozen_stages - 1, 0)]]
        for part in frozen:
            freeze(part)

    def __call__(self, frames, *, train=False, num_groups=1, rngs=None, clip_index=None):
        """Compute the features of all stages; those of the last are normalised vectors.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: skip blocks at random.
            num_groups: unused, there are no batch statistics.
            rngs: source of the `dropout` keys, needed in training.
            clip_index: index of each clip in the global batch, `[clips]`; the frames of a clip
                are consecutive. By default every frame is a clip.

        Returns:
            A list with one array `[frames, height / 2**(i + 1), width / 2**(i + 1), channels]` for
            each stage i = 1, 2, ... but the last, and one `[frames, 1, 1, channels]`.

        Raises:
            UserError: `rngs` is missing.
        """
        random = {}
        if train and self.drop_path_rate:
            random = drop_path_keys(rngs, clip_index, len(frames))
        x, remat = self.stem(frames), self.remat if train else 0
        features = run_stages(self.stages, x, remat=remat, between=self.downsamples, **random)
        features[-1] = self.norm(global_average_pool(features[-1])[:, None, None])
        return features

    def stem(self, frames):
        """Map `[frames, height, width, 3]` to `[frames, height / 4, width / 4, channels]`."""
        return self.stem_norm(self.stem_conv(frames))
