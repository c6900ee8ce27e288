"""Draws clips of simple motions in pairs of classes, each the other one backwards in time.

Lengths are in units of the frame height. Positions are complex numbers, x + iy from the centre of
the frame with x to the right and y downwards, so that angles run clockwise.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from trn_jax.errors import UserError

# (forward, backward). Flipping a frame swaps "left" with "right" and "clockwise" with
# "counterclockwise" in these names, and changes no other class.
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

_MAX_JITTER = 1  # camera shake, in pixels
_SUBPIXEL_BITS = 4  # fractional bits of corner positions


def render_clip(label, num_frames, rng, *, height=64):
    """Draw one clip.

    Both classes of a pair draw the same random numbers: with generators in the same state, the clip
    of one is the other one reversed, bit for bit.

    Args:
        label: name or number of the class.
        num_frames: at least 1.
        rng: NumPy generator.
        height: of a frame, in pixels.

    Returns:
        uint8 `[num_frames, height, width, 3]`, RGB; width is 1 to 1.25 times the height.

    Raises:
        UserError: the class is unknown.
    """
    pair, backward = divmod(_label_number(label), 2)
    width = height + int(rng.integers(height // 4 + 1))

    background = _background(height, width, rng)
    # Uneven speed; it may be asymmetric in time, since the clip is reversed as a whole.
    time = np.linspace(0, 1, num_frames) ** np.exp(rng.uniform(-0.3, 0.3))
    things, light = _MOTIONS[CLASS_PAIRS[pair][0]](time, rng)

    # Camera effects are drawn per frame, so they don't reveal the direction of time.
    jitter = rng.integers(-_MAX_JITTER, _MAX_JITTER + 1, (num_frames, 2))  # x, y in pixels
    gain = light * rng.uniform(0.97, 1.03, num_frames)
    noise_range = rng.uniform(8, 20)  # between the lowest and the highest value

    things = [
        (
            _pixels(outline, jitter, height, width),
            _color_against(background, rng),
            np.broadcast_to(opacity, num_frames),
        )
        for outline, opacity in things
    ]
    # Frame by frame in uint8, because small arrays make this several times faster.
    noise = rng.integers(256, size=(num_frames, height, width, 3), dtype=np.uint8)
    clip = np.empty_like(noise)
    for i, (x, y) in enumerate(jitter):
        frame = background[_MAX_JITTER - y :, _MAX_JITTER - x :][:height, :width]
        for corners, color, opacity in things:
            drawn = cv2.fillPoly(frame.copy(), [corners[i]], color, cv2.LINE_AA, _SUBPIXEL_BITS)
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
    """Draw a smooth scene with a margin of `_MAX_JITTER` around the frame."""
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


def _color_against(background, rng):
    """Draw several colours and return the one farthest from the background."""
    colors = rng.uniform(0, 255, (12, 3))
    distances = np.linalg.norm(colors - background.mean((0, 1)), axis=1)
    return colors[distances.argmax()].tolist()


def _pixels(outline, jitter, height, width):
    """Corners of an outline for `cv2.fillPoly`, int32 `[num_frames, corners, 2]`."""
    corners = np.stack([outline.real, outline.imag], -1) * height
    corners = corners + np.array([width - 1, height - 1]) / 2 + jitter[:, None]
    return np.rint(corners * 2**_SUBPIXEL_BITS).astype(np.int32)


# Shapes ------------------------------------------------------------------------------------------
#
# The corners of a shape as complex numbers x + iy, of size 1 around the origin, pointing up.

_CIRCLE = np.exp(2j * np.pi * np.arange(64) / 64)
# The square around the circle, with equally many corners, so that one can turn into the other.
_SQUARE = _CIRCLE / np.maximum(abs(_CIRCLE.real), abs(_CIRCLE.imag))
_TRIANGLE = -1.3j * np.exp(2j * np.pi * np.arange(3) / 3)
_STAR = -1j * np.tile([1.4, 0.6], 5) * np.exp(2j * np.pi * np.arange(10) / 10)
_BAR = np.array([-0.4 - 1.4j, 0.4 - 1.4j, 0.4 + 1.4j, -0.4 + 1.4j])
_SHAPES = (_CIRCLE, _SQUARE, _TRIANGLE, _STAR, _BAR)
_ARROW = np.array(  # symmetric in a mirror, and under no rotation
    [-1.4j, 0.5 - 0.5j, 0.15 - 0.5j, 0.15 + 1.3j, -0.15 + 1.3j, -0.15 - 0.5j, -0.5 - 0.5j]
)


def _place(shape, position=0.0, *, size, angle=0.0):
    """Rotate, scale and move a shape; arguments per frame give `[num_frames, corners]`."""
    return np.reshape(position, (-1, 1)) + np.reshape(size * np.exp(1j * angle), (-1, 1)) * shape


def _some_thing(rng, position=0.0, *, size):
    """Place a random shape at a random angle."""
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    return _place(shape, position, size=size, angle=rng.uniform(0, 2 * np.pi))


def _near(rng, x, y):
    """Draw a point within x and y of the centre of the frame."""
    return rng.uniform(-x, x) + 1j * rng.uniform(-y, y)


# Motions -----------------------------------------------------------------------------------------
#
# Each maps `time` `[num_frames]`, rising from 0 to 1, to a list of (outline, opacity) and a
# brightness factor; both may vary with time. The square middle of a frame shows all of a motion,
# and three quarters of that enough to recognize it.


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
    # Half-way it points roughly upwards. With random angles, a small network still guesses the
    # direction after the 200 steps in which it learns most other classes.
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
