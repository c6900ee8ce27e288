"""Reads the clip of a video that is explained, and those of its first tenths."""

import dataclasses
from typing import NamedTuple

import numpy as np

from trn_jax.data.views import View

TENTHS = range(1, 11)
_CLIP = "clip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeenView(View):
    """A view of the beginning of a video, as if it ended there.

    Attributes:
        tenths: how much of it is seen; at least one frame.
    """

    tenths: int = 10

    def sampler(self):
        """The operation that chooses frames, of those that are seen."""
        sample = super().sampler()
        return lambda num_frames, rng: sample(max(-(-self.tenths * num_frames // 10), 1), rng)

    @property
    def num_views(self):
        """Clips times crops."""
        return super().sampler().clips_per_video * self.cropping(exact=True).num_crops


class ExplainedClip(NamedTuple):
    """The clip of a video that is explained.

    Attributes:
        frames: numbers of its frames in the video, int `[frames]`.
        times: when these are shown, in seconds, `[frames]`; NaN: unknown.
        pixels: uint8 `[frames, size, size, 3]`.
        views: pixels of all views, of which the prediction is the mean, in their order.
        seen: pixels of the clips of the first `TENTHS` of the video; empty if they weren't read.
        place: which of the views it is, "" if there is only one.
    """

    frames: np.ndarray
    times: np.ndarray
    pixels: np.ndarray
    views: list
    seen: list
    place: str


def views_of(view, *, early):
    """The views that `explained` needs, `{name: View}`.

    Args:
        view: the `View` of the prediction.
        early: with the beginnings of the video.
    """
    fields = {field.name: getattr(view, field.name) for field in dataclasses.fields(View)}
    # The last one is the clip itself, and is cut once.
    tenths = {_seen(n): SeenView(**fields, tenths=n) for n in TENTHS} if early else {}
    return {_CLIP: view, **tenths}


def explained(video, view):
    """The clip that is explained, from a `VideoClips` of `views_of(view)`.

    Of several views it is the middle clip and the most central crop that isn't mirrored.
    """
    found = _in_order(video, _CLIP)
    chosen = _middle(found)
    clip, pixels, _ = found[chosen]
    frames = np.array(clip.frames)
    place = f"view {chosen + 1} of {view.num_views}" if view.num_views > 1 else ""
    beginnings = [_in_order(video, _seen(n)) for n in TENTHS]
    return ExplainedClip(
        frames=frames,
        times=video.times_of(frames),
        pixels=pixels,
        views=[pixels for _, pixels, _ in found],
        seen=[each[chosen][1] for each in beginnings if each],
        place=place,
    )


def _seen(tenths):
    return f"first {tenths} tenths"


def _in_order(video, name):
    """Each `Clip` of a view with its pixels, and whether they are mirrored, by position."""
    found = [
        (position, clip, pixels[:, :, ::-1] if mirrored else pixels, mirrored)
        for clip, pixels in video.pairs()
        for view, position, mirrored in clip.places
        if view == name
    ]
    return [each[1:] for each in sorted(found, key=lambda each: each[0])]


def _middle(found):
    """Index of the clip that is explained."""
    boxes = np.array([clip.box for clip, _, _ in found], np.float64)
    centers = boxes[:, :2] + boxes[:, 2:] / 2
    distances = np.abs(centers - centers.mean(axis=0)).sum(axis=1)
    mirrored = np.array([each[2] for each in found])
    distances = distances + mirrored  # a view without a mirrored crop at the centre comes first
    best = np.flatnonzero(distances == distances.min())
    return int(best[(len(best) - 1) // 2])
