"""Resizing, cropping, flipping and colouring clips.

Pure functions compute rectangles `(left, top, width, height)` in pixels; frozen dataclasses apply
them to all frames of a clip alike and write uint8 pixels straight into a given buffer. Resizing is
OpenCV's bilinear interpolation without antialiasing, as in the published pipelines.
"""

import dataclasses
import functools
import re
from typing import Any

import cv2
import numpy as np

from trn_jax.errors import UserError, did_you_mean

# Corners, centre and the points between them, in quarters of the free space (x, y).
FIVE_POSITIONS = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2))
THIRTEEN_POSITIONS = (
    *FIVE_POSITIONS,
    *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
)
_POSITIONS = {5: FIVE_POSITIONS, 13: THIRTEEN_POSITIONS}
RANDOM_CROPS = ("multi_scale", "random_resized")
_NUM_CROPS = {"center": 1, "three": 3, "ten": 10}
CROPS = (*RANDOM_CROPS, *_NUM_CROPS)
_CROP_ATTEMPTS = 10

_MIRRORED_WORDS = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
_GREY = np.array([0.2989, 0.587, 0.114])  # of red, green and blue: their shares of the luminance


# Geometry ----------------------------------------------------------------------------------------


def short_side_size(height, width, short_side):
    """Height and width after scaling the shorter side to `short_side`, rounded half up."""
    factor = short_side / min(height, width) if short_side else 1
    return int(height * factor + 0.5), int(width * factor + 0.5)


def multi_scale_boxes(height, width, *, scales, num_positions, max_scale_gap=1, snap_to=0):
    """All rectangles that the multi-scale crop chooses from, with equal chances.

    Sides are the short side times one of `scales`; width and height may have different ones.
    Wang et al., "Towards Good Practices for Very Deep Two-Stream ConvNets", 2015.

    Args:
        height: height of the frame.
        width: width of the frame.
        scales: shares of the short side, descending.
        num_positions: 5 (corners and centre) or 13 (also the points between them).
        max_scale_gap: how far apart in `scales` width and height may be; 0 gives squares.
        snap_to: sides less than 3 pixels from this size take it, as in the references, where the
            frame has it; 0 for none.

    Returns:
        A list with one list per size, each of rectangles `(left, top, width, height)`. Where there
        is no free space, several positions are the same and keep their weight.
    """
    short_side = min(height, width)
    sides = [max(int(short_side * scale), 1) for scale in scales]
    snaps = 0 < snap_to <= short_side
    snapped = [snap_to if snaps and abs(side - snap_to) < 3 else side for side in sides]
    boxes = []
    for i, box_height in enumerate(snapped):
        for j, box_width in enumerate(snapped):
            if abs(i - j) <= max_scale_gap:
                x, y = (width - box_width) // 4, (height - box_height) // 4
                boxes.append(
                    [(x * u, y * v, box_width, box_height) for u, v in _POSITIONS[num_positions]]
                )
    return boxes


# Most frames of a data set are of a few sizes.
_cached_boxes = functools.lru_cache(maxsize=1000)(multi_scale_boxes)


def random_resized_box(height, width, rng, *, area_range, aspect_ratio_range):
    """Draw a rectangle of random area and shape.

    Ten areas and shapes are drawn; the first one that fits is taken, at a random place. If none
    fits, it is the largest square, in the middle (torchvision falls back to another one). Szegedy
    et al., "Going Deeper with Convolutions", 2015, in the form of mmaction2.

    Args:
        height: height of the frame.
        width: width of the frame.
        rng: `np.random.Generator`.
        area_range: smallest and largest share of the frame's area, drawn uniformly.
        aspect_ratio_range: smallest and largest width / height, its logarithm drawn uniformly.

    Returns:
        `(left, top, width, height)`.
    """
    ratios = np.exp(rng.uniform(*np.log(aspect_ratio_range), size=_CROP_ATTEMPTS))
    areas = rng.uniform(*area_range, size=_CROP_ATTEMPTS) * (height * width)
    widths = np.round(np.sqrt(areas * ratios)).astype(int)
    heights = np.round(np.sqrt(areas / ratios)).astype(int)
    # A frame of a few pixels could give an empty rectangle, which the reference does not expect.
    for w, h in zip(np.maximum(widths, 1).tolist(), np.maximum(heights, 1).tolist(), strict=True):
        if w <= width and h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return int(left), int(top), w, h
    return center_box(height, width, min(height, width))


def center_box(height, width, size):
    """The square of `size` pixels in the middle."""
    return ((width - size) // 2, (height - size) // 2, size, size)


def three_boxes(height, width, size):
    """Squares at both ends and in the middle of the longer side; the shorter one is `size`."""
    if height == size:
        step = (width - size) // 2
        return [(x, 0, size, size) for x in (0, 2 * step, step)]
    step = (height - size) // 2
    return [(0, y, size, size) for y in (0, 2 * step, step)]


def five_boxes(height, width, size):
    """Squares in the corners and in the middle."""
    x, y = (width - size) // 4, (height - size) // 4
    return [(x * u, y * v, size, size) for u, v in FIVE_POSITIONS]


# Pixels ------------------------------------------------------------------------------------------


def resize(frame, height, width, out=None):
    """Resize `frame` `[h, w, 3]` to `[height, width, 3]`, into `out` if given."""
    return cv2.resize(frame, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)


def resize_short_side(frame, short_side, memory=None):
    """Resize a frame so that its shorter side has a length.

    Args:
        frame: `[h, w, 3]`.
        short_side: pixels; 0 leaves it as it is.
        memory: a `memory.Scratch` to write into; by default a new array.

    Returns:
        A frame; the same one if it has this size.
    """
    if not short_side:
        return frame
    height, width, _ = frame.shape
    height, width = short_side_size(height, width, short_side)
    if frame.shape[:2] == (height, width):
        return frame
    return resize(frame, height, width, memory and memory.array(height, width, 3))


def cut(frame, box, mirrored, out):
    """Write the pixels of a box, resized where it has another size and `mirrored` if asked for.

    Args:
        frame: `[h, w, 3]`.
        box: `(left, top, width, height)`.
        mirrored: exchange left and right.
        out: receives them, `[height, width, 3]`.
    """
    left, top, width, height = box
    pixels = frame[top : top + height, left : left + width]
    if pixels.shape != out.shape:
        pixels = resize(pixels, out.shape[0], out.shape[1], out=out)
    if mirrored:
        cv2.flip(pixels, 1, dst=out)
    elif pixels is not out:
        out[:] = pixels


def _check_sizes(size, short_side):
    if size < 1:
        raise UserError(f"crop_size={size} pixels must be at least 1")
    if short_side < 0:
        raise UserError(
            f"short_side={short_side} must be a number of pixels, or 0 for frames as they are"
        )


class _RandomCrop:
    """One box of a frame as it was decoded, or, to be `exact`, of one that is scaled first."""

    num_crops = 1

    @property
    def scaled_to(self: Any):
        """Short side that frames are scaled to before boxes are cut; 0: they are left alone."""
        return self.short_side if self.exact else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleCrop(_RandomCrop):
    """A random crop of one of several sizes and positions, resized to a square.

    Attributes:
        size: side of the result, in pixels.
        short_side: short side of the frames that the published recipe crops from, in pixels; 0 if
            it crops from the frames as they are.
        scales: shares of the short side.
        num_positions: 5 or 13.
        max_scale_gap: how far apart in `scales` width and height may be; 0 gives squares.
        exact: resize to `short_side`, crop, resize, as published. Otherwise the crop is taken from
            the decoded pixels and resized once: the same boxes up to rounding, in a fifth of the
            time.
    """

    size: int
    short_side: int
    scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)
    num_positions: int = 13
    max_scale_gap: int = 1
    exact: bool = False

    def __post_init__(self):
        if self.num_positions not in _POSITIONS:
            raise UserError(f"num_positions={self.num_positions} is not 5 or 13")
        if self.max_scale_gap < 0:
            raise UserError(f"max_scale_gap={self.max_scale_gap} must be at least 0")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise UserError(f"scales={self.scales} must be shares of the short side in (0, 1]")
        _check_sizes(self.size, self.short_side)

    def boxes(self, height, width, rng):
        """Draw the box of a frame: a list of one `(box, mirrored)`."""
        sizes = _cached_boxes(
            height,
            width,
            scales=tuple(self.scales),
            num_positions=self.num_positions,
            max_scale_gap=self.max_scale_gap,
            # Sides snap in the frames of the published recipe, which may be these or not.
            snap_to=self.size if self.exact or not self.short_side else 0,
        )
        boxes = sizes[rng.integers(len(sizes))]
        return [(boxes[rng.integers(len(boxes))], False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(_RandomCrop):
    """A crop of random area, shape and place, resized to a square.

    Attributes:
        size: side of the result, in pixels.
        short_side: short side of the frames that the published recipe crops from, in pixels; 0 if
            it crops from the frames as they are.
        area_range: smallest and largest share of the frame's area.
        aspect_ratio_range: smallest and largest width / height.
        exact: see `MultiScaleCrop`.
    """

    size: int
    short_side: int
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3)
    exact: bool = False

    def __post_init__(self):
        if len(self.area_range) != 2 or not 0 < self.area_range[0] <= self.area_range[1] <= 1:
            raise UserError(
                f"area_range={self.area_range} must be the smallest and the largest share of the "
                "frame's area, both in (0, 1], such as (0.08, 1.0)"
            )
        ratios = self.aspect_ratio_range
        if len(ratios) != 2 or not 0 < ratios[0] <= ratios[1]:
            raise UserError(
                f"aspect_ratio_range={ratios} must be the smallest and the largest width / height, "
                "such as (0.75, 1.333)"
            )
        _check_sizes(self.size, self.short_side)

    def boxes(self, height, width, rng):
        """Draw the box of a frame: a list of one `(box, mirrored)`."""
        box = random_resized_box(
            height,
            width,
            rng,
            area_range=self.area_range,
            aspect_ratio_range=self.aspect_ratio_range,
        )
        return [(box, False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestCrops:
    """One, three or ten crops of frames whose short side was scaled to `short_side`.

    Attributes:
        size: side of the crops, in pixels.
        short_side: short side of the frames before cropping, in pixels.
        kind: "center"; "three" (both ends and the middle of the long side, `size` must be
            `short_side`); or "ten" (corners and centre, each followed by its mirror image).
    """

    size: int
    short_side: int
    kind: str = "center"

    def __post_init__(self):
        if self.kind not in _NUM_CROPS:
            raise UserError(f"crop={self.kind!r} is not one of {', '.join(CROPS)}")
        _check_sizes(self.size, self.short_side)
        if not self.short_side:
            raise UserError(
                f"short_side=0, frames as they are, does not go with crop={self.kind!r}; set "
                f"short_side to the pixels that the short side is scaled to, at least {self.size}"
            )
        if self.size > self.short_side:
            raise UserError(
                f"a crop of {self.size} pixels does not fit into frames whose short side is "
                f"{self.short_side}; lower crop_size or raise short_side"
            )
        if self.kind == "three" and self.size != self.short_side:
            raise UserError(
                f"three crops need crop_size equal to short_side, found {self.size} and "
                f"{self.short_side}"
            )

    @property
    def num_crops(self):
        """Crops per clip."""
        return _NUM_CROPS[self.kind]

    @property
    def scaled_to(self):
        """Short side that frames are scaled to before boxes are cut."""
        return self.short_side

    def boxes(self, height, width, rng=None):
        """The boxes of a frame: a list of `num_crops` `(box, mirrored)`; draws nothing."""
        if self.kind == "center":
            return [(center_box(height, width, self.size), False)]
        if self.kind == "three":
            return [(box, False) for box in three_boxes(height, width, self.size)]
        boxes = five_boxes(height, width, self.size)
        return [(box, mirrored) for box in boxes for mirrored in (False, True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror clips left to right, and labels with them.

    Attributes:
        rate: share of the clips that is mirrored.
        label_map: labels that change, `{label: mirrored label}`.
    """

    rate: float
    label_map: dict[int, int]

    def draw(self, rng):
        """Draw whether a clip is mirrored."""
        return rng.random() < self.rate

    def label(self, label):
        """The label of a clip that was mirrored; several labels are a tuple, and become one."""
        if isinstance(label, tuple):
            return tuple(self.label_map.get(each, each) for each in label)
        return self.label_map.get(label, label)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order, for a clip as a whole.

    The operations are those of mmaction2: `x * b`; `x * c + (1 - c) * mean(grey(x))`, a mean per
    frame; `x * s + (1 - s) * grey(x)`; and a turn of the hue by OpenCV's 8-bit HSV. Their order is
    drawn for every clip; the reference draws it once per process.

    Attributes:
        brightness: `b` is drawn from 1 - brightness to 1 + brightness.
        contrast: the same for `c`.
        saturation: the same for `s`.
        hue: largest turn, a share of 255 steps of two degrees each: 0.1 is 50 degrees.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self):
        strengths = (self.brightness, self.contrast, self.saturation, self.hue)
        if not all(0 <= strength <= 1 for strength in strengths[:3]) or not 0 <= self.hue <= 0.5:
            raise UserError(
                f"color_jitter={strengths} must be the strengths of brightness, contrast and "
                "saturation in 0..1 and of hue in 0..0.5, such as (0.5, 0.5, 0.5, 0.1)"
            )

    def draw(self, rng):
        """Draw what happens to a clip; `None`, and nothing is drawn, if all strengths are 0.

        Returns:
            `(brightness, contrast, saturation, turn of the hue, order of the operations)`.
        """
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        if not strengths.any():
            return None
        brightness, contrast, saturation, hue = strengths * rng.uniform(-1, 1, 4) + (1, 1, 1, 0)
        order = rng.permutation(4)
        return float(brightness), float(contrast), float(saturation), int(hue * 255), tuple(order)

    def __call__(self, clip, rng):
        """Colour `clip` `[..., height, width, 3]` in place as drawn from `rng`."""
        color(clip, self.draw(rng))


def color(clip, drawn):
    """Colour `clip` `[..., height, width, 3]` in place as `ColorJitter.draw` has drawn."""
    if drawn is not None:
        for frame in clip.reshape(-1, *clip.shape[-3:]):
            _jitter(frame, *drawn)


def _jitter(frame, brightness, contrast, saturation, turn, order):
    """Colour one frame `[height, width, 3]` in place, in the given order of the operations.

    All but the turn of the hue are linear in the colours of a pixel, so those before it and those
    after it are one matrix each, and the frame is passed over twice instead of eight times.
    """
    matrix, offset = np.eye(3), np.zeros(3)
    for operation in order:
        if operation == 0:
            matrix, offset = matrix * brightness, offset * brightness
        elif operation == 1:
            mean_grey = _GREY @ (matrix @ cv2.mean(frame)[:3] + offset)
            matrix, offset = matrix * contrast, offset * contrast + (1 - contrast) * mean_grey
        elif operation == 2:
            mix = saturation * np.eye(3) + (1 - saturation) * _GREY
            matrix, offset = mix @ matrix, mix @ offset
        elif turn:
            _transform(frame, matrix, offset)
            matrix, offset = np.eye(3), np.zeros(3)
            _turn_hue(frame, turn)
    _transform(frame, matrix, offset)


def _transform(frame, matrix, offset):
    if not np.array_equal(matrix, np.eye(3)) or offset.any():
        # OpenCV rounds; the reference cuts decimals off.
        cv2.transform(frame, np.column_stack([matrix, offset - 0.49]), dst=frame)


def _turn_hue(frame, turn):
    cv2.cvtColor(frame, cv2.COLOR_RGB2HSV, dst=frame)
    turned = ((np.arange(256) + turn) % 180).astype(np.uint8)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(frame, 0), turned), frame, 0)
    cv2.cvtColor(frame, cv2.COLOR_HSV2RGB, dst=frame)


def mirrored_labels(class_names):
    """Which classes a mirror turns into which others, told from their names.

    Two classes are mirror images if exchanging "left" with "right", or "clockwise" with
    "counterclockwise" (also "counter-clockwise", "anticlockwise"), turns the name of one into that
    of the other: "Pushing something from left to right" and "Pushing something from right to left".
    A direction without a partner ("Plugging something in but pulling it right out") is none.

    Args:
        class_names: names in the order of their labels.

    Returns:
        `{label: mirrored label}` for the classes that change.
    """
    names = [_plain_name(name) for name in class_names]
    labels = {name: label for label, name in enumerate(names)}

    def mirror(name):
        return re.sub(r"[a-z]+", lambda word: _MIRRORED_WORDS.get(word[0], word[0]), name)

    found = {label: labels.get(mirror(name), label) for label, name in enumerate(names)}
    return {label: other for label, other in found.items() if label != other}


def _plain_name(name):
    return re.sub(r"\b(counter|anti)[- ]?clockwise\b", "counterclockwise", name.casefold())


def paired_labels(pairs, class_names):
    """The labels that given pairs of class names exchange.

    Args:
        pairs: pairs of names, each a class and its mirror image.
        class_names: all names, in the order of their labels.

    Returns:
        `{label: mirrored label}`, in both directions.

    Raises:
        UserError: something is not a pair, a name is not that of a class, or occurs twice; all
            problems are reported at once.
    """
    labels = {name: label for label, name in enumerate(class_names)}
    found: dict[int, int] = {}
    problems = []
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            problems.append(f"{pair!r} is not a pair of two class names")
            continue
        for name in pair:
            if name not in labels:
                hint = did_you_mean(name, class_names)
                problems.append(f"{name!r} is not one of the {len(class_names)} classes{hint}")
            elif pair[0] == pair[1] or labels[name] in found:
                problems.append(f"{name!r} occurs twice")
        if all(name in labels for name in pair):
            first, second = (labels[name] for name in pair)
            found |= {first: second, second: first}
    if problems:
        raise UserError("flip_pairs cannot be used:\n  " + "\n  ".join(dict.fromkeys(problems)))
    return found
