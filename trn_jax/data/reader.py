"""Reads the clips of all views of a video; every frame is decoded once."""

import dataclasses
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np

from trn_jax.data import augment, memory
from trn_jax.data.decode import FrameError, read_video
from trn_jax.errors import UserError


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
