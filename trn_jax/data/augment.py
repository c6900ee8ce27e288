"""Resizing, cropping and flipping clips.

Pure functions compute rectangles `(left, top, width, height)` in pixels; frozen dataclasses apply
them to all frames of a clip alike and write uint8 pixels straight into a given buffer. Resizing is
OpenCV's bilinear interpolation without antialiasing, as in the published pipelines.
"""

import dataclasses
import re

import cv2

from trn_jax.errors import UserError

# Corners, centre and the points between them, in quarters of the free space (x, y).
FIVE_POSITIONS = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2))
THIRTEEN_POSITIONS = (
    *FIVE_POSITIONS,
    *((0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)),
)
_POSITIONS = {5: FIVE_POSITIONS, 13: THIRTEEN_POSITIONS}
_NUM_CROPS = {"center": 1, "three": 3, "ten": 10}
_MIRRORED_WORDS = {
    "left": "right",
    "right": "left",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}


# Geometry ----------------------------------------------------------------------------------------


def short_side_size(height, width, short_side):
    """Height and width after scaling the shorter side to `short_side`, rounded half up."""
    factor = short_side / min(height, width)
    return int(height * factor + 0.5), int(width * factor + 0.5)


def multi_scale_boxes(height, width, *, scales, num_positions, snap_to=0):
    """All rectangles that the multi-scale crop chooses from, with equal chances.

    Sides are the short side times one of `scales`; width and height may be neighbouring scales.
    Wang et al., "Towards Good Practices for Very Deep Two-Stream ConvNets", 2015.

    Args:
        height: height of the frame.
        width: width of the frame.
        scales: shares of the short side, descending.
        num_positions: 5 (corners and centre) or 13 (also the points between them).
        snap_to: sides less than 3 pixels from this size take it, as in the references; 0 for none.

    Returns:
        A list with one list per size, each of rectangles `(left, top, width, height)`. Where there
        is no free space, several positions are the same and keep their weight.
    """
    short_side = min(height, width)
    sides = [int(short_side * scale) for scale in scales]
    snapped = [snap_to if abs(side - snap_to) < 3 else side for side in sides]
    boxes = []
    for i, box_height in enumerate(snapped):
        for j, box_width in enumerate(snapped):
            if abs(i - j) <= 1:
                x, y = (width - box_width) // 4, (height - box_height) // 4
                boxes.append(
                    [(x * u, y * v, box_width, box_height) for u, v in _POSITIONS[num_positions]]
                )
    return boxes


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


def resize_short_side(frames, short_side):
    """Resize frames `[h, w, 3]` of one size so that the shorter side is `short_side`."""
    height, width, _ = frames[0].shape
    height, width = short_side_size(height, width, short_side)
    if frames[0].shape[:2] == (height, width):
        return frames
    return [resize(frame, height, width) for frame in frames]


def _cut(frame, box):
    left, top, width, height = box
    return frame[top : top + height, left : left + width]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleCrop:
    """A random crop of one of several sizes and positions, resized to a square.

    Attributes:
        size: side of the result, in pixels.
        short_side: short side of the frames that the published recipe crops from, in pixels.
        scales: shares of the short side.
        num_positions: 5 or 13.
        exact: resize to `short_side`, crop, resize, as published. Otherwise the crop is taken from
            the decoded pixels and resized once: the same boxes up to rounding, in a fifth of the
            time.
    """

    size: int
    short_side: int
    scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)
    num_positions: int = 13
    exact: bool = False

    num_crops = 1

    def __post_init__(self):
        if self.num_positions not in _POSITIONS:
            raise UserError(f"num_positions={self.num_positions} is not 5 or 13")
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise UserError(f"scales={self.scales} must be shares of the short side in (0, 1]")

    def __call__(self, frames, rng, out):
        """Write the crop of `frames` into `out` `[1, len(frames), size, size, 3]`."""
        if self.exact:
            frames = resize_short_side(frames, self.short_side)
        sizes = multi_scale_boxes(
            *frames[0].shape[:2],
            scales=self.scales,
            num_positions=self.num_positions,
            snap_to=self.size if self.exact else 0,
        )
        boxes = sizes[rng.integers(len(sizes))]
        box = boxes[rng.integers(len(boxes))]
        for frame, target in zip(frames, out[0], strict=True):
            resize(_cut(frame, box), self.size, self.size, out=target)


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
            raise UserError(
                f"crop={self.kind!r} is not one of multi_scale, {', '.join(_NUM_CROPS)}"
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

    def __call__(self, frames, rng, out):
        """Write all crops into `out` `[num_crops, len(frames), size, size, 3]`."""
        frames = resize_short_side(frames, self.short_side)
        height, width = frames[0].shape[:2]
        if self.kind == "center":
            boxes = [center_box(height, width, self.size)]
        elif self.kind == "three":
            boxes = three_boxes(height, width, self.size)
        else:
            boxes = five_boxes(height, width, self.size)
        mirrors = self.num_crops // len(boxes)
        for number, box in enumerate(boxes):
            for time, frame in enumerate(frames):
                out[mirrors * number, time] = _cut(frame, box)
                if mirrors == 2:
                    cv2.flip(_cut(frame, box), 1, dst=out[mirrors * number + 1, time])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror clips left to right, and labels with them.

    Attributes:
        rate: share of the clips that is mirrored.
        label_map: labels that change, `{label: mirrored label}`.
    """

    rate: float
    label_map: dict[int, int]

    def __call__(self, clip, label, rng):
        """Mirror `clip` `[1, frames, height, width, 3]` in place; returns the new label."""
        if rng.random() >= self.rate:
            return label
        for frame in clip[0]:
            cv2.flip(frame, 1, dst=frame)
        return self.label_map.get(label, label)


def mirrored_labels(class_names):
    """Which classes a mirror turns into which others, told from their names.

    Two classes are mirror images if exchanging "left" with "right", or "clockwise" with
    "counterclockwise", turns the name of one into that of the other: "Pushing something from left
    to right" and "Pushing something from right to left". A direction without a partner ("Plugging
    something in but pulling it right out") is none.

    Args:
        class_names: names in the order of their labels.

    Returns:
        `{label: mirrored label}` for the classes that change.
    """
    labels = {name.casefold(): label for label, name in enumerate(class_names)}

    def mirror(name):
        return re.sub(
            r"[a-z]+", lambda word: _MIRRORED_WORDS.get(word[0], word[0]), name.casefold()
        )

    found = {label: labels.get(mirror(name), label) for label, name in enumerate(class_names)}
    return {label: other for label, other in found.items() if label != other}
