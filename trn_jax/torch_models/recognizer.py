"""Whole models in PyTorch, with the names of mmaction2 and of the original repositories."""

import torch
from torch import nn


def channels_last(backbone):
    """Whether the maps and kernels of a backbone have channels-last memory."""
    return getattr(backbone, "channels_last", True)


class Recognizer(nn.Module):
    """A model with mmaction2's names: a backbone, a neck or none, and a head.

    Args:
        backbone: one of the networks of this package.
        head: maps `[batch, frames, channels]` to logits.
        neck: a `TPN`, or `None`.
        mean: subtracted from the pixels, per channel, in RGB order.
        std: divides the pixels afterwards.
    """

    auxiliary_weight = 0.5

    def __init__(self, backbone, head, neck=None, *, mean, std):
        super().__init__()
        self.name_parts(backbone, head)
        self.neck = neck
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def name_parts(self, backbone, head):
        """Assign the parts to the attributes that name their parameters."""
        self.backbone = backbone
        self.cls_head = head

    def score(self, x):
        """Map pooled features `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        return self.cls_head(x)

    def forward(self, clips):
        """Map `[batch, frames, height, width, 3]`, pixels in 0..255, RGB, to logits."""
        return self.outputs(clips)[0]

    def outputs(self, clips):
        """The logits, and the neck's auxiliary ones in training, or `None`."""
        features = self.stages(clips)
        x, auxiliary = features[-1], None  # [batch, channels, time, height, width]
        if self.neck is not None:
            x, auxiliary = self.neck(features)
        return self.score(x.mean((3, 4)).transpose(1, 2)), auxiliary

    def backbone_features(self, clips):
        """The last stage's features of `clips`, `[batch, time, height, width, channels]`."""
        return self.stages(clips)[-1].permute(0, 2, 3, 4, 1)

    def stages(self, clips):
        """The features of all stages, a list of `[batch, channels, time, height, width]`."""
        batch = len(clips)
        x = (clips.float() - self.mean) / self.std
        # Channels are the first axis, but last in memory.
        if self.backbone.sees_clips:
            return self.backbone(x.permute(0, 4, 1, 2, 3))
        x = x.flatten(0, 1).permute(0, 3, 1, 2)
        features = self.backbone(x if channels_last(self.backbone) else x.contiguous())
        return [f.unflatten(0, (batch, -1)).transpose(1, 2) for f in features]


class OriginalRecognizer(Recognizer):
    """The names of the original TSN and TRN: `base_model`, `new_fc` and `consensus`."""

    def name_parts(self, backbone, head):
        """Assign the parts to the attributes that name their parameters."""
        self.base_model = backbone
        self.dropout = head.dropout
        self.new_fc = head.fc_cls
        self.consensus = getattr(head, "consensus", None)

    @property
    def backbone(self):
        """The backbone, by its name in `Recognizer`."""
        return self.base_model

    def score(self, x):
        """Map pooled features `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        x = self.new_fc(self.dropout(x))
        return x.mean(1) if self.consensus is None else self.consensus(x)
