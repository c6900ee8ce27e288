"""Crops: boxes `(left, top, width, height)` in pixels, random for training and fixed for tests."""

import dataclasses
import functools
from typing import Any

import numpy as np

from trn_jax.errors import UserError

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


def multi_scale_boxes(height, width, *, scales, num_positions, max_scale_gap=1, snap_to=0):
    """All boxes of the multi-scale crop, which are equally likely.

    Sides are the short side times one of `scales`; width and height may have different ones.
    Wang et al., "Towards Good Practices for Very Deep Two-Stream ConvNets", 2015.

    Args:
        height: height of the frame.
        width: width of the frame.
        scales: shares of the short side, descending.
        num_positions: 5 (corners and centre) or 13 (also the points between them).
        max_scale_gap: how far apart in `scales` width and height may be; 0 gives squares.
        snap_to: sides less than 3 pixels from this size become this size, as in the references,
            unless the frame is smaller; 0 for none.

    Returns:
        A list per size of boxes `(left, top, width, height)`. Without free space several positions
        are equal and keep their weight.
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


# Most frames of a data set have one of a few sizes.
_cached_boxes = functools.lru_cache(maxsize=1000)(multi_scale_boxes)


def random_resized_box(height, width, rng, *, area_range, aspect_ratio_range):
    """Draw a box of random area and aspect ratio.

    The first of ten draws that fits gets a random position. If none fits, the box is the largest
    square, in the middle (torchvision falls back to another one). Szegedy et al., "Going Deeper
    with Convolutions", 2015, as in mmaction2.

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
    # A frame of a few pixels could give an empty box, which the reference does not expect.
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


def _check_sizes(size, short_side):
    if size < 1:
        raise UserError(f"crop_size={size} pixels must be at least 1")
    if short_side < 0:
        raise UserError(
            f"short_side={short_side} must be a number of pixels, or 0 for frames as they are"
        )


class _RandomCrop:
    """One box of the decoded frame, or, if `exact`, of the frame scaled to `short_side`."""

    num_crops = 1

    @property
    def scaled_to(self: Any):
        """Short side that frames are scaled to before cropping; 0: not scaled."""
        return self.short_side if self.exact else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleCrop(_RandomCrop):
    """A random crop of one of several sizes and positions, resized to a square.

    Attributes:
        size: side of the result, in pixels.
        short_side: short side of the frames that the published recipe crops from, in pixels; 0: it
            crops from the frames as they are.
        scales: shares of the short side.
        num_positions: 5 or 13.
        max_scale_gap: how far apart in `scales` width and height may be; 0 gives squares.
        exact: resize to `short_side`, crop, resize, as published. Otherwise crop from the decoded
            pixels and resize once: the same boxes up to rounding, in a fifth of the time.
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
            # Sides snap in frames of the published size, which the decoded ones may not have.
            snap_to=self.size if self.exact or not self.short_side else 0,
        )
        boxes = sizes[rng.integers(len(sizes))]
        return [(boxes[rng.integers(len(boxes))], False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(_RandomCrop):
    """A crop of random area, aspect ratio and position, resized to a square.

    Attributes:
        size: side of the result, in pixels.
        short_side: see `MultiScaleCrop`.
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
    """One, three or ten crops of frames scaled to `short_side`.

    Attributes:
        size: side of the crops, in pixels.
        short_side: short side of the frames before cropping, in pixels.
        kind: "center"; "three" (both ends and the middle of the long side; `size` must equal
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
                f"short_side=0 does not go with crop={self.kind!r}; set short_side to the pixels "
                f"that the short side is scaled to, at least {self.size}"
            )
        if self.kind == "three" and self.size != self.short_side:
            raise UserError(
                f"three crops need crop_size equal to short_side, found {self.size} and "
                f"{self.short_side}"
            )
        if self.size > self.short_side:
            raise UserError(
                f"a crop of {self.size} pixels does not fit into frames whose short side is "
                f"{self.short_side}; lower crop_size or raise short_side"
            )

    @property
    def num_crops(self):
        """Crops per clip."""
        return _NUM_CROPS[self.kind]

    @property
    def scaled_to(self):
        """Short side that frames are scaled to before cropping."""
        return self.short_side

    def boxes(self, height, width, rng=None):
        """The boxes of a frame: a list of `num_crops` `(box, mirrored)`; draws nothing."""
        if self.kind == "center":
            return [(center_box(height, width, self.size), False)]
        if self.kind == "three":
            return [(box, False) for box in three_boxes(height, width, self.size)]
        boxes = five_boxes(height, width, self.size)
        return [(box, mirrored) for box in boxes for mirrored in (False, True)]
