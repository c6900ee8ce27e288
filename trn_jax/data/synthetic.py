"""A small data set in which only the order of the frames tells the two classes of a pair apart.

Its classes come in pairs, a motion and the same motion backwards ("Moving something up" and "Moving
something down"). Every clip of one class has its twin in the other, in the same split: the same
frames in reverse order. A model that averages over frames can learn which pair it sees, but gives
twins the same answer and is wrong about one of them: 1/2 is its limit. A model that reasons about
order can reach 1.

`write` puts the clips on disk as JPEG folders with lists in the layout of Something-Something V1,
so that they are read by the same road as real videos:

    <root>/rawframes/<id>/00001.jpg ...
    <root>/train_list.txt, val_list.txt     lines of "<id> <num_frames> <label>"
    <root>/label_map.txt                    one class name per line, in the order of the labels
    <root>/synthetic.json                   what the data set was made from; written last

Lengths in the drawing code are in units of the frame height. Positions are complex numbers, x + iy
from the centre of the frame with x to the right and y downwards, so that angles run clockwise.
"""

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from trn_jax.errors import UserError

# (forward, backward). Mirroring a frame swaps "left" with "right" and "clockwise" with
# "counterclockwise" in these names, and leaves every other class as it is.
CLASS_PAIRS = (
    ("Moving something from left to right", "Moving something from right to left"),
    ("Moving something up", "Moving something down"),
    ("Moving something towards the camera", "Moving something away from the camera"),
    ("Something appearing", "Something disappearing"),
    ("A circle turning into a square", "A square turning into a circle"),
    ("Turning something clockwise", "Turning something counterclockwise"),
    ("Moving two things closer to each other", "Moving two things away from each other"),
    ("Turning the light on", "Turning the light off"),
)
CLASS_NAMES = tuple(name for pair in CLASS_PAIRS for name in pair)  # label 2 * pair + backward

_FORMAT = 1  # to be raised whenever the same spec would give other files
_MARKER = "synthetic.json"
_SPLITS = ("train", "val")
_JPEG_QUALITY = 90
_MAX_JITTER = 1  # pixels by which the camera shakes
_SUBPIXEL_BITS = 4  # binary digits after the point in positions of corners

# A clip has num_segments frames times one of these. They are odd because only then does taking the
# middle frame of every segment pick mirror-image frames from a clip and from its reverse.
_FRAMES_PER_SEGMENT = (1, 1, 1, 3)


@dataclasses.dataclass(frozen=True)
class SyntheticSpec:
    """What the data set is made from; two equal specs give the same files.

    num_train, num_val: clips, each a multiple of the number of classes, so that classes are equal
      in size.
    num_segments: every clip has an odd multiple of this many frames.
    height: of a frame, in pixels; the width varies from 1 to 1.25 times the height.
    seed: of all random choices.

    Raises:
      UserError: a value is not possible; the message lists all such values.
    """

    num_train: int = 2400
    num_val: int = 480
    num_segments: int = 8
    height: int = 64
    seed: int = 0

    def __post_init__(self):
        clips = f"a positive multiple of {len(CLASS_NAMES)}, the number of classes"
        rules: dict[str, tuple[str, Callable[[int], bool]]] = {
            "num_train": (clips, lambda n: n > 0 and n % len(CLASS_NAMES) == 0),
            "num_val": (clips, lambda n: n > 0 and n % len(CLASS_NAMES) == 0),
            "num_segments": ("at least 2, or there is no order to learn", lambda n: n >= 2),
            "height": ("32 to 1024 pixels", lambda n: 32 <= n <= 1024),
            "seed": ("not negative", lambda n: n >= 0),
        }
        problems = []
        for name, (expected, holds) in rules.items():
            value = getattr(self, name)
            if not (isinstance(value, int) and holds(value)):
                problems.append(f"{name}={value!r} must be an integer, {expected}")
        if problems:
            raise UserError("impossible synthetic data set: " + "; ".join(problems))


# Writing -----------------------------------------------------------------------------------------


def write(root, spec=None, *, num_threads=None, progress=None):
    """Write the data set to the folder `root`, unless it is there already.

    The folder appears complete or not at all: files are written to a folder beside it, which is
    renamed at the end. Every clip is a function of (seed, split, position in the list) alone, so
    neither the number of threads nor that of clips changes it.

    Args:
      root: folder to create; its parents are created too.
      spec: a SyntheticSpec; None means SyntheticSpec().
      num_threads: threads that draw and encode; None means one per processor.
      progress: called as `progress(num_done, num_clips)` after each clip.

    Returns:
      The folder, as an absolute Path.

    Raises:
      UserError: `root` holds something else, or a data set of another spec.
    """
    root = Path(root).resolve()
    spec = SyntheticSpec() if spec is None else spec
    if num_threads is not None and num_threads < 1:
        raise UserError(f"num_threads={num_threads} must be at least 1, or None for all processors")
    if _is_complete(root, spec):
        return root

    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _new_folder_beside(root)
    try:
        _write_files(unfinished, spec, num_threads or os.cpu_count(), progress)
        _publish(unfinished, root, spec)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return root


def _is_complete(root, spec):
    """Say whether `root` holds the data set of `spec`; raise if it holds anything else."""
    marker = root / _MARKER
    if not marker.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(
                f"{root} exists and is not a synthetic data set (no {_MARKER} in it); "
                "choose another folder, or remove this one if nothing in it is needed"
            )
        return False

    wanted = _description(spec)
    try:
        found = json.loads(marker.read_text())
        differences = [
            f"{key}={found.get(key)!r} on disk, {wanted.get(key)!r} asked for"
            for key in sorted(wanted.keys() | found.keys())
            if found.get(key) != wanted.get(key)
        ]
    except (ValueError, AttributeError):
        raise UserError(
            f"{marker} is not readable as the description of a synthetic data set; "
            f"remove the folder {root} and run again"
        ) from None
    if differences:
        raise UserError(
            f"{root} holds another synthetic data set ({'; '.join(differences)}); "
            "choose another folder, ask for what is there, or remove this folder and run again"
        )
    return True


def _description(spec):
    return {"format": _FORMAT, **dataclasses.asdict(spec)}


def _new_folder_beside(root):
    """Create the folder to write to, and remove those that dead processes have left.

    The host is part of the name because a process id says nothing about a process of another host
    that writes to the same file system.
    """
    prefix = f"{root.name}.partial-{socket.gethostname()}-"
    for found in root.parent.iterdir():
        pid = found.name.removeprefix(prefix)
        if pid != found.name and pid.isdecimal() and not _is_other_live_process(int(pid)):
            shutil.rmtree(found, ignore_errors=True)  # another process may be at it too
    folder = root.parent / f"{prefix}{os.getpid()}"
    folder.mkdir()
    return folder


def _is_other_live_process(pid):
    if pid == os.getpid():  # left by an earlier process that had our id
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and somebody else's
        pass
    return True


def _publish(folder, root, spec):
    try:
        os.replace(folder, root)
    except OSError:
        # Another process may have finished the same data set first; then there is nothing to do.
        if not _is_complete(root, spec):
            raise


def _write_files(folder, spec, num_threads, progress):
    clips = [(split, index) for split in _SPLITS for index in range(_num_clips(spec, split))]

    def write_clip(clip):
        return _write_clip(folder, spec, *clip)

    lines: dict[str, list[str]] = {split: [] for split in _SPLITS}
    with ThreadPoolExecutor(num_threads) as pool:
        for done, line in enumerate(pool.map(write_clip, clips)):
            lines[clips[done][0]].append(line)
            if progress is not None:
                progress(done + 1, len(clips))

    for split in _SPLITS:
        (folder / f"{split}_list.txt").write_text("".join(lines[split]))
    (folder / "label_map.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    (folder / _MARKER).write_text(json.dumps(_description(spec), indent=2) + "\n")


def _num_clips(spec, split):
    return spec.num_train if split == "train" else spec.num_val


def _write_clip(folder, spec, split, index):
    """Write the frames of one clip and return its line of the list."""
    # Ids count through both splits, as they do in Something-Something.
    clip_id = index + 1 if split == "train" else spec.num_train + index + 1

    # A block is a run of clips that has each class once, in random order. The two classes of a pair
    # share a generator, which makes their clips twins.
    block, position = divmod(index, len(CLASS_NAMES))
    seed = (spec.seed, _SPLITS.index(split), block)
    label = int(np.random.default_rng((*seed, 0)).permutation(len(CLASS_NAMES))[position])
    rng = np.random.default_rng((*seed, 1 + label // 2))
    num_frames = spec.num_segments * int(rng.choice(_FRAMES_PER_SEGMENT))
    clip = render_clip(label, num_frames, rng, height=spec.height)

    clip_folder = folder / "rawframes" / str(clip_id)
    clip_folder.mkdir(parents=True)
    for number, frame in enumerate(clip, start=1):
        jpeg = simplejpeg.encode_jpeg(frame, quality=_JPEG_QUALITY, colorspace="RGB")
        (clip_folder / f"{number:05d}.jpg").write_bytes(jpeg)
    return f"{clip_id} {num_frames} {label}\n"


# Drawing -----------------------------------------------------------------------------------------


def render_clip(label, num_frames, rng, *, height=64):
    """Draw one clip.

    The two classes of a pair make the same random choices: given generators in the same state, the
    clip of one is the clip of the other in reverse order, bit for bit.

    Args:
      label: name or number of the class.
      num_frames: at least 1.
      rng: numpy Generator; all variety comes from it.
      height: of a frame, in pixels.

    Returns:
      uint8 `[num_frames, height, width, 3]`, RGB; width is drawn from 1 to 1.25 times the height.

    Raises:
      UserError: there is no such class.
    """
    pair, backward = divmod(_label_number(label), 2)
    width = height + int(rng.integers(height // 4 + 1))

    background = _background(height, width, rng)
    # Uneven speed. It need not be symmetric in time, since the clip is reversed as a whole.
    time = np.linspace(0, 1, num_frames) ** np.exp(rng.uniform(-0.3, 0.3))
    things, light = _MOTIONS[CLASS_PAIRS[pair][0]](time, rng)

    # What the camera adds is drawn for every frame on its own, so that it cannot tell the time.
    jitter = rng.integers(-_MAX_JITTER, _MAX_JITTER + 1, (num_frames, 2))  # x, y in pixels
    gain = light * rng.uniform(0.97, 1.03, num_frames)
    noise_range = rng.uniform(8, 20)  # between the lowest and the highest value

    things = [
        (
            _pixels(outline, jitter, height, width),
            _colour_against(background, rng),
            np.broadcast_to(opacity, num_frames),
        )
        for outline, opacity in things
    ]
    # Frame by frame in uint8, because small arrays make this several times faster.
    noise = rng.integers(256, size=(num_frames, height, width, 3), dtype=np.uint8)
    clip = np.empty_like(noise)
    for i, (x, y) in enumerate(jitter):
        frame = background[_MAX_JITTER - y :, _MAX_JITTER - x :][:height, :width]
        for corners, colour, opacity in things:
            drawn = cv2.fillPoly(frame.copy(), [corners[i]], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            frame = cv2.addWeighted(drawn, opacity[i], frame, 1 - opacity[i], 0)
        # Rounds, and clips to 0..255.
        clip[i] = cv2.addWeighted(frame, gain[i], noise[i], noise_range / 255, -noise_range / 2)
    return clip[::-1] if backward else clip


def _label_number(label):
    if label in CLASS_NAMES:
        return CLASS_NAMES.index(label)
    if label in range(len(CLASS_NAMES)):
        return int(label)
    raise UserError(
        f"no class {label!r} in the synthetic data set; there are 0 to {len(CLASS_NAMES) - 1}: "
        + ", ".join(repr(name) for name in CLASS_NAMES)
    )


def _background(height, width, rng):
    """Draw a smooth scene, `_MAX_JITTER` wider and higher than a frame on every side."""
    height, width = height + 2 * _MAX_JITTER, width + 2 * _MAX_JITTER
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32)

    def along(angle, scale):
        return np.float32(scale * np.cos(angle)) * x + np.float32(scale * np.sin(angle)) * y

    even = np.ones((height, width), np.float32)
    slope = along(rng.uniform(0, 2 * np.pi), 1)
    stripes = np.sin(along(rng.uniform(0, 2 * np.pi), 2 * np.pi * rng.uniform(2, 8)))
    colours = rng.uniform((70, -50, -12), (185, 50, 12), (3, 3))  # [channels, parts]
    scene = cv2.transform(np.stack([even, slope, stripes], -1), colours)

    clouds = rng.integers(256, size=(4, 5, 3), dtype=np.uint8)
    clouds = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    scene += (clouds - np.float32(128)) * np.float32(rng.uniform(0, 0.2))
    return np.clip(scene, 0, 255).astype(np.uint8)


def _colour_against(background, rng):
    """Choose of several random colours the one that differs most from the background."""
    colours = rng.uniform(0, 255, (12, 3))
    distances = np.linalg.norm(colours - background.mean((0, 1)), axis=1)
    return colours[distances.argmax()].tolist()


def _pixels(outline, jitter, height, width):
    """Map an outline to the int32 `[num_frames, corners, 2]` that cv2.fillPoly wants."""
    corners = np.stack([outline.real, outline.imag], -1) * height
    corners = corners + np.array([width - 1, height - 1]) / 2 + jitter[:, None]
    return np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)


# Shapes ------------------------------------------------------------------------------------------
#
# A shape is the complex numbers x + iy of its corners, at size 1 around the origin and pointing up.

_CIRCLE = np.exp(2j * np.pi * np.arange(64) / 64)
# The square around the circle, with as many corners so that one can turn into the other.
_SQUARE = _CIRCLE / np.maximum(abs(_CIRCLE.real), abs(_CIRCLE.imag))
_TRIANGLE = -1.3j * np.exp(2j * np.pi * np.arange(3) / 3)
_STAR = -1j * np.tile([1.4, 0.6], 5) * np.exp(2j * np.pi * np.arange(10) / 10)
_BAR = np.array([-0.4 - 1.4j, 0.4 - 1.4j, 0.4 + 1.4j, -0.4 + 1.4j])
_SHAPES = (_CIRCLE, _SQUARE, _TRIANGLE, _STAR, _BAR)
_ARROW = np.array(  # looks the same after no turn but a full one, and the same in a mirror
    [-1.4j, 0.5 - 0.5j, 0.15 - 0.5j, 0.15 + 1.3j, -0.15 + 1.3j, -0.15 - 0.5j, -0.5 - 0.5j]
)


def _place(shape, position=0.0, *, size, angle=0.0):
    """Turn, scale and move a shape; arguments per frame give `[num_frames, corners]`."""
    return np.reshape(position, (-1, 1)) + np.reshape(size * np.exp(1j * angle), (-1, 1)) * shape


def _some_thing(rng, position=0.0, *, size):
    """Place one of the shapes at any angle."""
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    return _place(shape, position, size=size, angle=rng.uniform(0, 2 * np.pi))


def _near(rng, x, y):
    """Draw a point at most x and y away from the centre of the frame."""
    return rng.uniform(-x, x) + 1j * rng.uniform(-y, y)


# Motions -----------------------------------------------------------------------------------------
#
# Each maps `time`, which rises from 0 to 1 in `[num_frames]`, to the things in the scene, a list of
# (outline, opacity), and to the light, a factor of all brightness; both may vary with time. Sizes
# and ways are such that the square middle of a frame shows all, and three quarters of it enough.


def _slide(time, rng, *, direction):
    middle = direction * _near(rng, 0.03, 0.12)
    way = direction * (time - 0.5) * rng.uniform(0.42, 0.54)
    return [(_some_thing(rng, middle + way, size=rng.uniform(0.09, 0.14)), 1)], 1


def _approach(time, rng):
    start, end = rng.uniform(0.04, 0.06), rng.uniform(0.24, 0.30)
    return [(_some_thing(rng, _near(rng, 0.08, 0.08), size=start + (end - start) * time), 1)], 1


def _appear(time, rng):
    return [(_some_thing(rng, _near(rng, 0.08, 0.08), size=rng.uniform(0.15, 0.22)), time)], 1


def _square_a_circle(time, rng):
    shape = _CIRCLE + (_SQUARE - _CIRCLE) * time[:, None]
    place = _near(rng, 0.06, 0.06)
    size, angle = rng.uniform(0.2, 0.26), rng.uniform(-0.1, 0.1)
    return [(_place(shape, place, size=size, angle=angle), 1)], 1


def _turn(time, rng):
    # Half-way it points upwards, more or less. If it points anywhere, a small network is still
    # guessing the direction after the 200 steps in which it learns most other classes.
    angle = np.deg2rad(rng.uniform(-40, 40) + (time - 0.5) * rng.uniform(100, 140))
    place, size = _near(rng, 0.05, 0.05), rng.uniform(0.22, 0.28)
    return [(_place(_ARROW, place, size=size, angle=angle), 1)], 1


def _gather(time, rng):
    middle, axis = _near(rng, 0.04, 0.04), np.exp(1j * rng.uniform(0, 2 * np.pi))
    far, close = rng.uniform(0.26, 0.32), rng.uniform(0.09, 0.12)
    distance = axis * (far + (close - far) * time)
    places = (middle - distance, middle + distance)
    return [(_some_thing(rng, place, size=rng.uniform(0.07, 0.10)), 1) for place in places], 1


def _light_up(time, rng):
    thing = _some_thing(rng, _near(rng, 0.15, 0.15), size=rng.uniform(0.1, 0.2))
    return [(thing, 1)], 0.12 + 0.88 * time


_MOTIONS: dict[str, Callable] = {  # by the forward class of the pair
    "Moving something from left to right": partial(_slide, direction=1),
    "Moving something up": partial(_slide, direction=-1j),
    "Moving something towards the camera": _approach,
    "Something appearing": _appear,
    "A circle turning into a square": _square_a_circle,
    "Turning something clockwise": _turn,
    "Moving two things closer to each other": _gather,
    "Turning the light on": _light_up,
}
