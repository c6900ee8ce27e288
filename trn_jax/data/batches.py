"""Training batches, read straight into one buffer, and evaluation clips packed into arrays."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trn_jax.data import annotations, augment, memory
from trn_jax.data.decode import FrameError
from trn_jax.data.reader import ClipReader
from trn_jax.data.workers import exit_with_parent
from trn_jax.errors import UserError

_MAX_REPLACEMENTS = 100
_MAX_NEIGHBORS = 10  # that replace an example before random ones of the list do


class BatchReader:
    """Reads training batches; a callable, so that grain can run it in threads and processes.

    Args:
        records: all examples; an unreadable one is replaced by the next readable one.
        view: a `View` that gives one clip of a video.
        source: where videos are read, such as `frame_folders.FrameFolders`.
        seed: of the augmentation.
        label_map: labels that change when a clip is flipped.
        exact_resize: see `crops.MultiScaleCrop.exact`.
        fast_decode: decode approximately, see `decode.decode_image`.
        on_error: "raise", or "skip": replace unreadable videos; after ten unreadable ones in a row
            with a random one.
        num_threads: threads that decode.
        num_classes: of multi-label records; `None`: they have one label each.
    """

    def __init__(
        self,
        records,
        view,
        source,
        *,
        seed,
        label_map,
        exact_resize,
        fast_decode=False,
        on_error,
        num_threads,
        num_classes=None,
    ):
        if on_error not in ("raise", "skip"):
            raise UserError(f"data.on_error={on_error!r} is neither 'raise' nor 'skip'")
        self.records = records
        self.view = view
        self.seed = seed
        self.on_error = on_error
        self.num_threads = num_threads
        self.num_classes = num_classes
        self.draft = view.short_side if fast_decode else None
        self._flip = augment.Flip(rate=view.flip_rate, label_map=label_map)
        self._reader = ClipReader(
            {"train": view}, source, flip=self._flip, exact_resize=exact_resize, draft=self.draft
        )
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
            entries: `(epoch, record)` per row.

        Returns:
            A dict of `clip` uint8 `[batch, segments, size, size, 3]`, `label` int32 `[batch]` or
            multi-hot float32 `[batch, classes]`, `example` int32 `[batch]` (position in the list),
            `clips`, the `Clip` of every row (of a replacement where an example is unreadable),
            `problems`, messages about replaced examples, and `losses`, messages about videos with
            lost frames, see `decode.Video.loss`.
        """
        size = self.view.crop_size
        clips = memory.empty((len(entries), self.view.num_segments, size, size, 3))
        rows = list(self._threads().map(self._read, entries, clips[:, None]))
        labels, shown, losses, problems = zip(*rows, strict=True)
        return {
            "clip": clips,
            "label": self._label_array(labels),
            "example": np.array([record.index for _, record in entries], np.int32),
            "clips": shown,
            "problems": tuple(filter(None, problems)),
            "losses": tuple(filter(None, losses)),
        }

    def _label_array(self, labels):
        if self.num_classes is None:
            return np.array(labels, np.int32)
        return annotations.multi_hot(labels, self.num_classes)

    def _threads(self):
        with self._lock:
            if self._pool is None:
                exit_with_parent(os.getpid())
                self._pool = ThreadPoolExecutor(self.num_threads, "decode")
            return self._pool

    def _read(self, entry, out):
        """Read one example into `out` `[1, segments, size, size, 3]`: label, clip and messages."""
        epoch, wanted = entry
        problem = ""
        for step in range(min(_MAX_REPLACEMENTS, len(self.records))):
            record = self._replacement(epoch, wanted.index, step)
            try:
                # A replacement keeps the seed of the wanted example, so its own turn is augmented
                # otherwise.
                found = self._reader.read(record, (self.seed, epoch, wanted.index), out)
            except FrameError as error:
                if self.on_error == "raise":
                    raise
                problem = problem or str(error)
                continue
            (clip,) = found.clips
            label = self._flip.label(record.label) if clip.flip else record.label
            return label, clip, found.loss, problem
        raise UserError(
            f"none of the {step + 1} videos from {wanted.path} on can be read: {problem}"
        )

    def _replacement(self, epoch, index, step):
        """The record of an example, or what replaces it after `step` unreadable ones."""
        num_records = len(self.records)
        if step > _MAX_NEIGHBORS and num_records > _MAX_REPLACEMENTS:
            # Neighbours are often unreadable together, such as those of a missing folder.
            step = int(np.random.default_rng((self.seed, epoch, index, step)).integers(num_records))
        return self.records[(index + step) % num_records]


def pack_clips(videos, num_clips):
    """Pack the clips of many videos into arrays of a fixed size.

    Args:
        videos: an iterator of `VideoClips`; closed at the end.
        num_clips: clips per array.

    Yields:
        Dicts of `clip` uint8 `[num_clips, segments, size, size, 3]`, `example` int32 `[num_clips]`
        (position of a clip's video in the list), `clips`, the `Clip` of every row that is not
        padding, and their `flips`, which are the same.
    """
    batches: dict[tuple, dict] = {}
    try:
        for video in videos:
            for clip, pixels in video.pairs():
                key = clip.shape, clip.flips
                if key not in batches:
                    batches[key] = _empty_batch(num_clips, *key)
                batch = batches[key]
                row = len(batch["clips"])
                batch["clip"][row] = pixels
                batch["example"][row] = clip.example
                batch["clips"].append(clip)
                if row == num_clips - 1:
                    yield batches.pop(key)
        for batch in batches.values():
            batch["clip"][len(batch["clips"]) :] = 0
            yield batch
    finally:
        videos.close()


def _empty_batch(num_clips, shape, flips):
    pixels, examples = memory.empty((num_clips, *shape)), np.zeros(num_clips, np.int32)
    return {"clip": pixels, "example": examples, "clips": [], "flips": flips}
