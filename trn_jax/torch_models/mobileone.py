"""MobileOne (Vasu et al., 2023) in PyTorch, with mmpretrain's names."""

import torch.nn.functional as F
from torch import nn

from trn_jax.torch_models.layers import run_stages, sequential


class SqueezeExcite(nn.Module):
    """Scale each channel by a number that depends on the means of all (Hu et al., 2018)."""

    def __init__(self, channels):
        super().__init__()
        hidden = max(8, (channels // 16 + 4) // 8 * 8)
        self.conv1 = sequential(conv=nn.Conv2d(channels, hidden, 1))
        self.conv2 = sequential(conv=nn.Conv2d(hidden, channels, 1))

    def forward(self, x):
        """Scale the channels of `x` `[frames, channels, height, width]`."""
        means = x.mean((2, 3), keepdim=True)
        return x * self.conv2(self.conv1(means).relu_()).sigmoid()


class MobileOneBlock(nn.Module):
    """Sum of a convolution, a 1x1 convolution and the input, each with a batch norm.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        kernel: size of the convolution.
        stride: step between outputs.
        groups: groups of the convolutions.
        num_convs: number of parallel convolutions.
        squeeze_excite: scale the channels of the sum.
        deploy: the single convolution that equals the sum.
    """

    def __init__(
        self, in_channels, channels, kernel, stride, groups, num_convs, squeeze_excite, deploy
    ):
        super().__init__()
        self.se = SqueezeExcite(channels) if squeeze_excite else nn.Identity()
        if deploy:
            self.branches = ["branch_reparam"]
            self.branch_reparam = nn.Conv2d(
                in_channels, channels, kernel, stride, kernel // 2, groups=groups
            )
            return

        def conv_norm(size):
            conv = nn.Conv2d(
                in_channels, channels, size, stride, size // 2, groups=groups, bias=False
            )
            return sequential(conv=conv, norm=nn.BatchNorm2d(channels))

        self.branches = []
        if kernel > 1:
            self.branches.append("branch_scale")
            self.branch_scale = conv_norm(1)
        if in_channels == channels and stride == 1:
            self.branches.append("branch_norm")
            self.branch_norm = nn.BatchNorm2d(channels)
        self.branch_conv_list = nn.ModuleList(conv_norm(kernel) for _ in range(num_convs))

    def forward(self, x):
        """Map `[frames, in_channels, height, width]` to `[frames, channels, height', width']`."""
        branches = [getattr(self, name) for name in self.branches]
        if self.branches != ["branch_reparam"]:
            branches += self.branch_conv_list
        y = branches[0](x)
        for branch in branches[1:]:
            y += branch(x)
        return F.relu_(self.se(y))


class MobileOne(nn.Module):
    """MobileOne without its classifier.

    Args:
        depths: number of pairs of a depthwise and a pointwise block in each stage.
        widths: channels of each stage.
        stem_width: channels of the stem.
        num_se_blocks: number of pairs at the end of each stage with squeeze-and-excitation.
        num_convs: number of parallel convolutions in each block but the stem.
        wrap: function of a block and its input channels that adds a temporal op before it.
        deploy: build the deployed form.
    """

    sees_clips = False
    # With channels last, the backward pass of PyTorch 2.13 on a CPU corrupts memory and aborts
    # ("corrupted size vs. prev_size").
    channels_last = False

    def __init__(
        self,
        depths,
        widths,
        *,
        stem_width=64,
        num_se_blocks=(0, 0, 0, 0),
        num_convs=1,
        wrap=None,
        deploy=False,
    ):
        super().__init__()

        def block(in_channels, channels, kernel, stride, groups, num_convs, squeeze_excite):
            module = MobileOneBlock(
                in_channels, channels, kernel, stride, groups, num_convs, squeeze_excite, deploy
            )
            return module if wrap is None else wrap(module, in_channels)

        self.stage0 = block(3, stem_width, 3, 2, 1, 1, False)
        self.stage_channels = list(widths)
        channels = stem_width
        shape = zip(depths, widths, num_se_blocks, strict=True)
        for stage, (depth, width, num_se) in enumerate(shape, start=1):
            blocks = []
            for index in range(depth):
                stride, excite = (2 if index == 0 else 1), index >= depth - num_se
                blocks.append(block(channels, channels, 3, stride, channels, num_convs, excite))
                blocks.append(block(channels, width, 1, 1, 1, num_convs, excite))
                channels = width
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        return run_stages(self, self.stage0(frames), "stage")
