"""Batches of clips, as a pure function of the seed and the number of the batch.

The order of the examples is drawn from (seed, epoch), the augmentation of an example from (seed,
epoch, example). Nothing depends on threads, worker processes or hosts, and the iterator has no
state: a run that stopped after `k` batches goes on with `first_batch=k`.

Clips are decoded by a pool of threads (the decoders release the GIL) straight into the buffer of
their batch, while a few batches are prepared ahead.
"""

import multiprocessing
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import grain
import numpy as np

from trn_jax.data import annotations, augment, memory
from trn_jax.data.decode import FrameError, read_video
from trn_jax.errors import PassingError, UserError
from trn_jax.training.signals import ignore as ignore_signals

_BATCHES_AHEAD = 2
_MAX_REPLACEMENTS = 100
_MOST_NEIGHBORS = 10  # that are tried before others of the list
_ENDLESS = 10**6  # epochs; with grain's own endless repetition, batches of one clip overflow


class BatchReader:
    """Reads whole batches; a callable, so that grain can run it in threads and processes.

    Args:
        records: the list of `Record` that examples are replaced from.
        view: a `View` that gives one clip of a video.
        source: where videos are read, such as `decode.FrameFolders`.
        seed: of the augmentation.
        label_map: labels that change when a clip is mirrored.
        exact_resize: see `MultiScaleCrop.exact`.
        fast_decode: decode approximately, see `decode.decode_image`.
        on_error: "raise", or "skip": take the next readable video of the list instead, or, where
            ten in a row are unreadable, a random one.
        num_threads: threads that decode.
        num_classes: of records with several labels each; `None`: they have one.
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
        self.source = source
        self.seed = seed
        self.on_error = on_error
        self.num_threads = num_threads
        self.num_classes = num_classes
        self.sample = view.sampler()
        self.crop = view.cropping(exact=exact_resize)
        self.draft = view.short_side if fast_decode else None
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
            entries: `(epoch, record)` per row.

        Returns:
            A dict of `clip` uint8 `[batch, segments, size, size, 3]`, `label` int32 `[batch]` or,
            of several labels each, float32 `[batch, classes]` of 0 and 1, `example` int32 `[batch]`
            (position in the list), `problems`, a tuple of messages about replaced examples, and
            `losses`, one about videos that have lost frames, see `Video.loss`.
        """
        size = self.view.crop_size
        clips = memory.empty((len(entries), self.view.num_segments, size, size, 3))
        rows = list(self._threads().map(self._read, entries, clips))
        labels, losses, examples, problems = zip(*rows, strict=True)
        return {
            "clip": clips,
            "label": self._label_array(labels),
            "example": np.array(examples, np.int32),
            "problems": tuple(p for p in problems if p),
            "losses": tuple(loss for loss in losses if loss),
        }

    def _label_array(self, labels):
        if self.num_classes is None:
            return np.array(labels, np.int32)
        return annotations.multi_hot(labels, self.num_classes)

    def _threads(self):
        with self._lock:
            if self._pool is None:
                _die_with_parent(os.getpid())
                self._pool = ThreadPoolExecutor(self.num_threads, "decode")
            return self._pool

    def _read(self, entry, out):
        """Read one example into `out`: label, loss, position in the list and what went wrong."""
        epoch, wanted = entry
        problem = ""
        for step in range(min(_MAX_REPLACEMENTS, len(self.records))):
            record = self._replacement(epoch, wanted.index, step)
            # Seeded by the example that was wanted: a neighbour's own turn stays another draw.
            seed = self.seed, epoch, wanted.index
            cut = partial(self._cut, record, seed, out)
            try:
                label, loss = read_video(partial(self.source.open, record), cut)
                return label, loss, wanted.index, problem
            except FrameError as error:
                if self.on_error == "raise":
                    raise
                problem = problem or str(error)
        raise UserError(
            f"none of the {step + 1} videos from {wanted.path} on can be read: {problem}"
        )

    def _replacement(self, epoch, index, step):
        """The record of an example, or the one to try after `step` that are unreadable."""
        num_records = len(self.records)
        if step > _MOST_NEIGHBORS and num_records > _MAX_REPLACEMENTS:
            # Neighbours are often unreadable together, such as those of a folder that is missing.
            step = int(np.random.default_rng((self.seed, epoch, index, step)).integers(num_records))
        return self.records[(index + step) % num_records]

    def _cut(self, record, seed, out, video):
        """Cut a clip out of an open video; returns its label and what the video has lost."""
        rng = np.random.default_rng(seed)
        with memory.scratch() as scratch:
            rows: dict[int, list[int]] = {}
            for row, number in enumerate(self.sample(video.num_frames, rng).ravel().tolist()):
                rows.setdefault(number, []).append(row)
            box = None
            for number, frame in video.frames(rows, self.draft):
                frame = augment.resize_short_side(frame, self.crop.scaled_to, scratch)
                if box is None:
                    ((box, _),) = self.crop.boxes(*frame.shape[:2], rng)
                    mirrored = self.flip.draw(rng)
                for row in rows[number]:
                    augment.cut(frame, box, mirrored, out[row])
        self.color(out, rng)
        return self.flip.label(record.label) if mirrored else record.label, video.loss


def train_batches(
    reader, *, batch, seed, balanced=False, first_batch=0, host=0, num_hosts=1, num_workers=0
):
    """Iterate over the endless, reshuffled stream of training batches.

    Args:
        reader: a `BatchReader`; every example of its list occurs once per epoch.
        batch: clips per global batch, over all hosts.
        seed: of the order.
        balanced: take one example of each class in turn, instead of all examples once per epoch;
            those of a class come in random order, each as often as the others.
        first_batch: number of the global batch to begin with.
        host: number of this host.
        num_hosts: number of hosts; each reads an equal, contiguous part of every global batch.
        num_workers: worker processes; 0 reads in threads of this process.

    Returns:
        An iterator of batches (see `BatchReader.__call__`) with a method `close`.
    """
    if balanced:
        rows = grain.MapDataset.mix([_rows(each, seed) for each in _by_class(reader.records)])
    else:
        rows = _rows(reader.records, seed)
    parts = rows.batch(batch // num_hosts, batch_fn=list)
    batches = parts[host::num_hosts][first_batch:].map(reader)
    return _iterate(batches, _BATCHES_AHEAD, num_workers)


def _rows(records, seed):
    """The endless, reshuffled stream of `(how often it came before, record)`."""
    num_records = len(records)
    order = grain.MapDataset.source(records).seed(seed).shuffle().repeat(_ENDLESS)
    return order.map_with_index(lambda index, record: (index // num_records, record))


def _by_class(records):
    """The records of each class that occurs, in the order of the labels."""
    classes: dict[int, list] = {}
    for record in records:
        classes.setdefault(record.label, []).append(record)
    return [classes[label] for label in sorted(classes)]


class EvalVideos:
    """One process's share of the videos of a list, for any number of passes.

    Iterating over it is a pass: what the reader returns, in order; the iterator has a method
    `close`. Worker processes, which take seconds to start, stay for the next pass, and read its
    first videos meanwhile.

    Args:
        reader: a `VideoReader`.
        records: the list of `Record`; those of number `host`, `host + num_hosts`, ... are read.
        host: number of this host.
        num_hosts: number of hosts.
        num_threads: threads that decode, in every process.
        num_workers: worker processes; 0 reads in threads of this process.
    """

    def __init__(self, reader, records, *, host=0, num_hosts=1, num_threads=1, num_workers=0):
        share = grain.MapDataset.source(records)[host::num_hosts]
        self._videos = share.map(partial(_read_video, reader))
        self._num_threads = num_threads
        self._num_workers = num_workers
        self._endless: Any = None

    def __iter__(self):
        if not self._num_workers or not len(self._videos):
            return _iterate(self._videos, self._num_threads, 0)
        return self._take_pass()

    def _take_pass(self):
        if self._endless is None:
            videos = self._videos.repeat(_ENDLESS)
            self._endless = _iterate(videos, self._num_threads, self._num_workers)
        left = len(self._videos)
        try:
            while left:
                yield next(self._endless)
                left -= 1
        finally:
            if left:  # given up; the next pass starts at the first video again
                self.close()

    def close(self):
        """Stop the worker processes."""
        if self._endless is not None:
            self._endless.close()
            self._endless = None


def _read_video(reader, record):
    _die_with_parent(os.getpid())
    return reader(record)


def readable(videos, problems, losses):
    """Take the readable ones out of what `VideoReader` returns.

    Args:
        videos: an iterator of it, which is closed in the end.
        problems: receives `{example: message}` of the others.
        losses: receives the messages about lost frames.

    Yields:
        What the reader returned of readable videos.
    """
    try:
        for video in videos:
            if "problem" in video:
                problems[video["example"]] = video["problem"]
                continue
            if video.get("loss"):
                losses.add(video["loss"])
            yield video
    finally:
        videos.close()


def clip_batches(videos, num_clips):
    """Pack the clips of videos into arrays of a fixed size, whatever video they are of.

    Args:
        videos: an iterator of what `VideoReader` returns, which is closed in the end.
        num_clips: clips per array.

    Yields:
        Dicts of `clip` uint8 `[num_clips, segments, size, size, 3]`, `example` int32 `[num_clips]`
        (position of a clip's video in the list), `seen`, how all of these clips are looked at,
        `rows`, for every clip that is not padding its `(example, number of the shape, number among
        the clips of that shape)`, and `videos`, what the reader said of the videos that begin here,
        without the clips.
    """
    batches: dict[tuple, dict] = {}
    begun: list[dict] = []
    try:
        for video in videos:
            begun.append({key: value for key, value in video.items() if key != "clips"})
            for shape, clips in enumerate(video["clips"]):
                for number, (clip, seen) in enumerate(
                    zip(clips, video["seen"][shape], strict=True)
                ):
                    if (shape, seen) not in batches:
                        batches[shape, seen] = _empty_batch(num_clips, clip.shape, seen)
                    batch = batches[shape, seen]
                    row = len(batch["rows"])
                    batch["clip"][row] = clip
                    batch["example"][row] = video["example"]
                    batch["rows"].append((video["example"], shape, number))
                    if row == num_clips - 1:
                        yield batches.pop((shape, seen)) | {"videos": begun}
                        begun = []
        for batch in batches.values():
            batch["clip"][len(batch["rows"]) :] = 0
            yield batch | {"videos": begun}
            begun = []
    finally:
        videos.close()


def _empty_batch(num_clips, shape, seen):
    clips, examples = memory.empty((num_clips, *shape)), np.zeros(num_clips, np.int32)
    return {"clip": clips, "example": examples, "seen": seen, "rows": []}


def _iterate(elements, num_threads, num_workers):
    ahead = max(num_threads, _BATCHES_AHEAD)
    elements = elements.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    )
    if num_workers:
        options = grain.multiprocessing.MultiprocessingOptions(
            num_workers=num_workers, per_worker_buffer_size=_BATCHES_AHEAD
        )
        return _FromWorkers(iter(elements.mp_prefetch(options, _ignore_signals)))
    return iter(elements)


class _FromWorkers:
    """What worker processes read; says what to do when one of them dies.

    Args:
        elements: grain's iterator, which raises `RuntimeError` then.
    """

    def __init__(self, elements):
        self._elements = elements

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._elements)
        except RuntimeError as error:
            code = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
            if code is None:
                raise
            raise PassingError(
                f"a worker process of the data loader has died ({_cause(int(code[1]))}); run the "
                "same command again, which goes on from the last checkpoint. If it dies again: "
                "with fewer data.num_workers less memory is needed, data.num_workers=0 does "
                "without, and `trn-jax extract` names videos that crash their decoder"
            ) from None

    def close(self):
        self._elements.close()


def _ignore_signals(*_):
    """In a worker process: leave signals to the trainer, which may still need batches to save.

    Ctrl-C, and some job managers, send them to all processes of a group.
    """
    ignore_signals()


def _cause(code):
    """What an exit code of a process says about its end."""
    if code != -getattr(signal, "SIGKILL", 9):  # Windows has none
        return f"exit code {code}"
    return f"exit code {code}: it was killed, as the system does when memory runs out"


@cache
def _die_with_parent(process):
    """In a worker process: end when the trainer ends, however it ended; does so once per process.

    A trainer that is killed cannot tell its workers, and they would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch():
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
