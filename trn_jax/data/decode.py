"""Reading the frames of a video that are used, and no others."""

import os
import re

import cv2
import numpy as np
import simplejpeg

from trn_jax.errors import UserError

_JPEG_MAGIC = b"\xff\xd8"


class FrameError(UserError):
    """A frame is missing or cannot be decoded; the message names the file."""


def read_frames(folder, indices, *, pattern, first_frame):
    """Decode some frames of a folder.

    Args:
        folder: folder with one image per frame.
        indices: which frames, counted from 0; a frame that occurs twice is decoded once.
        pattern: file name for a number, such as `"{:05d}.jpg"`.
        first_frame: the number of frame 0, usually 1.

    Returns:
        A list of uint8 arrays `[height, width, 3]` in RGB, all of one size.

    Raises:
        FrameError: a frame is missing, cannot be decoded, or differs in size from the first one.
    """
    frames = {}
    for index in indices:
        if index not in frames:
            path = os.path.join(folder, pattern.format(int(index) + first_frame))
            frames[index] = _read_image(path)
    found = [frames[index] for index in indices]
    sizes = {frame.shape for frame in found}
    if len(sizes) > 1:
        raise FrameError(f"the frames in {folder} differ in size: {sorted(sizes)}")
    return found


def check_folder(folder, num_frames, *, pattern, first_frame):
    """Look whether first and last frame of a folder are there, under the names expected.

    Raises:
        FrameError: they are not; the message says what is there, and which setting to change.
    """
    if first_frame == 1 and os.path.exists(os.path.join(folder, pattern.format(0))):
        raise FrameError(
            f"the frames in {folder} are numbered from 0 ({pattern.format(0)!r} exists); "
            "set data.first_frame=0"
        )
    for number in (first_frame, first_frame + num_frames - 1):
        if not os.path.exists(os.path.join(folder, pattern.format(number))):
            raise FrameError(_explain_missing(folder, pattern.format(number)))


def _read_image(path):
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise FrameError(_explain_missing(*os.path.split(path))) from None
    except OSError as error:
        raise FrameError(f"cannot read {path}: {error.strerror}") from None
    if not data:
        raise FrameError(f"{path} is empty (0 bytes); extract this video again")
    if data.startswith(_JPEG_MAGIC):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError as error:
            raise FrameError(
                f"cannot decode {path} ({len(data)} bytes): {error}; extract this video again"
            ) from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise FrameError(f"{path} is neither a JPEG nor another image that OpenCV reads")
    return image


def _explain_missing(folder, name):
    if not os.path.isdir(folder):
        return (
            f"folder {folder} not found; check data_dir and data.frames, or the first column of "
            "the list"
        )
    files = sorted(os.listdir(folder))
    images = [f for f in files if f.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))]
    if not images:
        return f"frame {name!r} not found in {folder}, which has no images at all"
    message = f"frame {name!r} not found in {folder}"
    pattern = _guess_pattern(images[0])
    number = re.search(r"(\d+)\.\w+$", name)
    if pattern is None or number is None or pattern.format(int(number[1])) != name:
        hint = f"; set data.frame_pattern={pattern!r}" if pattern else ""
        return f"{message} (found {images[0]!r}){hint}"
    return (
        f"{message}: the folder has {len(images)} images, {images[0]!r} to {images[-1]!r}, and the "
        "list says that there are more; correct its second column, or data.first_frame"
    )


def _guess_pattern(name):
    stem, extension = os.path.splitext(name)
    digits = len(stem) - len(stem.rstrip("0123456789"))
    return f"{stem[:-digits]}{{:0{digits}d}}{extension}" if digits else None
