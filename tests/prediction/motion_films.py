"""Films of known events: synthetic motions, spliced with stretches in which nothing moves."""

import csv

import av
import cv2
import numpy as np

from trn_jax.data.motions import render_clip

RATE, HEIGHT, WIDTH = 12, 64, 72
SECONDS = 2.0  # of an event
CLASSES = (
    "Moving something from left to right",
    "Moving something from right to left",
    "Something appearing",
    "Something disappearing",
)


def motion(label, rng):
    """An event, uint8 `[24, 64, 72, 3]`."""
    clip = render_clip(label, round(SECONDS * RATE), rng, height=HEIGHT)
    return np.stack([cv2.resize(frame, (WIDTH, HEIGHT)) for frame in clip])


def stillness(scene, seconds, rng):
    """A scene in which nothing moves, with the noise of a camera."""
    noise = rng.integers(-8, 9, (round(seconds * RATE), HEIGHT, WIDTH, 1))
    return (scene.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)


def write_film(path, rng, *, num_events=6):
    """Write a film; returns its events as `(start, end, label)`, in seconds. It ends with one.

    Between two events, the camera rests on the last frame of one, then on the first of the other.
    """
    parts, events, now, scene = [], [], 0.0, None
    for _ in range(num_events):
        label = CLASSES[rng.integers(len(CLASSES))]
        clip = motion(label, rng)
        pauses = rng.integers(RATE, 2 * RATE, 2) / RATE
        rests = [clip[0] if scene is None else scene, clip[0]]
        parts += [stillness(rest, pause, rng) for rest, pause in zip(rests, pauses, strict=True)]
        start = now + pauses.sum()
        parts.append(clip)
        events.append((start, start + SECONDS, label))
        now, scene = start + SECONDS, clip[-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "20", "g": "24"}
        for pixels in np.concatenate(parts):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return events


def write_films(folder, count, *, seed=0, num_events=6):
    """Write films and the table of their events, `parts.csv`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "parts.csv"
    with open(table, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "start", "end", "label"])
        for number in range(count):
            name = f"film{number}.mp4"
            rng = np.random.default_rng((seed, number))
            for start, end, label in write_film(folder / name, rng, num_events=num_events):
                rows.writerow([name, f"{start:.3f}", f"{end:.3f}", label])
    return table
