"""Frames of videos as pictures inside a page."""

import base64

import cv2
import numpy as np

from trn_jax.errors import UserError
from trn_jax.pages.markup import tag

_QUALITY = 72  # of WebP, 0..100


def webp_url(pixels, *, quality=_QUALITY):
    """Encode a picture as WebP in a data URL.

    Args:
        pixels: uint8 `[height, width, 3]`, RGB.
        quality: 0..100.

    Raises:
        UserError: OpenCV was built without WebP.
    """
    try:
        done, content = cv2.imencode(
            ".webp", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, quality]
        )
    except cv2.error:
        done = False
    if not done:
        raise UserError("this OpenCV has no WebP; install opencv-python-headless from PyPI")
    return f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"


def resized(pixels, side):
    """Scale a picture so that its longer side has so many pixels.

    Args:
        pixels: uint8 `[height, width, 3]`.
        side: pixels; small pictures are magnified, at most twice.
    """
    height, width = pixels.shape[:2]
    scale = min(side / max(height, width), 2)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(pixels, size, interpolation=kind)


def picture(pixels, alt, *, side=112, quality=_QUALITY, **attributes):
    """An element `img` with a picture.

    Args:
        pixels: uint8 `[height, width, 3]`, RGB.
        alt: what it shows, for those who don't see it; "" if the text around it has that.
        side: pixels of its longer side, in the file; it's shown as large.
        quality: of WebP, 0..100.
        **attributes: see `markup.tag`.
    """
    small = resized(pixels, side)
    height, width = small.shape[:2]
    url = webp_url(small, quality=quality)
    return tag("img", src=url, alt=alt, width=width, height=height, **attributes)


def strip(frames, captions=None, *, label, side=112, quality=_QUALITY, marked=()):
    """Frames side by side, in their order in time; they wrap where the page is narrow.

    Args:
        frames: uint8 `[frames, height, width, 3]`, RGB.
        captions: texts or `Markup` below the frames, such as `charts.bar` of their values.
        label: what the strip shows.
        side: see `picture`.
        quality: see `picture`.
        marked: numbers of frames that are framed in colour.

    Returns:
        The `Markup` of a list.
    """
    captions = captions or [None] * len(frames)
    items = [
        tag(
            "li",
            picture(pixels, f"frame {number + 1}", side=side, quality=quality),
            None if caption is None else tag("span", caption),
            class_="marked" if number in marked else None,
        )
        for number, (pixels, caption) in enumerate(zip(frames, captions, strict=True))
    ]
    return tag("ol", items, class_="strip", aria_label=label)
