"""Heads of TSN, TSM, TPN and TRN in PyTorch; names of parameters are mmaction2's."""

import itertools

import torch
from torch import nn


class AverageHead(nn.Module):
    """The head of TSN and TPN: average the features of all frames, then classify."""

    def __init__(self, in_channels, num_classes, *, dropout_rate):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.fc_cls = nn.Linear(in_channels, num_classes)

    def forward(self, x):
        """Map `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        return self.fc_cls(self.dropout(x.mean(1)))


class FrameHead(nn.Module):
    """The head of TSM: classify every frame, then average."""

    def __init__(self, in_channels, num_classes, *, dropout_rate=0.5):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.fc_cls = nn.Linear(in_channels, num_classes)

    def forward(self, x):
        """Map `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        return self.fc_cls(self.dropout(x)).mean(1)


class TRNHead(nn.Module):
    """Embed every frame, then let relations between frames score (Zhou et al., 2018).

    Args:
        in_channels: channels of the features.
        num_classes: number of classes.
        num_segments: number of frames.
        multi_scale: relations of all scales, else of all frames only.
        dropout_rate: share of each frame's features that is dropped in training.
        embedding_channels: features of a frame in relations.
        train_relations: "sample", "first" or "expected", as in our `TRNHead`.
        eval_relations: the same for evaluation.
    """

    def __init__(
        self,
        in_channels,
        num_classes,
        *,
        num_segments,
        multi_scale,
        dropout_rate=0.8,
        embedding_channels=256,
        train_relations="sample",
        eval_relations="expected",
    ):
        super().__init__()
        self.dropout = nn.Dropout(dropout_rate)
        self.fc_cls = nn.Linear(in_channels, embedding_channels)
        self.consensus = Relations(
            embedding_channels,
            num_classes,
            num_segments=num_segments,
            multi_scale=multi_scale,
            train_relations=train_relations,
            eval_relations=eval_relations,
        )

    def forward(self, x):
        """Map `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        return self.consensus(self.fc_cls(self.dropout(x)))


class Relations(nn.Module):
    """The sum of the scores of relations; arguments as in `TRNHead`."""

    def __init__(
        self,
        channels,
        num_classes,
        *,
        num_segments,
        multi_scale,
        train_relations,
        eval_relations,
    ):
        super().__init__()
        self.train_relations = train_relations
        self.eval_relations = eval_relations
        scales = range(num_segments, 1, -1) if multi_scale else (num_segments,)
        hidden = 256 if multi_scale else 512
        networks = [
            nn.Sequential(
                nn.ReLU(),
                nn.Linear(scale * channels, hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, num_classes),
            )
            for scale in scales
        ]
        if multi_scale:
            self.fc_fusion_scales = nn.ModuleList(networks)
        else:
            self.classifier = networks[0]
        self.names = [f"table_{scale}" for scale in scales]
        for name, scale in zip(self.names, scales, strict=True):
            table = torch.tensor(list(itertools.combinations(range(num_segments), scale)))
            self.register_buffer(name, table, persistent=False)  # moves with the weights

    def forward(self, x):
        """Map `[batch, frames, channels]` to logits `[batch, num_classes]`."""
        mode = self.train_relations if self.training else self.eval_relations
        networks = getattr(self, "fc_fusion_scales", None) or [self.classifier]
        return sum(
            self._scores(x, network, getattr(self, name), mode)
            for network, name in zip(networks, self.names, strict=True)
        )

    def _scores(self, x, network, table, mode):
        used = min(3, len(table))
        if mode == "first":
            table = table[:used]
        elif mode == "sample" and used < len(table):
            table = table[torch.randperm(len(table), device=table.device)[:used]]
        scores = network(x[:, table].flatten(2))  # [batch, relations, num_classes]
        return scores.mean(1) * used
