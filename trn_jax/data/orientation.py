"""Orientation of frames: the eight symmetries of a rectangle and their display matrices."""

import math

import cv2
import numpy as np

_ANGLE = math.radians(0.5)  # tolerance of display matrices around quarter turns, as in FFmpeg


def oriented(pixels, transposed, upside_down, mirrored):
    """Apply a symmetry to `[height, width, 3]`, in the order of the arguments."""
    if not (transposed or upside_down or mirrored):
        return pixels
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    pixels = pixels[::-1] if upside_down else pixels
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


def squared(pixels, aspect):
    """Resample pixels that are `aspect` times as wide as high to square ones; no side shrinks."""
    if aspect == 1:
        return pixels
    height, width = pixels.shape[:2]
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)


def display_matrix(frame):
    """The display matrix of a frame, int `[3, 3]`, or `None`."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV fails on unknown kinds of side data
        angle = math.radians(frame.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.pad(np.rint(turn * (1 << 16)).astype(int), (0, 1))
    return None if data is None else np.frombuffer(data, np.int32, 9).reshape(3, 3)


def symmetry(matrix):
    """The symmetry of a display matrix.

    Scale is ignored. Rotations other than multiples of 90 degrees and singular matrices are treated
    as the identity.

    Args:
        matrix: `[3, 3]`, for points as row vectors; or `None`.

    Returns:
        `(transposed, upside_down, mirrored)`, see `oriented`.
    """
    if matrix is None:
        return False, False, False
    (a, b, _), (c, d, _), _ = matrix.astype(float)
    if not (math.hypot(a, c) and math.hypot(b, d)):
        return False, False, False
    angle = math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))
    turns = angle / (math.pi / 2)
    if abs(turns - round(turns)) * math.pi / 2 > _ANGLE:
        return False, False, False
    if round(turns) % 2:
        return True, bool(b < 0), bool(c < 0)
    return False, bool(d < 0), bool(a < 0)
