"""Vision Transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021).

Numerics are those of torchvision and timm. There is no dropout and no stochastic depth inside, as
in the published fine-tunings.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from trn_jax.backbones.stages import check_remat, run_stages
from trn_jax.errors import UserError
from trn_jax.nn import initial
from trn_jax.nn.attention import self_attention
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import LayerNorm, Linear, storage_dtype


class Attention(nnx.Module):
    """Self-attention among all tokens of a frame.

    Args:
        channels: channels of the input and of the output.
        num_heads: number of attention heads.
        linear: constructor of linear layers.
    """

    def __init__(self, channels, *, num_heads, linear):
        self.num_heads = num_heads
        self.qkv = linear(channels, 3 * channels)
        self.proj = linear(channels, channels)

    def __call__(self, x):
        """Map `[frames, tokens, channels]` to the same shape."""
        return self.proj(self_attention(self.qkv(x), self.num_heads))


class TransformerBlock(nnx.Module):
    """Attention, then a multilayer perceptron, each normalised before and added to its input.

    Args:
        channels: channels of the input and of the output.
        num_heads: number of attention heads.
        norm: constructor of layer norms.
        linear: constructor of linear layers.
    """

    def __init__(self, channels, *, num_heads, norm, linear):
        self.norm1 = norm(channels)
        self.attn = Attention(channels, num_heads=num_heads, linear=linear)
        self.norm2 = norm(channels)
        self.fc1 = linear(channels, 4 * channels)
        self.fc2 = linear(4 * channels, channels)

    def __call__(self, x):
        """Map `[frames, tokens, channels]` to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(jax.nn.gelu(self.fc1(self.norm2(x)), approximate=False))


class ViT(nnx.Module):
    """Vision Transformer without its classifier; the features of a frame are its class token.

    Args:
        depth: number of blocks.
        width: channels.
        head_channels: channels of an attention head.
        patch: side of a patch, in pixels.
        pixels: height and width of the frames, which the position embeddings are for.
        remat: 1 rematerialises the blocks, see `run_stages`.
        dtype: dtype of the computation.
        rngs: source of the `params` keys.

    Attributes:
        stage_channels: channels of the features, of the only stage.
        out_channels: the same.

    Raises:
        UserError: frames of `pixels` don't consist of full patches.
    """

    sees_clips = False
    draws = False

    def __init__(
        self,
        depth,
        *,
        width,
        head_channels=64,
        patch=16,
        pixels=224,
        remat=0,
        dtype=jnp.float32,
        rngs,
    ):
        if pixels < patch or pixels % patch:
            raise UserError(f"pixels={pixels} is not a multiple of the patches' {patch} pixels")
        check_remat(remat, 1)
        self.remat = remat
        self.dtype = dtype
        self.pixels = pixels
        self.stage_channels = (width,)
        self.out_channels = width
        linear = partial(Linear, std=0.02, dtype=dtype, rngs=rngs)
        norm = partial(LayerNorm, epsilon=1e-6, dtype=dtype)
        options = dict(stride=patch, use_bias=True, std=0.02, dtype=dtype, rngs=rngs)
        self.patch_embed = Conv(3, width, patch, **options)
        kept, num_tokens = storage_dtype(dtype), 1 + (pixels // patch) ** 2
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width), kept))
        positions = initial.normal(rngs.params(), (1, num_tokens, width), kept, 0.02)
        self.pos_embed = nnx.Param(positions)
        num_heads = width // head_channels
        self.blocks = nnx.List(
            TransformerBlock(width, num_heads=num_heads, norm=norm, linear=linear)
            for _ in range(depth)
        )
        self.norm = norm(width)

    def __call__(self, frames, *, train=False, num_groups=1):
        """Compute the class token of each frame, normalised.

        Args:
            frames: normalised frames, `[frames, height, width, 3]`.
            train: rematerialise the blocks if `remat` is 1; nothing else differs in training.
            num_groups: unused, there are no batch statistics.

        Returns:
            A list of one array, `[frames, 1, 1, channels]`.

        Raises:
            UserError: the frames have another size.
        """
        remat = self.remat if train else 0
        (x,) = run_stages([self.blocks], self.stem(frames), remat=remat)
        return [self.norm(x[:, :1, None])]

    def stem(self, frames):
        """Map `[frames, height, width, 3]` to the tokens `[frames, tokens, channels]`."""
        if frames.shape[1:3] != (self.pixels, self.pixels):
            raise UserError(
                f"frames have {frames.shape[1]}x{frames.shape[2]} pixels; the position embeddings "
                f"of this ViT are for {self.pixels}x{self.pixels}"
            )
        patches = self.patch_embed(frames)
        patches = patches.reshape(frames.shape[0], -1, patches.shape[-1])
        token = jnp.broadcast_to(self.cls_token[...], (frames.shape[0], 1, patches.shape[-1]))
        x = jnp.concatenate([token.astype(patches.dtype), patches], axis=1)
        return x + self.pos_embed[...].astype(x.dtype)
