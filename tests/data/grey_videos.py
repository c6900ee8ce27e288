"""Eleven small videos, and reading them; the frames of one are noise on a grey of its own."""

import itertools

import numpy as np
import simplejpeg

from trn_jax.data import annotations, batches, pipeline
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.views import View

NUM_VIDEOS = 11
FOLDERS = FrameFolders(pattern="{:05d}.jpg", first_frame=1)
VIEW = dict(
    num_segments=3,
    sampling="random",
    frame_order="forward",
    short_side=20,
    crop="multi_scale",
    crop_size=16,
    scales=(1, 0.875, 0.75),
    num_positions=5,
    flip_rate=0.5,
    flip_labels=True,
)
EVAL = VIEW | dict(sampling="center", crop="center", flip_rate=0)
THREE = EVAL | dict(crop="three", short_side=16)
TEN = EVAL | dict(crop="ten")
COLOURED = TEN | dict(color_jitter=(0.5, 0.5, 0.5, 0.1))
PROTOCOLS = {
    "efficient": EVAL,
    "accurate": THREE | dict(sampling="twice"),
    "1x10": TEN,
    "again": TEN | dict(merge_views="logits"),
    "coloured": COLOURED,
    "shuffled": EVAL | dict(frame_order="shuffled"),
    "5x10": TEN | dict(num_segments=5),
    "dense": THREE | dict(sampling="dense", num_clips=4, sample_range=6),
    "large": EVAL | dict(short_side=24, crop_size=20),
}


def write_videos(path):
    """Eleven videos of 5 to 15 frames, of four classes."""
    rng = np.random.default_rng(0)
    lines = []
    for video in range(NUM_VIDEOS):
        num_frames = 5 + video
        (path / f"v{video}").mkdir()
        for number in range(1, num_frames + 1):
            frame = rng.integers(20 * video, 20 * video + 20, (24, 32, 3)).astype(np.uint8)
            data = simplejpeg.encode_jpeg(frame, quality=90, colorspace="RGB")
            (path / f"v{video}" / f"{number:05d}.jpg").write_bytes(data)
        lines.append(f"v{video} {num_frames} {video % 4}\n")
    (path / "list.txt").write_text("".join(lines))
    return path


def read_records(root):
    return annotations.read_list(root / "list.txt", frames_root=root, num_classes=4)


def batch_reader(root, view=VIEW, **changes):
    """Reads training batches of the videos."""
    options = dict(
        seed=7, label_map={0: 1, 1: 0}, exact_resize=False, on_error="raise", num_threads=2
    )
    return batches.BatchReader(read_records(root), View(**view), FOLDERS, **options | changes)


def take(iterator, count):
    """The first elements of an iterator, which is closed."""
    try:
        return list(itertools.islice(iterator, count))
    finally:
        iterator.close()


def train(reader, count, batch=4, seed=3, **options):
    """The first training batches."""
    return take(pipeline.train_batches(reader, batch=batch, seed=seed, **options), count)


def eval_videos(root, views=None, times=1, **options):
    """Passes over the videos, each of which occurs `times`; `views` are dicts of settings."""
    parsed = {name: View(**view) for name, view in (views or {"one": EVAL}).items()}
    return pipeline.EvalVideos(read_records(root) * times, parsed, FOLDERS, seed=7, **options)


def evaluate(root, views=None, **options):
    """All `VideoClips` of one pass."""
    return take(iter(eval_videos(root, views, **options)), 1000)


def clips_of(video, name="one"):
    """The clips of one view, `[num_views, segments, size, size, 3]`."""
    found = {
        position: np.flip(pixels, 2) if mirrored else pixels
        for clip, pixels in video.pairs()
        for view, position, mirrored in clip.places
        if view == name
    }
    return np.stack([found[position] for position in range(len(found))])


def assert_same_videos(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.example == b.example and a.clips == b.clips
        for one, other in zip(a.pixels, b.pixels, strict=True):
            np.testing.assert_array_equal(one, other)


def assert_same_batches(found, expected):
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
