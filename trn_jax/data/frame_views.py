"""Views that show videos frame by frame, as streams are seen."""

import dataclasses

import numpy as np

from trn_jax.data.decode import FrameError
from trn_jax.data.views import View
from trn_jax.errors import UserError

# Of a video: all are held in memory, 1.5 GB at 224 pixels.
_MAX_FRAMES = 10_000


def frame_spacing(view, num_frames):
    """The distance between two frames of a clip, in frames of the video.

    Args:
        view: a `View`.
        num_frames: typical number of frames of a training example, which views that are spread
            over a video divide into segments; `None` if unknown.

    Raises:
        UserError: it is needed and unknown.
    """
    if view.sampling in ("clips", "random_clips"):
        return float(view.frame_interval)
    if view.sampling in ("dense", "random_dense"):
        return float(view.sample_range // view.num_segments)
    if not num_frames:
        raise UserError(
            f"sampling={view.sampling!r} spreads {view.num_segments} frames over a video, so their "
            "distance depends on the typical length of training examples, which is unknown"
        )
    return num_frames / view.num_segments


def check_streamable(protocol, view):
    """Check that a stream can have the frames and the relations of a view.

    Args:
        protocol: name of the view.
        view: a `View`.

    Raises:
        UserError: it can't.
    """
    for key, expected in (("relations", "model"), ("frame_order", "forward")):
        if getattr(view, key) != expected:
            raise UserError(
                f"{protocol}.{key}={getattr(view, key)!r}, but a stream takes only {expected!r}; "
                "choose another --protocol"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameView(View):
    """A view of a whole video, frame by frame: clips of one frame each, at equal distances.

    Attributes:
        spacing: from one to the next, in frames of the video; see `frame_spacing`.

    Raises:
        UserError: the spacing isn't positive, or other values don't go together.
    """

    spacing: float

    def sampler(self):
        """The operation that chooses frames."""
        return FrameSampler(self.spacing)

    @property
    def num_views(self):
        """Crops of a frame."""
        return self.cropping(exact=True).num_crops


@dataclasses.dataclass(frozen=True)
class FrameSampler:
    """Chooses the middle frames of segments of equal length, as many as a video has.

    A video of the typical length has the frames of its clip, "center" in `ClipSampler`.

    Attributes:
        spacing: length of a segment, in frames.

    Raises:
        UserError: it isn't positive.
    """

    spacing: float

    def __post_init__(self):
        if not self.spacing > 0:
            raise UserError(f"spacing={self.spacing}: expected a positive number of frames")

    def __call__(self, num_frames, rng):
        """Choose frames.

        Args:
            num_frames: frames of the video, at least 1.
            rng: not used.

        Returns:
            Frame indices `[frames, 1]`, int64, ascending; at least one.

        Raises:
            FrameError: there are too many.
        """
        del rng
        count = max(int(np.ceil(num_frames / self.spacing - 0.5)), 1)
        if count > _MAX_FRAMES:
            raise FrameError(
                f"a video of {num_frames:,} frames has {count:,} at a distance of "
                f"{self.spacing:g}, more than {_MAX_FRAMES:,}; `trn-jax predict --stream` takes "
                "videos of any length"
            )
        middles = np.arange(count) * self.spacing + self.spacing / 2
        return np.minimum(middles.astype(np.int64), num_frames - 1)[:, None]
