"""BN-Inception (Ioffe and Szegedy, 2015) in PyTorch, with the flat names of its Caffe original."""

import torch
import torch.nn.functional as F
from torch import nn

from trn_jax.backbones.bninception import BLOCKS


class BNInception(nn.Module):
    """BN-Inception without its classifier.

    Kernels are for pixels in BGR order, as in the published files; frames are in RGB order.

    Args:
        width: channels of the first convolution; all others scale with it.
    """

    sees_clips = False

    def __init__(self, *, width=64):
        super().__init__()
        self._add("conv1_7x7_s2", 3, width, 7, 2)
        self._add("conv2_3x3_reduce", width, width, 1)
        channels = 192 * width // 64
        self._add("conv2_3x3", width, channels, 3)
        self.stage_channels = []
        for name, single, triple, double, _, projected in BLOCKS:
            if not projected:
                self.stage_channels.append(channels)
            sizes = single, triple, double, projected
            channels = self._add_block(name, channels, *sizes, width)
        self.stage_channels.append(channels)

    def _add(self, name, in_channels, channels, kernel, stride=1):
        conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2)
        self.add_module(name, conv)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(channels))
        return channels

    def _add_block(self, name, in_channels, single, triple, double, projected, width):
        def add(part, before, channels, kernel, stride=1):
            channels = channels * width // 64
            return self._add(f"inception_{name}_{part}", before, channels, kernel, stride)

        stride = 1 if projected else 2
        out_channels = add("1x1", in_channels, single, 1) if single else 0
        reduced = add("3x3_reduce", in_channels, triple[0], 1)
        out_channels += add("3x3", reduced, triple[1], 3, stride)
        reduced = add("double_3x3_reduce", in_channels, double[0], 1)
        reduced = add("double_3x3_1", reduced, double[1], 3)
        out_channels += add("double_3x3_2", reduced, double[1], 3, stride)
        return out_channels + (
            add("pool_proj", in_channels, projected, 1) if projected else in_channels
        )

    def forward(self, frames):
        """Map `[frames, 3, height, width]` to a list of `[frames, channels, height', width']`."""
        x = self._run("conv1_7x7_s2", frames.flip(1))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self._run("conv2_3x3", self._run("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        features = []
        for name, single, _, _, pool, projected in BLOCKS:
            if not projected:
                features.append(x)
            x = self._run_block(f"inception_{name}", x, single, pool, projected)
        return [*features, x]

    def _run(self, name, x):
        return getattr(self, f"{name}_bn")(getattr(self, name)(x)).relu_()

    def _run_block(self, name, x, single, pool, projected):
        branches = [self._run(f"{name}_1x1", x)] if single else []
        branches.append(self._run(f"{name}_3x3", self._run(f"{name}_3x3_reduce", x)))
        y = self._run(f"{name}_double_3x3_1", self._run(f"{name}_double_3x3_reduce", x))
        branches.append(self._run(f"{name}_double_3x3_2", y))
        if not projected:
            branches.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        else:
            y = F.avg_pool2d(x, 3, 1, 1) if pool == "average" else F.max_pool2d(x, 3, 1, 1)
            branches.append(self._run(f"{name}_pool_proj", y))
        return torch.cat(branches, 1)
