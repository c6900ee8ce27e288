"""Views of a video: which frames and which crops make up its clips."""

import dataclasses

from trn_jax.data import augment, sampling
from trn_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How clips are cut out of a video: one schema for training, validation and every protocol.

    The keys are those of `config.view`, with the same defaults where a key has one here, so that
    checkpoints of before the key are still understood.

    Attributes:
        num_segments: frames of a clip.
        sampling: which frames, see `sampling.ClipSampler`; as are the next seven.
        frame_order: "forward", "reversed" or "shuffled".
        num_clips: of the samplings with several clips.
        frame_interval: of clips, in frames of the video.
        clip_positions: of clips, "ends" or "middles".
        out_of_bound: of clips, "loop" or "repeat_last".
        sample_range: of dense windows, in frames of the video.
        short_videos: of segments, "spread" or "first".
        keep_tail_frames: of random segments and clips.
        short_side: short side of the frames before cropping, in pixels; 0: frames as they are.
        crop: "multi_scale", "random_resized", "center", "three" or "ten".
        crop_size: side of the crops, in pixels.
        scales: of the multi-scale crop.
        num_positions: of the multi-scale crop, 5 or 13.
        max_scale_gap: of the multi-scale crop.
        area_range: of the random resized crop, shares of the frame's area.
        aspect_ratio_range: of the random resized crop, width / height.
        flip_rate: share of the clips that is mirrored.
        flip_labels: exchange the labels of classes that are mirror images by their names.
        flip_pairs: more pairs of class names whose labels are exchanged.
        color_jitter: strengths of `augment.ColorJitter`.
        merge_views: what becomes of several views: the mean of their "logits" or "probabilities",
            or what the "model" prescribes.
        relations: of a TRN in evaluation: "expected", "first" or "sample", see `models.trn`, or
            those of the "model".
        num_draws: how often relations are drawn, of "sample".
    """

    num_segments: int
    sampling: str
    frame_order: str
    short_side: int
    crop: str
    crop_size: int
    scales: tuple[float, ...]
    num_positions: int
    flip_rate: float
    flip_labels: bool
    num_clips: int = 1
    frame_interval: int = 1
    clip_positions: str = "ends"
    out_of_bound: str = "loop"
    sample_range: int = 64
    short_videos: str = "spread"
    keep_tail_frames: bool = False
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3)
    flip_pairs: tuple[tuple[str, str], ...] = ()
    color_jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    merge_views: str = "model"
    max_scale_gap: int = 1
    relations: str = "model"
    num_draws: int = 1

    def __post_init__(self):
        if self.num_draws > 1 and self.relations != "sample":
            raise UserError(
                f"num_draws={self.num_draws} needs relations='sample', found {self.relations!r}: "
                "only those are drawn"
            )
        if self.merge_views not in ("model", "logits", "probabilities"):
            raise UserError(
                f"merge_views={self.merge_views!r} is not one of 'model', 'logits', 'probabilities'"
            )
        self.sampler()
        self.cropping(exact=True)
        if not 0 <= self.flip_rate <= 1:
            raise UserError(f"flip_rate={self.flip_rate} is not in 0..1")
        if self.flip_rate and self.crop not in augment.RANDOM_CROPS:
            raise UserError(
                f"flip_rate={self.flip_rate} needs a random crop, "
                f"{' or '.join(map(repr, augment.RANDOM_CROPS))}; crop={self.crop!r} is none"
            )
        self.coloring()

    def sampler(self):
        """The operation that chooses frames."""
        fields = dataclasses.fields(sampling.ClipSampler)
        return sampling.ClipSampler(**{field.name: getattr(self, field.name) for field in fields})

    def cropping(self, *, exact):
        """The operation that cuts crops out of frames."""
        if self.crop == "multi_scale":
            return augment.MultiScaleCrop(
                size=self.crop_size,
                short_side=self.short_side,
                scales=tuple(self.scales),
                num_positions=self.num_positions,
                max_scale_gap=self.max_scale_gap,
                exact=exact,
            )
        if self.crop == "random_resized":
            return augment.RandomResizedCrop(
                size=self.crop_size,
                short_side=self.short_side,
                area_range=self.area_range,
                aspect_ratio_range=self.aspect_ratio_range,
                exact=exact,
            )
        return augment.TestCrops(size=self.crop_size, short_side=self.short_side, kind=self.crop)

    def coloring(self):
        """The operation that changes colours."""
        if len(self.color_jitter) != 4:
            raise UserError(
                f"color_jitter={self.color_jitter} must be four numbers, the strengths of "
                "brightness, contrast, saturation and hue, such as (0.5, 0.5, 0.5, 0.1)"
            )
        brightness, contrast, saturation, hue = self.color_jitter
        return augment.ColorJitter(
            brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )

    @property
    def num_views(self):
        """Clips times crops: how many predictions are merged into one."""
        return self.sampler().clips_per_video * self.cropping(exact=True).num_crops


def check_fixed_crops(views):
    """Check that `{name: View}` has no random crops, which only training takes.

    Raises:
        UserError: a view has; it is named.
    """
    for name, view in views.items():
        if view.crop in augment.RANDOM_CROPS:
            raise UserError(
                f"{name}.crop={view.crop!r} is random, but evaluation takes fixed crops; use "
                "'center', 'three' or 'ten'"
            )
