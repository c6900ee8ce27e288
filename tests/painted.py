"""A painted film: its frames encode their number and orientation, robustly to any decoder.

The number is painted as 8 blocks along the top, the least significant bit on the left, bright
for 1; the lower corners are red (left) and blue (right).
"""

import fractions
import json
import pathlib

import av
import cv2
import numpy as np

_FAST = {"libvpx": {"cpu-used": "5", "deadline": "good"}}  # "realtime" goes by the clock
_FAST["libvpx-vp9"] = _FAST["libvpx"]
INPUTS = pathlib.Path(__file__).parent / "data" / "inputs"
# What FFmpeg's own program gives for each of these files: numbers are those painted.
TRUTH = json.loads((INPUTS / "truth.json").read_text())
WIDTH, HEIGHT = 160, 96


def frames(count, *, width=WIDTH, height=HEIGHT, start=0):
    """uint8 `[count, height, width, 3]` in RGB, with the numbers from `start` on."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    film = []
    for number in range(start, start + count):
        waves = [np.sin(x / 20 + number / 9), np.sin(y / 15 - number / 13), np.sin((x + y) / 27)]
        frame = (127 + 60 * np.stack(waves, -1)).astype(np.uint8)
        block, band = width // 8, height // 6
        for bit in range(8):
            frame[:band, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 16
        cv2.circle(
            frame, (int(width * (0.2 + number % 30 / 50)), height // 2), height // 8, 3 * (220,), -1
        )
        frame[-band:, :block], frame[-band:, -block:] = (220, 20, 20), (20, 20, 220)
        film.append(frame)
    return np.stack(film)


def number(frame):
    """The number painted on an upright frame."""
    height, width = frame.shape[:2]
    block, band = width // 8, height // 6
    rows = frame[band // 4 : 3 * band // 4]
    means = [
        rows[:, b * block + block // 4 : (b + 1) * block - block // 4].mean() for b in range(8)
    ]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 125)


def corners(frame):
    """The colours, "R", "B" or ".", of top left, top right, bottom left, bottom right."""
    height, width = frame.shape[:2]
    h, w = max(height // 12, 4), max(width // 16, 4)
    found = ""
    for part in (frame[:h, :w], frame[:h, -w:], frame[-h:, :w], frame[-h:, -w:]):
        red, green, blue = part.reshape(-1, 3).mean(axis=0)
        reddish, blueish = (
            red > green + 60 and red > blue + 60,
            blue > red + 60 and blue > green + 60,
        )
        found += "R" if reddish else "B" if blueish else "."
    return found


def encode(film, codec, *, pix_fmt="yuv420p", first=0, **options):
    """The packets of a film at 25 frames per second, and their encoder."""
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = film[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = pix_fmt, fractions.Fraction(1, 25)
    encoder.framerate = 25
    encoder.options = _FAST.get(codec, {}) | {key: str(value) for key, value in options.items()}
    packets = []
    for index, pixels in enumerate(film):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = first + index, encoder.time_base
        packets += encoder.encode(frame)
    return [*packets, *encoder.encode(None)], encoder


def write(path, *films, codec="libx264", pix_fmt="yuv420p", muxer=None, **options):
    """Write a video file with a stream per film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=muxer or {}) as container:
        streams = []
        for film in films:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width = film[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.options = _FAST.get(codec, {}) | {
                key: str(value) for key, value in options.items()
            }
            streams.append(stream)
        for stream, film in zip(streams, films, strict=True):
            for pixels in film:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    return path


def write_with_sizes(path, films, codec, **options):
    """Write one stream whose frames change their size from film to film."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = films[0][0].shape[:2]
        stream.pix_fmt = "yuv420p"
        first = 0
        for film in films:
            for packet in encode(film, codec, first=first, **options)[0]:
                packet.stream = stream
                container.mux(packet)
            first += len(film)
    return path


def display_matrix(path, matrix):
    """Put another display matrix, nine numbers, into the track of an MP4 file."""
    content = bytearray(path.read_bytes())
    identity = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + 36] = np.array(matrix, ">i4").tobytes()
    path.write_bytes(content)
    return path


def decoded(path):
    """All frames that decode, one by one, as FFmpeg's own program gives them: frames of PyAV."""
    found = []
    lenient = {} if int(av.__version__.split(".")[0]) > 18 else {"metadata_errors": "ignore"}
    with av.open(str(path), **lenient) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):
                return found
            try:
                found += packet.decode()
            except av.FFmpegError:
                continue
