"""Views of a video: which frames and which crops make up its clips."""

import dataclasses

from trn_jax.config import ViewKeys
from trn_jax.data import augment, crops, sampling
from trn_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class View(ViewKeys):
    """How clips are cut out of a video, with the keys of `config.ViewKeys`, none of them `None`.

    Raises:
        UserError: values don't go together.
    """

    def __post_init__(self):
        if self.num_draws > 1 and self.relations != "sample":
            raise UserError(
                f"num_draws={self.num_draws} needs relations='sample', found {self.relations!r}: "
                "only those are drawn"
            )
        self.sampler()
        self.cropping(exact=True)
        if self.flip_rate and self.crop not in crops.RANDOM_CROPS:
            raise UserError(
                f"flip_rate={self.flip_rate} needs a random crop, "
                f"{' or '.join(map(repr, crops.RANDOM_CROPS))}; crop={self.crop!r} is not one"
            )
        self.coloring()

    def sampler(self):
        """The operation that chooses frames."""
        return sampling.ClipSampler(
            num_segments=self.num_segments,
            sampling=self.sampling,
            frame_order=self.frame_order,
            num_clips=self.num_clips,
            frame_interval=self.frame_interval,
            sample_range=self.sample_range,
            clip_positions=self.clip_positions,
            out_of_bound=self.out_of_bound,
            keep_tail_frames=self.keep_tail_frames,
            short_videos=self.short_videos,
        )

    def cropping(self, *, exact):
        """The operation that cuts crops out of frames."""
        if self.crop == "multi_scale":
            return crops.MultiScaleCrop(
                size=self.crop_size,
                short_side=self.short_side,
                scales=tuple(self.scales),
                num_positions=self.num_positions,
                max_scale_gap=self.max_scale_gap,
                exact=exact,
            )
        if self.crop == "random_resized":
            return crops.RandomResizedCrop(
                size=self.crop_size,
                short_side=self.short_side,
                area_range=self.area_range,
                aspect_ratio_range=self.aspect_ratio_range,
                exact=exact,
            )
        return crops.TestCrops(size=self.crop_size, short_side=self.short_side, kind=self.crop)

    def coloring(self):
        """The operation that changes colours."""
        brightness, contrast, saturation, hue = self.color_jitter
        return augment.ColorJitter(
            brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
        )

    @property
    def num_views(self):
        """Clips times crops."""
        return self.sampler().clips_per_video * self.cropping(exact=True).num_crops


def check_fixed_crops(views):
    """Check that no view of `{name: View}` has a random crop.

    Raises:
        UserError: one has; it is named.
    """
    for name, view in views.items():
        if view.crop in crops.RANDOM_CROPS:
            raise UserError(
                f"{name}.crop={view.crop!r} is random, but evaluation takes fixed crops; use "
                "'center', 'three' or 'ten'"
            )
