"""Custom videos and folders of frames, and the data sets that are prepared from them."""

import os

import av
import numpy as np
import simplejpeg

from trn_jax.data import annotations, datasets
from trn_jax.data.class_names import read_class_names
from trn_jax.prepare import custom


def write_video(path, num_frames=6):
    """A tiny video of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num_frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(num_frames):
            pixels = rng.integers(0, 256, (32, 48, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_frames(folder, num_frames, pattern="{:05d}.jpg", first=1):
    """A folder of black frames."""
    folder.mkdir(parents=True)
    pixels = np.zeros((32, 48, 3), np.uint8)
    for number in range(first, first + num_frames):
        (folder / pattern.format(number)).write_bytes(simplejpeg.encode_jpeg(pixels))


def prepared(source, to, **options):
    """Prepare custom videos; returns the summary."""
    to.mkdir(exist_ok=True)
    return str(custom.prepare_custom(str(source), str(to), **options))


def lists(to):
    """`{path: class}` of both splits, as training reads them."""
    files = datasets.locate("frames", to)
    names = read_class_names(files.class_names)
    found = []
    for path in (files.train_list, files.val_list):
        records = annotations.read_list(path, frames_root=files.frames, num_classes=len(names))
        found.append({record.path: names[record.label] for record in records})
        assert all(os.path.exists(record.path) for record in records)
    return found
