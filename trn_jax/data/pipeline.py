"""Batches of clips, as a pure function of the seed and the number of the batch.

The order of the examples is drawn from (seed, epoch), the augmentation of an example from (seed,
epoch, example). Nothing depends on threads, worker processes or hosts, and the iterator has no
state: a run that stopped after `k` batches goes on with `first_batch=k`.

Clips are decoded by a pool of threads (the decoders release the GIL) straight into the buffer of
their batch, while a few batches are prepared ahead.
"""

import dataclasses
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

from trn_jax.data import annotations, augment, decode, sampling
from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError

_BATCHES_AHEAD = 2
_MAX_REPLACEMENTS = 100
_ENDLESS = 10**6  # epochs; with grain's own endless repetition, batches of one clip overflow


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
        short_side: short side of the frames before cropping, in pixels; 0: frames as they are.
        crop: "multi_scale", "random_resized", "center", "three" or "ten".
        crop_size: side of the crops, in pixels.
        scales: of the multi-scale crop.
        num_positions: of the multi-scale crop, 5 or 13.
        area_range: of the random resized crop, shares of the frame's area.
        aspect_ratio_range: of the random resized crop, width / height.
        flip_rate: share of the clips that is mirrored.
        flip_labels: exchange the labels of classes that are mirror images by their names.
        flip_pairs: more pairs of class names whose labels are exchanged.
        color_jitter: strengths of `augment.ColorJitter`.
        merge_views: what becomes of several views: the mean of their "logits" or "probabilities",
            or what the "model" prescribes.
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
    area_range: tuple[float, float] = (0.08, 1.0)
    aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3)
    flip_pairs: tuple[tuple[str, str], ...] = ()
    color_jitter: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    merge_views: str = "model"

    def __post_init__(self):
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


class BatchReader:
    """Reads whole batches; a callable, so that grain can run it in threads and processes.

    Args:
        records: the list of `Record` that examples are replaced from.
        view: a `View`.
        seed: of the augmentation.
        frame_pattern: file name of a frame for its number.
        first_frame: number of the first frame.
        label_map: labels that change when a clip is mirrored.
        exact_resize: see `MultiScaleCrop.exact`.
        on_error: "raise", or "skip": take the next readable video of the list instead.
        num_threads: threads that decode.
        num_classes: of records with several labels each; `None`: they have one.
    """

    def __init__(
        self,
        records,
        view,
        *,
        seed,
        frame_pattern,
        first_frame,
        label_map,
        exact_resize,
        on_error,
        num_threads,
        num_classes=None,
    ):
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error={on_error!r} is neither 'raise' nor 'skip'")
        self.records = records
        self.view = view
        self.seed = seed
        self.frame_pattern = frame_pattern
        self.first_frame = first_frame
        self.on_error = on_error
        self.num_threads = num_threads
        self.num_classes = num_classes
        self.sample = view.sampler()
        self.crop = view.cropping(exact=exact_resize)
        self.color = view.coloring()
        self.flip = augment.Flip(rate=view.flip_rate, label_map=label_map)
        self._pool = None
        self._lock = threading.Lock()

    def __getstate__(self):
        return self.__dict__ | {"_pool": None, "_lock": None}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._lock = threading.Lock()

    def __call__(self, entries):
        """Read one batch.

        Args:
            entries: `(epoch, record)` per row; `None` is a row of padding.

        Returns:
            A dict of `clip` uint8 `[batch, views, segments, size, size, 3]` (the axis `segments`
            are the frames of a clip; views are ordered crop first, then clip: number
            `crop * clips_per_video + clip`), `label` int32 `[batch]` or, of several labels each,
            float32 `[batch, classes]` of 0 and 1, `mask` float32 `[batch]` (0 marks padding),
            `example` int32 `[batch]` (position in the list) and `problems`, a tuple of messages
            about replaced examples.
        """
        view, size = self.view, self.view.crop_size
        num_frames = self.sample.clips_per_video * view.num_segments
        shape = (len(entries), self.crop.num_crops, num_frames, size, size, 3)
        clips = np.empty(shape, np.uint8)
        rows = list(self._threads().map(self._read, entries, clips))
        labels, examples, problems = zip(*rows, strict=True)
        return {
            "clip": clips.reshape(len(entries), view.num_views, view.num_segments, size, size, 3),
            "label": self._label_array(labels),
            "mask": np.array([entry is not None for entry in entries], np.float32),
            "example": np.array(examples, np.int32),
            "problems": tuple(p for p in problems if p),
        }

    def _label_array(self, labels):
        if self.num_classes is None:
            return np.array(labels, np.int32)
        return annotations.multi_hot(labels, self.num_classes)

    def _threads(self):
        with self._lock:
            if self._pool is None:
                _die_with_parent()
                self._pool = ThreadPoolExecutor(self.num_threads, "decode")
            return self._pool

    def _read(self, entry, out):
        """Read one example into `out`; returns label, position in the list and what went wrong."""
        if entry is None:
            out[:] = 0
            return 0 if self.num_classes is None else (), -1, ""
        epoch, wanted = entry
        problem = ""
        for step in range(min(_MAX_REPLACEMENTS, len(self.records))):
            record = self.records[(wanted.index + step) % len(self.records)]
            # Seeded by the example that was wanted: a neighbour's own turn stays another draw.
            rng = np.random.default_rng((self.seed, epoch, wanted.index))
            try:
                return self._cut(record, rng, out), wanted.index, problem
            except FrameError as error:
                if self.on_error == "raise":
                    raise
                problem = problem or str(error)
        raise UserError(
            f"none of the {step + 1} videos from {wanted.folder} on can be read: {problem}"
        )

    def _cut(self, record, rng, out):
        indices = self.sample(record.num_frames, rng)
        frames = decode.read_frames(
            record.folder,
            indices.ravel(),
            pattern=self.frame_pattern,
            first_frame=self.first_frame,
        )
        self.crop(frames, rng, out)
        label = self.flip(out, record.label, rng)
        self.color(out, rng)
        return label


def train_batches(reader, *, batch, seed, first_batch=0, host=0, num_hosts=1, num_workers=0):
    """Iterate over the endless, reshuffled stream of training batches.

    Args:
        reader: a `BatchReader`; every example of its list occurs once per epoch.
        batch: clips per global batch, over all hosts.
        seed: of the order.
        first_batch: number of the global batch to begin with.
        host: number of this host.
        num_hosts: number of hosts; each reads an equal, contiguous part of every global batch.
        num_workers: worker processes; 0 reads in threads of this process.

    Returns:
        An iterator of batches (see `BatchReader.__call__`) with a method `close`.
    """
    num_examples = len(reader.records)
    order = grain.MapDataset.source(reader.records).seed(seed).shuffle().repeat(_ENDLESS)
    rows = order.map_with_index(lambda index, record: (index // num_examples, record))
    parts = rows.batch(batch // num_hosts, batch_fn=list)
    return _iterate(parts[host::num_hosts][first_batch:], reader, num_workers)


def eval_batches(reader, *, batch, host=0, num_hosts=1, num_workers=0):
    """Iterate once over the list, in its order, padded to whole batches; arguments as above."""
    padding = -len(reader.records) % batch
    rows = [*((0, record) for record in reader.records), *[None] * padding]
    local = batch // num_hosts
    parts = [rows[start : start + local] for start in range(0, len(rows), local)]
    return _iterate(grain.MapDataset.source(parts)[host::num_hosts], reader, num_workers)


def _iterate(parts, reader, num_workers):
    batches = parts.map(reader).to_iter_dataset(
        grain.ReadOptions(num_threads=_BATCHES_AHEAD, prefetch_buffer_size=_BATCHES_AHEAD)
    )
    if num_workers:
        options = grain.multiprocessing.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=_BATCHES_AHEAD
        )
        batches = batches.mp_prefetch(options)
    return iter(batches)


def _die_with_parent():
    """In a worker process: end when the trainer ends, however it ended.

    A trainer that is killed cannot tell its workers, and they would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch():
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
