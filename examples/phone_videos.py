"""Make folders of videos like those of phones, and two films: python examples/phone_videos.py."""

import pathlib

import av
import numpy as np

from trn_jax.data.motions import render_clip

CLASSES = ("Moving something up", "Moving something down", "Something appearing")
NAMES = ("IMG_{:04}.MOV", "VID-20260312-WA{:04}.mp4", "PXL_20260402_{:06}.mp4")
TURNED = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
UPRIGHT = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
rng = np.random.default_rng(0)


def still(frame):  # nothing moves but the noise of the camera
    return (frame + rng.integers(-8.0, 9.0, (24, *frame.shape[:2], 1))).clip(0, 255)


def write(path, frames, is_turned=False):  # 12 frames per second, and sound
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=12, width=96, height=96, pix_fmt="yuv420p")
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for frame in frames:
            pixels = np.rot90(frame, int(is_turned)).astype(np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels).reformat(96, 96)))
        noise = rng.integers(-999, 999, (1, len(frames) * 16000 // 12), np.int16)
        heard = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        heard.sample_rate = 16000
        file.mux([*video.encode(None), *sound.encode(heard), *sound.encode(None)])
    if is_turned:  # a phone that is held upright stores sideways frames, and how to turn them
        movie, track = path.read_bytes().split(b"tkhd", 1)
        path.write_bytes(movie + b"tkhd" + track.replace(UPRIGHT, TURNED, 1))


for i in range(240):
    name, label = NAMES[i // 3 % 3].format(i), CLASSES[i % 3]
    clip = render_clip(label, 24, rng, height=96)
    write(pathlib.Path("phone", label, name), clip, is_turned=i % 4 == 0)
    if i % 2:
        write(pathlib.Path("phone", "nothing", name), still(clip[i % 5]))
broken = pathlib.Path("phone", CLASSES[0], NAMES[0].format(0))
broken.write_bytes(broken.read_bytes()[:2000])  # the phone was full
for day in ("monday", "tuesday"):
    scenes, rows = [], ["video,start,end,label"]
    for i in range(30):
        label = CLASSES[rng.integers(3)]
        clip = render_clip(label, 24, rng, height=96)
        scenes += [*still(clip[0]), *clip, *still(clip[-1])]
        rows.append(f"{day}.mp4,{6 * i + 2},{6 * i + 4},{label}")
    write(pathlib.Path("films", f"{day}.mp4"), scenes)
    pathlib.Path("films", f"{day}.csv").write_text("\n".join(rows) + "\n")
