"""Extract features from frames of a video: python examples/features.py <video> [weights]."""

import sys

import numpy as np

import trn_jax
from trn_jax.data.annotations import Record
from trn_jax.data.videos import VideoFiles

path, *weights = sys.argv[1:]  # weights: resnet50-0676ba61.pth, runs/trn@best, ...
model = trn_jax.create_model("tsn_resnet50", num_classes=0, weights=weights[0] if weights else None)
with VideoFiles().open(Record(index=0, path=path, num_frames=0, label=0)) as video:
    frames = video.read(np.linspace(0, video.num_frames - 1, 8).astype(int))
features = model(np.stack(frames)[None])[0]  # [batch, frames, channels]
print(f"{path}: features {features.shape}, {features.dtype}")
