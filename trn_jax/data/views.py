"""Views of a video: which frames and crops, read for several views at once."""

import dataclasses
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np

from trn_jax.data import augment, memory, sampling
from trn_jax.data.decode import FrameError, read_video
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


class VideoReader:
    """Reads all that several views see of a video; every frame is decoded once.

    A clip that several views have in common, which is one of the same frames, the same box and the
    same colours, is cut once, and so is one with its mirror image: mirroring is left to the device.
    A view shows the same whatever other views are read with it.

    Args:
        views: `{name: View}`, of fixed crops.
        source: where videos are read, such as `decode.FrameFolders`.
        seed: of samplings, orders and colours that are drawn.
        on_error: "raise", or "skip": unreadable videos become a message.

    Attributes:
        shapes: the `(frames, size in pixels)` of the clips.

    Raises:
        UserError: a view has random crops.
    """

    def __init__(self, views, source, *, seed, on_error="raise"):
        for name, view in views.items():
            if view.crop in augment.RANDOM_CROPS:
                raise UserError(
                    f"{name}.crop={view.crop!r} is random, but videos are evaluated through fixed "
                    "crops; use 'center', 'three' or 'ten'"
                )
        self.shapes = sorted({(view.num_segments, view.crop_size) for view in views.values()})
        self._views = views
        self._source = source
        self._seed = seed
        self._on_error = on_error

    def __call__(self, record):
        """Read one video.

        Args:
            record: its `Record`.

        Returns:
            A dict of `example` (the position in the list), `clips`, the distinct ones of every
            shape, uint8 `[clips, segments, size, size, 3]`, `seen`, how each of them is looked at:
            as it is, `(False,)`, mirrored, `(True,)`, or both, `num_clips`, how many looks that
            are, `loss`, see `decode.Video`, and `views`, what a view consists of: `{name: (number
            of the shape, [(number of the clip, mirrored)])}`, crop first, then clip: entry `crop *
            clips_per_video + clip`.

            Of an unreadable video, with `on_error="skip"`, only `example` and `problem`, a message.

        Raises:
            FrameError: a frame is missing or cannot be decoded.
        """
        try:
            return read_video(partial(self._source.open, record), partial(self._read, record))
        except FrameError as error:
            if self._on_error == "raise":
                raise
            return {"example": record.index, "problem": str(error)}

    def _read(self, record, video):
        with memory.scratch() as scratch:
            drawn = {
                name: self._draw(view, record.index, video.num_frames)
                for name, view in self._views.items()
            }
            used = np.concatenate([indices.ravel() for indices, _ in drawn.values()])
            plan: Any = None  # until the first frame tells their size
            for number, frame in video.frames(used):
                plan = plan or self._plan(drawn, *frame.shape[:2])
                for short_side, cuts in plan.cuts[number].items():
                    scaled = augment.resize_short_side(frame, short_side, scratch)
                    for box, target in cuts:
                        augment.cut(scaled, box, False, target)
        for clip, colors in plan.colored:
            augment.color(clip, colors)
        return {
            "example": record.index,
            "clips": plan.clips,
            "seen": plan.seen,
            "num_clips": sum(len(looks) for seen in plan.seen for looks in seen),
            "views": plan.views,
            "loss": video.loss,
        }

    def _plan(self, drawn, height, width):
        """What is cut out of the frames, of this size, for indices and colours that were drawn."""
        found: list[dict] = [{} for _ in self.shapes]
        plan = _Plan()
        for name, view in self._views.items():
            indices, colors = drawn[name]
            crop = view.cropping(exact=True)
            boxes = crop.boxes(*augment.short_side_size(height, width, crop.scaled_to))
            shape = self.shapes.index((view.num_segments, view.crop_size))
            looks = []
            for box, mirrored in boxes:
                for clip in indices.tolist():
                    cut = tuple(clip), crop.scaled_to, box, colors
                    number, seen = found[shape].setdefault(cut, (len(found[shape]), set()))
                    seen.add(mirrored)
                    looks.append((number, mirrored))
            plan.views[name] = shape, looks
        for (num_segments, size), distinct in zip(self.shapes, found, strict=True):
            arrays = memory.empty((len(distinct), num_segments, size, size, 3))
            plan.clips.append(arrays)
            plan.seen.append([tuple(sorted(seen)) for _, seen in distinct.values()])
            for clip, (numbers, short_side, box, colors) in zip(arrays, distinct, strict=True):
                plan.colored.append((clip, colors))
                for target, number in zip(clip, numbers, strict=True):
                    plan.cuts[number][short_side].append((box, target))
        return plan

    def _draw(self, view, index, num_frames):
        rng = np.random.default_rng((self._seed, 0, index))
        return view.sampler()(num_frames, rng), view.coloring().draw(rng)


@dataclasses.dataclass
class _Plan:
    """What becomes of the frames of a video.

    Attributes:
        views: as `VideoReader` returns it.
        clips: as well; to be filled in.
        seen: as well.
        cuts: `{number of a frame: {short side to scale it to: [(box, target)]}}`.
        colored: `(clip, colours)`, in the end.
    """

    views: dict = dataclasses.field(default_factory=dict)
    clips: list = dataclasses.field(default_factory=list)
    seen: list = dataclasses.field(default_factory=list)
    cuts: dict = dataclasses.field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    colored: list = dataclasses.field(default_factory=list)
