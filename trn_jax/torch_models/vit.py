"""Vision Transformer (Dosovitskiy et al., 2021) in PyTorch, with torchvision's names."""

import torch
from torch import nn

from trn_jax.torch_models.layers import sequential


class EncoderLayer(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input."""

    def __init__(self, width, num_heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        # The published names have room for a dropout.
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        """Map `[frames, tokens, width]` to the same shape."""
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Position embeddings, layers and a norm."""

    def __init__(self, depth, width, num_heads, num_tokens):
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))
        layers = {f"encoder_layer_{i}": EncoderLayer(width, num_heads) for i in range(depth)}
        self.layers = sequential(**layers)
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        """Map `[frames, tokens, width]` to the same shape."""
        return self.ln(self.layers(x + self.pos_embedding))


class ViT(nn.Module):
    """Vision Transformer without its classifier: the class token of each frame.

    Args:
        depth: number of layers.
        width: channels.
        head_channels: channels of an attention head.
        patch: side of a patch, in pixels.
        pixels: height and width of the frames.
    """

    sees_clips = False

    def __init__(self, depth, *, width, head_channels=64, patch=16, pixels=224):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        num_tokens = 1 + (pixels // patch) ** 2
        self.encoder = Encoder(depth, width, width // head_channels, num_tokens)
        self.stage_channels = [width]

    def forward(self, frames):
        """Map `[frames, 3, pixels, pixels]` to a list of one `[frames, width, 1, 1]`."""
        patches = self.conv_proj(frames).flatten(2).transpose(1, 2)
        token = self.class_token.expand(len(frames), -1, -1)
        x = self.encoder(torch.cat([token, patches], 1))
        return [x[:, 0, :, None, None]]
