"""Which frames of a video make up its clips.

Three families, each with a form that draws for training and one that is fixed for evaluation:

- Segments: the video is cut into equal parts, and one frame is taken from each (Wang et al.,
  "Temporal Segment Networks", 2016): "random"; "center" and "twice".
- Clips: frames at equal distances, such as 8 frames, 8 apart (Feichtenhofer et al., "SlowFast
  Networks", 2019): "random_clips"; "clips".
- Dense: a window of 64 frames, cut into equal steps (Wang et al., "Non-local Neural Networks",
  2018, as the code of TSM has it): "random_dense"; "dense".

Indices count from 0. The formulas are those of mmaction2 1.x (`SampleFrames`, `DenseSampleFrames`),
so that equal videos give equal frames; settings stand for what mmaction2 0.x, TRN-pytorch and TRN
for MindSpore do otherwise.
"""

import dataclasses

import numpy as np

from trn_jax.errors import UserError

FRAME_ORDERS = ("forward", "reversed", "shuffled")

# What each kind uses besides the number of segments and the order of the frames.
_SETTINGS = {
    "random": ("short_videos", "keep_tail_frames"),
    "center": ("short_videos",),
    "twice": (),
    "random_clips": ("num_clips", "frame_interval", "out_of_bound", "keep_tail_frames"),
    "clips": ("num_clips", "frame_interval", "out_of_bound", "clip_positions"),
    "random_dense": ("sample_range",),
    "dense": ("num_clips", "sample_range"),
}
SAMPLINGS = tuple(_SETTINGS)
_CHOICES = {
    "sampling": SAMPLINGS,
    "frame_order": FRAME_ORDERS,
    "clip_positions": ("ends", "middles"),
    "out_of_bound": ("loop", "repeat_last"),
    "short_videos": ("spread", "first"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSampler:
    """Chooses the frames of all clips of a video.

    Settings that the kind of sampling does not use keep their defaults; others are an error.

    Attributes:
        num_segments: frames of a clip.
        sampling: "random" (one random frame of each segment), "center" (the middle frames),
            "twice" (two clips: the middle frames, then the first frames of the segments),
            "random_clips", "clips" (at fixed places), "random_dense" (one window) or "dense"
            (windows at fixed places).
        frame_order: of every clip: "forward", "reversed" or "shuffled" (one permutation is drawn
            per video).
        num_clips: clips per video, of the samplings whose names end so and of "dense".
        frame_interval: from one frame of a clip to the next, in frames of the video.
        sample_range: length of the dense window, in frames of the video.
        clip_positions: of "clips": "ends" (the first and the last clip touch the ends of the
            video, a single one is in the middle; mmaction2 1.x) or "middles" (of as many equal
            parts; mmaction2 0.x and the code of TPN).
        out_of_bound: what stands for frames behind the end of the video: "loop" (those from its
            start) or "repeat_last" (the last one of the clip that exists, as in the code of TPN).
        short_videos: of "random" and "center": a video with too few frames is "spread" over the
            segments, or its "first" frame is taken for all of them, as TRN-pytorch, its MindSpore
            version and the code of TSM do in training and validation, though not in tests.
        keep_tail_frames: of "random" and "random_clips": segments may have fractional lengths, so
            that the last frames of a video can be drawn, too.

    Raises:
        UserError: for values that do not exist or do not go together.
    """

    num_segments: int
    sampling: str
    frame_order: str = "forward"
    num_clips: int = 1
    frame_interval: int = 1
    sample_range: int = 64
    clip_positions: str = "ends"
    out_of_bound: str = "loop"
    short_videos: str = "spread"
    keep_tail_frames: bool = False

    def __post_init__(self):
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise UserError(f"{key}={getattr(self, key)!r} is not one of {', '.join(choices)}")
        for key in ("num_segments", "num_clips", "frame_interval", "sample_range"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        for field in dataclasses.fields(self):
            users = [kind for kind, settings in _SETTINGS.items() if field.name in settings]
            value = getattr(self, field.name)
            if users and self.sampling not in users and value != field.default:
                raise UserError(
                    f"{field.name}={value!r} means nothing for sampling={self.sampling!r}; it "
                    f"needs sampling {' or '.join(map(repr, users))}, or leave {field.name} at "
                    f"{field.default!r}"
                )
        if "sample_range" in _SETTINGS[self.sampling] and self.sample_range < self.num_segments:
            raise UserError(
                f"sample_range={self.sample_range} has fewer frames than num_segments="
                f"{self.num_segments}; raise sample_range or lower num_segments"
            )

    @property
    def clips_per_video(self):
        """Clips that a call returns."""
        return 2 if self.sampling == "twice" else self.num_clips

    def __call__(self, num_frames, rng):
        """Choose frames.

        Args:
            num_frames: frames of the video, at least 1.
            rng: `np.random.Generator`; only "random..." and "shuffled" draw from it.

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
            options = dict(short_videos=self.short_videos, keep_tail_frames=self.keep_tail_frames)
            return segment_indices(num_frames, n, rng, **options)[None]
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
            starts = random_starts(
                num_frames,
                n * self.frame_interval,
                self.num_clips,
                rng,
                keep_tail_frames=self.keep_tail_frames,
            )
        else:
            starts = clip_starts(
                num_frames,
                self.num_clips,
                clip_len=n,
                frame_interval=self.frame_interval,
                clip_positions=self.clip_positions,
            )
        return clip_indices(
            starts,
            num_frames,
            clip_len=n,
            frame_interval=self.frame_interval,
            out_of_bound=self.out_of_bound,
        )


# Segments ----------------------------------------------------------------------------------------


def segment_indices(
    num_frames, num_segments, rng, *, short_videos="spread", keep_tail_frames=False
):
    """Draw one frame from every segment, for training.

    Args:
        num_frames: frames of the video, at least 1.
        num_segments: number of segments.
        rng: `np.random.Generator`.
        short_videos: with fewer frames than segments, they are "spread" over the segments
            (positions are rounded half to even and wrap around at the end, as in mmaction2), or
            the "first" one is taken for all.
        keep_tail_frames: see `random_starts`.

    Returns:
        Frame indices `[num_segments]`, int64.
    """
    if short_videos == "first" and num_frames < num_segments:
        return np.zeros(num_segments, np.int64)
    starts = random_starts(num_frames, 1, num_segments, rng, keep_tail_frames=keep_tail_frames)
    return starts % num_frames


def center_indices(num_frames, num_segments, *, short_videos="spread"):
    """The middle frame of every segment, for evaluation: `[num_segments]`, int64.

    With short_videos="first", a video with no more frames than segments gives its first frame for
    all: the bound of TRN-pytorch, which is not the one that it trains with.
    """
    if short_videos == "first" and num_frames <= num_segments:
        return np.zeros(num_segments, np.int64)
    length = num_frames / num_segments
    return (np.arange(num_segments) * length + length / 2).astype(np.int64)


def start_indices(num_frames, num_segments):
    """The first frame of every segment, the second clip of "twice": `[num_segments]`, int64."""
    return (np.arange(num_segments) * (num_frames / num_segments)).astype(np.int64)


# Clips -------------------------------------------------------------------------------------------


def random_starts(num_frames, span, num_clips, rng, *, keep_tail_frames=False):
    """Draw where clips start: one in each of `num_clips` equal parts of the possible starts.

    If there are fewer starts than clips, they are drawn with repetition where the video is longer
    than `span` and `num_clips`, else spread evenly; a video shorter than a clip starts at 0.

    Args:
        num_frames: frames of the video, at least 1.
        span: frames of the video that a clip takes up, counted up to where the frame after its
            last one would be.
        num_clips: number of clips.
        rng: `np.random.Generator`.
        keep_tail_frames: parts may have fractional lengths, so that the last starts can be drawn,
            too; otherwise their length is rounded down. No video is too short for such parts.

    Returns:
        Indices `[num_clips]`, int64. For `span` 1, evenly spread starts may be `num_frames`.
    """
    num_starts = num_frames - span + 1
    clips = np.arange(num_clips)
    if keep_tail_frames:
        length = max(num_starts, 0) / num_clips
        return (clips * length + rng.uniform(0, length, num_clips)).astype(np.int64)
    length = num_starts // num_clips
    if length > 0:
        return clips * length + rng.integers(length, size=num_clips)
    if num_frames > max(num_clips, span):
        return np.sort(rng.integers(num_starts, size=num_clips))
    return np.round(clips * (max(num_starts, 0) / num_clips)).astype(np.int64)


def clip_starts(num_frames, num_clips, *, clip_len, frame_interval, clip_positions):
    """Where clips start in evaluation; arguments as in `ClipSampler`.

    Returns:
        Indices `[num_clips]`, int64; all 0 for a video shorter than a clip.
    """
    if clip_positions == "middles":
        # This release counts the frames after the last one of a clip to the clip.
        num_starts = max(num_frames - clip_len * frame_interval + 1, 0)
        length = num_starts / num_clips
        return (np.arange(num_clips) * length + length / 2).astype(np.int64)
    last = max(num_frames - ((clip_len - 1) * frame_interval + 1), 0)
    if num_clips == 1:
        return np.array([last // 2], np.int64)
    return np.round(np.arange(num_clips) * (last / (num_clips - 1))).astype(np.int64)


def clip_indices(starts, num_frames, *, clip_len, frame_interval, out_of_bound):
    """The frames of clips that start at `starts` `[num_clips]`: `[num_clips, clip_len]`, int64."""
    indices = np.asarray(starts)[:, None] + np.arange(clip_len) * frame_interval
    if out_of_bound == "loop":
        return indices % num_frames
    existing = np.where(indices < num_frames, indices, 0)
    return np.where(indices < num_frames, indices, existing.max(axis=1, keepdims=True))


# Dense -------------------------------------------------------------------------------------------


def random_dense_start(num_frames, rng, *, sample_range):
    """Draw where a dense window starts; the last possible start is never drawn, as published."""
    num_starts = max(num_frames - sample_range, 0)
    return rng.integers(num_starts) if num_starts else 0


def dense_starts(num_frames, num_clips, *, sample_range):
    """Evenly spaced starts of dense windows, the last one touching the end: `[num_clips]`."""
    return np.linspace(0, max(num_frames - sample_range, 0), num_clips, dtype=np.int64)


def dense_indices(starts, num_frames, num_segments, *, sample_range):
    """Frames in equal steps from `starts` `[num_clips]`: `[num_clips, num_segments]`, int64.

    The step is rounded down: 25 segments of 64 frames are 2 apart and cover 49 frames.
    Frames behind the end are those from the start of the video.
    """
    steps = np.arange(num_segments) * (sample_range // num_segments)
    return (np.asarray(starts)[:, None] + steps) % num_frames
