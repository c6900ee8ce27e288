"""Resizes, crops, flips and colours frames.

Everything writes uint8 pixels straight into a given buffer. Resizing is OpenCV's bilinear
interpolation without antialiasing, as in the published pipelines.
"""

import dataclasses

import cv2
import numpy as np

from trn_jax.errors import UserError

_GREY = np.array([0.2989, 0.587, 0.114])  # luminance weights of red, green and blue


def short_side_size(height, width, short_side):
    """Height and width after scaling the shorter side to `short_side`, rounded half up."""
    factor = short_side / min(height, width) if short_side else 1
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize(frame, height, width, out=None):
    """Resize `frame` `[h, w, 3]` to `[height, width, 3]`, into `out` if given."""
    return cv2.resize(frame, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)


def resize_short_side(frame, short_side, memory=None):
    """Resize a frame to a short side.

    Args:
        frame: `[h, w, 3]`.
        short_side: pixels; 0 does not resize.
        memory: a `memory.Scratch` to write into; by default a new array.

    Returns:
        The resized frame, or `frame` if it has this size.
    """
    if not short_side:
        return frame
    height, width, _ = frame.shape
    height, width = short_side_size(height, width, short_side)
    if frame.shape[:2] == (height, width):
        return frame
    return resize(frame, height, width, memory and memory.array(height, width, 3))


def cut(frame, box, mirrored, out):
    """Crop a box, resize it to the size of `out` and flip it.

    Args:
        frame: `[h, w, 3]`.
        box: `(left, top, width, height)`.
        mirrored: flip left to right.
        out: receives the pixels, `[height, width, 3]`.
    """
    left, top, width, height = box
    pixels = frame[top : top + height, left : left + width]
    if pixels.shape != out.shape:
        pixels = resize(pixels, out.shape[0], out.shape[1], out=out)
    if mirrored:
        cv2.flip(pixels, 1, dst=out)
    elif pixels is not out:
        out[:] = pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Random flip from left to right, with a map of labels.

    Attributes:
        rate: fraction of clips that are flipped.
        label_map: labels that change, `{label: label of the flipped clip}`.
    """

    rate: float
    label_map: dict[int, int]

    def draw(self, rng):
        """Draw whether a clip is flipped."""
        return rng.random() < self.rate

    def label(self, label):
        """Label of a flipped clip, or a tuple of its several labels."""
        if isinstance(label, tuple):
            return tuple(self.label_map.get(each, each) for each in label)
        return self.label_map.get(label, label)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order, the same for a whole clip.

    The operations are those of mmaction2: `x * b`; `x * c + (1 - c) * mean(grey(x))` with a mean
    per frame; `x * s + (1 - s) * grey(x)`; and a hue rotation in OpenCV's 8-bit HSV. The order is
    drawn per clip; the reference draws it once per process.

    Attributes:
        brightness: `b` is drawn from 1 - brightness to 1 + brightness.
        contrast: the same for `c`.
        saturation: the same for `s`.
        hue: largest rotation, as a share of 255 steps of two degrees: 0.1 is 50 degrees.
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
        """Draw the operations for a clip; without strengths draws nothing and returns `None`.

        Returns:
            `(brightness, contrast, saturation, rotation of the hue, order of the operations)`.
        """
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        if not strengths.any():
            return None
        brightness, contrast, saturation, hue = strengths * rng.uniform(-1, 1, 4) + (1, 1, 1, 0)
        order = rng.permutation(4)
        return float(brightness), float(contrast), float(saturation), int(hue * 255), tuple(order)


def color(clip, drawn):
    """Apply what `ColorJitter.draw` returned to `clip` `[..., height, width, 3]`, in place."""
    if drawn is not None:
        for frame in clip.reshape(-1, *clip.shape[-3:]):
            _jitter(frame, *drawn)


def _jitter(frame, brightness, contrast, saturation, turn, order):
    """Jitter one frame `[height, width, 3]` in place.

    All operations but the hue rotation are linear in the colours of a pixel, so those before and
    those after it are one matrix each: two passes over the frame instead of eight.
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
        # OpenCV rounds; the reference truncates.
        cv2.transform(frame, np.column_stack([matrix, offset - 0.49]), dst=frame)


def _turn_hue(frame, turn):
    cv2.cvtColor(frame, cv2.COLOR_RGB2HSV, dst=frame)
    turned = ((np.arange(256) + turn) % 180).astype(np.uint8)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(frame, 0), turned), frame, 0)
    cv2.cvtColor(frame, cv2.COLOR_HSV2RGB, dst=frame)
