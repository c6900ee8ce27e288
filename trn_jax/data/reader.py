"""Reads the clips of a video: one random view in training, any number of fixed views otherwise."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from trn_jax.data import augment, memory
from trn_jax.data.decode import FrameError, read_video

Box = tuple[int, int, int, int]
# The fields of a `Clip` that make it distinct: frames, short side, box, size, flip and colours.
_Cut = tuple[tuple[int, ...], int, Box, int, bool, tuple | None]


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip of a video: which pixels of which frames, and where views show it.

    Attributes:
        example: position of the video in its list.
        frames: numbers of the frames, one per segment.
        short_side: short side that frames are scaled to before cropping, in pixels; 0: not scaled.
        box: the crop, `(left, top, width, height)`.
        size: side that the crop is resized to, in pixels.
        flip: crops are flipped, as drawn for training.
        colors: as `augment.ColorJitter.draw` returns them.
        places: `(view, position, mirrored)` per view, with position `crop * num_clips + clip`.
            Mirrored views share the pixels of the others: the device flips them.
    """

    example: int
    frames: tuple[int, ...]
    short_side: int
    box: Box
    size: int
    flip: bool = False
    colors: tuple | None = None
    places: tuple[tuple[str, int, bool], ...] = ()

    @property
    def shape(self):
        """Shape of the pixels."""
        return len(self.frames), self.size, self.size, 3

    @property
    def flips(self):
        """How views show it: as it is, `(False,)`, mirrored, `(True,)`, or both."""
        return tuple(sorted({mirrored for _, _, mirrored in self.places}))


class VideoClips(NamedTuple):
    """The distinct clips of a video. Grain sends arrays in tuples through shared memory.

    Attributes:
        example: position of the video in its list.
        clips: sorted by `Clip.shape`.
        pixels: of the clips of each shape, uint8 `[clips, segments, size, size, 3]`.
        loss: see `decode.Video.loss`.
        num_frames: of the whole video, if it was read `timed`.
        seconds: see `decode.Video.seconds`; likewise.
        times: see `decode.Video.listed_times`; likewise.
        notes: see `decode.Video.notes`; likewise.
        problem: why the video can't be read, or "".
    """

    example: int
    clips: Sequence[Clip] = ()
    pixels: Sequence[np.ndarray] = ()
    loss: str = ""
    num_frames: int = 0
    seconds: float | None = None
    times: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""

    def pairs(self) -> Iterator[tuple[Clip, np.ndarray]]:
        """Clips, each with its pixels."""
        return zip(self.clips, itertools.chain.from_iterable(self.pixels), strict=True)

    def times_of(self, frames):
        """Times of frames in seconds, by their numbers; NaN if the frame rate is unknown."""
        if self.times is not None:
            return np.asarray(self.times, np.float64)[frames]
        if self.seconds is None:
            return np.full(np.shape(frames), np.nan)
        return frames * (self.seconds / self.num_frames)


class ClipReader:
    """Reads the clips of all views of a video. Every frame is decoded once, every clip cut once.

    The clips of a view do not depend on the other views.

    Args:
        views: `{name: View}`.
        source: where videos are read, such as `frame_folders.FrameFolders`.
        flip: an `augment.Flip`, for training; `None` draws nothing.
        exact_resize: see `crops.MultiScaleCrop.exact`.
        draft: see `decode.decode_image`.
        timed: note the number of frames, their times and what is unusual in them.
    """

    def __init__(self, views, source, *, flip=None, exact_resize=True, draft=None, timed=False):
        self._timed = timed
        self._source = source
        self._flip = flip
        self._draft = draft
        self._steps = {
            name: (view.sampler(), view.cropping(exact=exact_resize), view.coloring())
            for name, view in views.items()
        }

    def read(self, record, seed, out=None):
        """Read one video.

        Args:
            record: its `Record`.
            seed: of everything that is drawn, each view anew: integers.
            out: receives the pixels, uint8 `[1, segments, size, size, 3]`, where all views are one
                clip; by default a new array.

        Returns:
            The `VideoClips`.

        Raises:
            FrameError: a frame is missing or can't be decoded.
        """
        opening = partial(self._source.open, record)
        return read_video(opening, partial(self._read, record.index, seed, out))

    def _read(self, example, seed, out, video):
        drawn = {}
        for name, (sample, _, _) in self._steps.items():
            rng = np.random.default_rng(seed)
            drawn[name] = sample(video.num_frames, rng), rng
        wanted = np.concatenate([frames.ravel() for frames, _ in drawn.values()])
        clips: list[Clip] = []
        with memory.scratch() as scratch:
            for number, frame in video.frames(wanted, self._draft):
                if not clips:  # the first frame has the size
                    clips = self._clips(example, drawn, *frame.shape[:2])
                    pixels = _allocate(clips) if out is None else [out]
                    found = VideoClips(example, clips, pixels)
                    crops = _crops_by_frame(found)
                short_side = None
                for clip, target in crops[number]:
                    if clip.short_side != short_side:
                        short_side = clip.short_side
                        scaled = augment.resize_short_side(frame, short_side, scratch)
                    augment.cut(scaled, clip.box, clip.flip, target)
        for clip, target in found.pairs():
            augment.color(target, clip.colors)
        found = found._replace(loss=video.loss)
        if self._timed:  # neither training nor evaluation needs it, and long files have many times
            found = found._replace(
                num_frames=video.num_frames,
                seconds=video.seconds,
                times=_times(video),
                notes=video.notes,
            )
        return found

    def _clips(self, example, drawn, height, width):
        """The distinct clips of frames of a size, sorted by shape.

        `drawn` is `{view: (frames [clips, segments], generator)}`.
        """
        places: dict[_Cut, list] = {}
        for name, (_, crop, color) in self._steps.items():
            frames, rng = drawn[name]
            scaled = augment.short_side_size(height, width, crop.scaled_to)
            boxes = crop.boxes(*scaled, rng)
            flip = self._flip is not None and self._flip.draw(rng)
            colors = color.draw(rng)
            crops = itertools.product(boxes, map(tuple, frames.tolist()))
            for position, ((box, mirrored), numbers) in enumerate(crops):
                cut = numbers, crop.scaled_to, box, crop.size, flip, colors
                places.setdefault(cut, []).append((name, position, mirrored))
        clips = [Clip(example, *cut, tuple(at)) for cut, at in places.items()]
        return sorted(clips, key=lambda clip: clip.shape)


def _times(video):
    try:
        return video.listed_times
    except FrameError:  # neither time stamps nor a rate
        return None


def _allocate(clips):
    groups = itertools.groupby(clips, lambda clip: clip.shape)
    return [memory.empty((len(list(group)), *shape)) for shape, group in groups]


def _crops_by_frame(video):
    """`{frame: [(clip, target)]}` of `VideoClips`, with equal short sides one after the other."""
    crops: dict = defaultdict(list)
    for clip, pixels in sorted(video.pairs(), key=lambda pair: pair[0].short_side):
        for number, target in zip(clip.frames, pixels, strict=True):
            crops[number].append((clip, target))
    return crops
