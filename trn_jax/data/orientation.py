"""Orientation of pictures: the eight symmetries of a rectangle and their display matrices."""

import math

import numpy as np

_ANGLE = math.radians(0.5)  # how far display matrices may be from quarter turns, as in FFmpeg


def oriented(pixels, transposed, upside_down, mirrored):
    """Apply a symmetry of the rectangle to `[height, width, 3]`; the steps in this order."""
    if not (transposed or upside_down or mirrored):
        return pixels
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    pixels = pixels[::-1] if upside_down else pixels
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


def display_matrix(frame):
    """The display matrix of a frame, int `[3, 3]`, or `None`."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all kinds of side data, and gives none of them then
        angle = math.radians(frame.rotation)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.pad(np.rint(turn * (1 << 16)).astype(int), (0, 1))
    return None if data is None else np.frombuffer(data, np.int32, 9).reshape(3, 3)


def symmetry(matrix):
    """The symmetry of the rectangle that a display matrix stands for.

    Matrices that scale are taken as if they did not; those that turn by other angles than multiples
    of 90 degrees, and those without an inverse, as the identity.

    Args:
        matrix: `[3, 3]`, points are rows that are multiplied from the left; or `None`.

    Returns:
        `(transposed, upside_down, mirrored)`, to be done in that order.
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
