"""Frame sampling: which frames of a video make up its clips.

Three families, random for training and fixed for evaluation:

- Segments: one frame from each of several equal parts of the video (Wang et al., "Temporal Segment
  Networks", 2016): "random"; "center" and "twice".
- Clips: frames at a fixed interval, such as 8 frames, 8 apart (Feichtenhofer et al., "SlowFast
  Networks", 2019): "random_clips"; "clips".
- Dense: a window of 64 frames in equal steps (Wang et al., "Non-local Neural Networks", 2018, as in
  the code of TSM): "random_dense"; "dense".

Indices count from 0. The formulas are those of mmaction2 1.x (`SampleFrames`,
`DenseSampleFrames`); settings cover the differences of mmaction2 0.x, TRN-pytorch and TRN for
MindSpore.
"""

import dataclasses

import numpy as np

from trn_jax.errors import UserError

# The settings of each sampling, besides num_segments and frame_order.
_SETTINGS = {
    "random": ("short_videos",),
    "center": ("short_videos",),
    "twice": (),
    "random_clips": ("num_clips", "frame_interval"),
    "clips": ("num_clips", "frame_interval", "clip_positions"),
    "random_dense": ("sample_range",),
    "dense": ("num_clips", "sample_range"),
}
SAMPLINGS = tuple(_SETTINGS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Samples the frames of all clips of a video.

    Attributes:
        num_segments: frames of a clip.
        sampling: "random" (one random frame per segment), "center" (the middle frames), "twice"
            (two clips: the middle and the first frames of the segments), "random_clips", "clips"
            (at fixed positions), "random_dense" (one window) or "dense" (windows at fixed
            positions).
        frame_order: "forward", "reversed" or "shuffled" (one random permutation per video).
        num_clips: clips per video, for "random_clips", "clips" and "dense".
        frame_interval: distance of the frames of a clip, in frames of the video.
        sample_range: length of the dense window, in frames of the video.
        clip_positions: for "clips": "ends" (the first and the last clip touch the ends of the
            video, a single one is in the middle; mmaction2 1.x) or "middles" (of equal parts of the
            video; mmaction2 0.x and the code of TPN).
        short_videos: for "random" and "center": "spread" the frames of a video with too few over
            the segments, or repeat the "first" one, as TRN-pytorch, its MindSpore version and the
            code of TSM do in training and validation, but not in tests.

    Raises:
        UserError: an unknown sampling, or settings that it doesn't have.
    """

    num_segments: int
    sampling: str
    frame_order: str = "forward"
    num_clips: int = 1
    frame_interval: int = 1
    sample_range: int = 64
    clip_positions: str = "ends"
    short_videos: str = "spread"

    def __post_init__(self):
        if self.sampling not in SAMPLINGS:
            raise UserError(f"sampling={self.sampling!r} is not one of {', '.join(SAMPLINGS)}")
        for field in dataclasses.fields(self):
            users = [kind for kind, settings in _SETTINGS.items() if field.name in settings]
            value = getattr(self, field.name)
            if users and self.sampling not in users and value != field.default:
                raise UserError(
                    f"{field.name}={value!r} has no effect with sampling={self.sampling!r}; use "
                    f"sampling {' or '.join(map(repr, users))}, or {field.name}={field.default!r}"
                )
        if "sample_range" in _SETTINGS[self.sampling] and self.sample_range < self.num_segments:
            raise UserError(
                f"sample_range={self.sample_range} is less than num_segments={self.num_segments}; "
                "raise sample_range or lower num_segments"
            )

    @property
    def clips_per_video(self):
        """Clips per video."""
        return 2 if self.sampling == "twice" else self.num_clips

    def __call__(self, num_frames, rng):
        """Sample frames.

        Args:
            num_frames: frames of the video, at least 1.
            rng: `np.random.Generator`; "random..." and "shuffled" draw from it.

        Returns:
            Frame indices `[clips_per_video, num_segments]`, int64.
        """
        clips = self._clips(num_frames, rng)
        if self.frame_order == "reversed":
            return clips[:, ::-1]
        if self.frame_order == "shuffled":
            return clips[:, rng.permutation(self.num_segments)]
        return clips

    def _clips(self, num_frames, rng):
        n = self.num_segments
        if self.sampling == "random":
            return segment_indices(num_frames, n, rng, short_videos=self.short_videos)[None]
        if self.sampling == "center":
            return center_indices(num_frames, n, short_videos=self.short_videos)[None]
        if self.sampling == "twice":
            return np.stack([center_indices(num_frames, n), start_indices(num_frames, n)])
        if self.sampling == "random_dense":
            start = random_dense_start(num_frames, rng, sample_range=self.sample_range)
            return dense_indices([start], num_frames, n, sample_range=self.sample_range)
        if self.sampling == "dense":
            starts = dense_starts(num_frames, self.num_clips, sample_range=self.sample_range)
            return dense_indices(starts, num_frames, n, sample_range=self.sample_range)
        if self.sampling == "random_clips":
            starts = random_starts(num_frames, n * self.frame_interval, self.num_clips, rng)
        else:
            starts = clip_starts(
                num_frames,
                self.num_clips,
                clip_len=n,
                frame_interval=self.frame_interval,
                clip_positions=self.clip_positions,
            )
        return clip_indices(starts, num_frames, clip_len=n, frame_interval=self.frame_interval)


# Segments ----------------------------------------------------------------------------------------


def segment_indices(num_frames, num_segments, rng, *, short_videos="spread"):
    """Draw one frame from every segment, for training: `[num_segments]`, int64.

    With fewer frames than segments, "spread" them (positions are rounded half to even and wrap
    around at the end, as in mmaction2), or repeat the "first" one.
    """
    if short_videos == "first" and num_frames < num_segments:
        return np.zeros(num_segments, np.int64)
    return random_starts(num_frames, 1, num_segments, rng) % num_frames


def center_indices(num_frames, num_segments, *, short_videos="spread"):
    """The middle frame of every segment, for evaluation: `[num_segments]`, int64.

    With short_videos="first", a video with no more frames than segments repeats its first frame:
    the bound of TRN-pytorch in validation, which differs from that in training.
    """
    if short_videos == "first" and num_frames <= num_segments:
        return np.zeros(num_segments, np.int64)
    length = num_frames / num_segments
    return (np.arange(num_segments) * length + length / 2).astype(np.int64)


def start_indices(num_frames, num_segments):
    """The first frame of every segment, the second clip of "twice": `[num_segments]`, int64."""
    return (np.arange(num_segments) * (num_frames / num_segments)).astype(np.int64)


# Clips -------------------------------------------------------------------------------------------


def random_starts(num_frames, span, num_clips, rng):
    """Draw the first frames of clips, one in each of `num_clips` equal parts of the possible ones.

    The length of the parts is rounded down, so the last starts are left out. With fewer starts than
    clips, starts are drawn with repetition if the video is longer than `span` and `num_clips`, else
    spread evenly; in a video shorter than a clip all are 0.

    `span` is the number of frames from the first one of a clip to where the one after its last
    would be.

    Returns:
        Indices `[num_clips]`, int64. For `span` 1, evenly spread starts may be `num_frames`.
    """
    num_starts = num_frames - span + 1
    clips = np.arange(num_clips)
    length = num_starts // num_clips
    if length > 0:
        return clips * length + rng.integers(length, size=num_clips)
    if num_frames > max(num_clips, span):
        return np.sort(rng.integers(num_starts, size=num_clips))
    return np.round(clips * (max(num_starts, 0) / num_clips)).astype(np.int64)


def clip_starts(num_frames, num_clips, *, clip_len, frame_interval, clip_positions):
    """First frames of clips in evaluation; arguments as in `ClipSampler`.

    Returns:
        Indices `[num_clips]`, int64; all 0 for a video shorter than a clip.
    """
    if clip_positions == "middles":
        # mmaction2 0.x counts the interval after the last frame of a clip to the clip.
        num_starts = max(num_frames - clip_len * frame_interval + 1, 0)
        length = num_starts / num_clips
        return (np.arange(num_clips) * length + length / 2).astype(np.int64)
    last = max(num_frames - ((clip_len - 1) * frame_interval + 1), 0)
    if num_clips == 1:
        return np.array([last // 2], np.int64)
    return np.round(np.arange(num_clips) * (last / (num_clips - 1))).astype(np.int64)


def clip_indices(starts, num_frames, *, clip_len, frame_interval):
    """Frames of clips from `starts` `[num_clips]` on: `[num_clips, clip_len]`, int64.

    Frames beyond the end are those from the start of the video.
    """
    return (np.asarray(starts)[:, None] + np.arange(clip_len) * frame_interval) % num_frames


# Dense -------------------------------------------------------------------------------------------


def random_dense_start(num_frames, rng, *, sample_range):
    """Draw the first frame of a dense window; never the last possible one, as published."""
    num_starts = max(num_frames - sample_range, 0)
    return rng.integers(num_starts) if num_starts else 0


def dense_starts(num_frames, num_clips, *, sample_range):
    """Evenly spaced first frames of dense windows, the last one at the end: `[num_clips]`."""
    return np.linspace(0, max(num_frames - sample_range, 0), num_clips, dtype=np.int64)


def dense_indices(starts, num_frames, num_segments, *, sample_range):
    """Frames in equal steps from `starts` `[num_clips]`: `[num_clips, num_segments]`, int64.

    The step is rounded down: 25 segments of 64 frames are 2 apart and cover 49 frames.
    Frames beyond the end are those from the start of the video.
    """
    steps = np.arange(num_segments) * (sample_range // num_segments)
    return (np.asarray(starts)[:, None] + steps) % num_frames
