"""Which frames of a video make up a clip.

A video is cut into equal segments and one frame is taken from each (Wang et al., "Temporal Segment
Networks", 2016). Indices count from 0. The formulas are those of mmaction2's `SampleFrames` with
clip_len=1, so that equal videos give equal frames.
"""

import numpy as np

from trn_jax.errors import UserError

SAMPLINGS = ("random", "center", "twice")
FRAME_ORDERS = ("forward", "reversed", "shuffled")


def segment_indices(num_frames, num_segments, rng):
    """Draw one frame from every segment, for training.

    A video with fewer frames than segments is spread over them; positions are rounded half to even
    and wrap around at the end, as in the reference.

    Args:
        num_frames: frames of the video, at least 1.
        num_segments: number of segments.
        rng: `np.random.Generator`.

    Returns:
        Frame indices `[num_segments]`, int64.
    """
    length = num_frames // num_segments
    segments = np.arange(num_segments)
    if length > 0:
        return segments * length + rng.integers(length, size=num_segments)
    spread = np.round(segments * (num_frames / num_segments))
    return spread.astype(np.int64) % num_frames


def center_indices(num_frames, num_segments):
    """The middle frame of every segment, for evaluation: `[num_segments]`, int64."""
    length = num_frames / num_segments
    return (np.arange(num_segments) * length + length / 2).astype(np.int64)


def start_indices(num_frames, num_segments):
    """The first frame of every segment, the second clip of "twice": `[num_segments]`, int64."""
    return (np.arange(num_segments) * (num_frames / num_segments)).astype(np.int64)


def clip_indices(num_frames, num_segments, *, sampling, frame_order="forward", rng):
    """The frames of all clips of a video.

    Args:
        num_frames: frames of the video, at least 1.
        num_segments: frames of a clip.
        sampling: "random" (one random frame of each segment), "center" (the middle frames) or
            "twice" (two clips: the middle frames, then the first frames of the segments).
        frame_order: "forward", "reversed" or "shuffled" (one permutation drawn per video).
        rng: `np.random.Generator`.

    Returns:
        Frame indices `[num_clips, num_segments]`, int64.
    """
    if sampling == "random":
        clips = [segment_indices(num_frames, num_segments, rng)]
    else:
        clips = [center_indices(num_frames, num_segments)]
    if sampling == "twice":
        clips.append(start_indices(num_frames, num_segments))
    indices = np.stack(clips)
    if frame_order == "reversed":
        return indices[:, ::-1]
    if frame_order == "shuffled":
        return indices[:, rng.permutation(num_segments)]
    return indices


def check(*, sampling, frame_order, num_segments):
    """Raise `UserError` for values that `clip_indices` does not know."""
    if sampling not in SAMPLINGS:
        raise UserError(f"sampling={sampling!r} is not one of {', '.join(SAMPLINGS)}")
    if frame_order not in FRAME_ORDERS:
        raise UserError(f"frame_order={frame_order!r} is not one of {', '.join(FRAME_ORDERS)}")
    if num_segments < 1:
        raise UserError(f"num_segments={num_segments} must be at least 1")
