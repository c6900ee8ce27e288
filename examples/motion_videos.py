"""Make folders of short videos, one per class, and a film: python examples/motion_videos.py."""

import pathlib

import av
import numpy as np

from trn_jax.data.motions import render_clip

CLASSES, rng = ("Something appearing", "Something disappearing"), np.random.default_rng(0)


def still(frame):  # nothing moves but the noise of the camera
    return (frame + rng.integers(-8.0, 9.0, (24, *frame.shape[:2], 1))).clip(0, 255)


def write(path, frames):  # 12 per second: 24 are two seconds
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as file:
        stream = file.add_stream("mpeg4", rate=12, width=96, height=96, pix_fmt="yuv420p")
        for frame in frames:
            pixels = av.VideoFrame.from_ndarray(frame.astype(np.uint8))
            file.mux(stream.encode(pixels.reformat(96, 96)))
        file.mux(stream.encode(None))


clips = [render_clip(CLASSES[i % 2], 24, rng, height=96) for i in range(166)]
for i, clip in enumerate(clips[6:]):
    write(f"myvideos/{CLASSES[i % 2]}/{i}.mp4", clip)
    write(f"myvideos/nothing/{i}.mp4", still(clip[-i % 3 % 2]))
write("film.mp4", [f for clip in clips[:6] for f in (*still(clip[0]), *clip, *still(clip[-1]))])
