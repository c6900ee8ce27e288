"""Order of the examples, and their share per process, as a pure function of the seed.

The order is drawn from (seed, epoch), the augmentation of an example from (seed, epoch, example).
Nothing depends on threads, worker processes or the number of processes, and iterators have no
state: a run that stopped after `k` batches resumes with `first_batch=k`.
"""

import os
from functools import partial
from typing import Any

import grain

from trn_jax.data.decode import FrameError
from trn_jax.data.reader import ClipReader, VideoClips
from trn_jax.data.views import check_fixed_crops
from trn_jax.data.workers import exit_with_parent, iterate

_ENDLESS = 10**6  # epochs; with grain's own endless repetition, batches of one clip overflow


def train_batches(
    reader, *, batch, seed, balanced=False, first_batch=0, process=0, num_processes=1, num_workers=0
):
    """Iterate over the endless, reshuffled stream of training batches.

    Args:
        reader: a `BatchReader`; every example of its list occurs once per epoch.
        batch: clips per global batch, over all processes.
        seed: of the order.
        balanced: take one example of each class in turn, instead of all examples once per epoch;
            those of a class come in random order, each equally often.
        first_batch: number of the global batch to begin with.
        process: number of this process.
        num_processes: number of processes; each reads an equal, contiguous part of every batch.
        num_workers: worker processes of the loader; 0 reads in threads of this process.

    Returns:
        An iterator of batches, see `BatchReader.__call__`, with a method `close`.
    """
    rows = train_rows(reader.records, seed=seed, balanced=balanced)
    parts = rows.batch(batch // num_processes, batch_fn=list)
    batches = parts[process::num_processes][first_batch:].map(reader)
    return iterate(batches, num_threads=2, num_workers=num_workers)


def single_rows(reader, entries, *, num_threads, num_workers=0):
    """Iterate over some rows of training batches, each as a batch of its own.

    Args:
        reader: a `BatchReader`.
        entries: `(epoch, record)` per row.
        num_threads: threads that decode, in every process.
        num_workers: worker processes of the loader; 0 reads in threads of this process.

    Returns:
        As `train_batches`.
    """
    batches = grain.MapDataset.source(entries).batch(1, batch_fn=list).map(reader)
    return iterate(batches, num_threads=num_threads, num_workers=num_workers)


def train_rows(records, *, seed, balanced=False):
    """The rows of all training batches, an endless sequence of `(epoch, record)`.

    Batch k has the rows from `k * batch` on; arguments as in `train_batches`.
    """
    if balanced:
        return grain.MapDataset.mix([_rows(each, seed) for each in _by_class(records)])
    return _rows(records, seed)


def _rows(records, seed):
    """The endless, reshuffled stream of `(epoch, record)`."""
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
    """This process's share of the videos of a list, for any number of passes.

    Iterating is a pass: a `VideoClips` per video, in order; the iterator has a method `close`.
    Worker processes, which take seconds to start, stay for the next pass, and read its first videos
    meanwhile.

    Args:
        records: the list of `Record`; this process reads `records[process::num_processes]`.
        views: `{name: View}`, of fixed crops.
        source: where videos are read, such as `frame_folders.FrameFolders`.
        seed: of samplings, orders and colours that are drawn.
        on_error: "raise", or "skip": unreadable videos give a `VideoClips.problem`.
        process: number of this process.
        num_processes: number of processes.
        num_threads: threads that decode, in every process.
        num_workers: worker processes of the loader; 0 reads in threads of this process.
        timed: see `reader.ClipReader`.

    Raises:
        UserError: a view has random crops.
    """

    def __init__(
        self,
        records,
        views,
        source,
        *,
        seed,
        on_error="raise",
        process=0,
        num_processes=1,
        num_threads=1,
        num_workers=0,
        timed=False,
    ):
        check_fixed_crops(views)
        share = grain.MapDataset.source(records)[process::num_processes]
        read = partial(_read_video, ClipReader(views, source, timed=timed), seed, on_error)
        self._videos = share.map(read)
        self._num_threads = num_threads
        self._num_workers = num_workers
        self._endless: Any = None

    def __iter__(self):
        if not self._num_workers or not len(self._videos):
            return iterate(self._videos, num_threads=self._num_threads)
        return self._take_pass()

    def _take_pass(self):
        if self._endless is None:
            videos = self._videos.repeat(_ENDLESS)
            self._endless = iterate(
                videos, num_threads=self._num_threads, num_workers=self._num_workers
            )
        remaining = len(self._videos)
        try:
            while remaining:
                yield next(self._endless)
                remaining -= 1
        finally:
            if remaining:  # given up; the next pass starts at the first video again
                self.close()

    def close(self):
        """Stop the worker processes."""
        if self._endless is not None:
            self._endless.close()
            self._endless = None


def _read_video(reader, seed, on_error, record):
    exit_with_parent(os.getpid())
    try:
        return reader.read(record, (seed, 0, record.index))
    except FrameError as error:
        if on_error == "raise":
            raise
        return VideoClips(record.index, problem=str(error))


def readable(videos, problems, losses):
    """Filter out videos that can't be read.

    Args:
        videos: an iterator of `VideoClips`; closed at the end.
        problems: receives `{example: message}` of unreadable videos.
        losses: a set that receives messages about lost frames.

    Yields:
        The `VideoClips` of readable videos.
    """
    try:
        for video in videos:
            if video.problem:
                problems[video.example] = video.problem
                continue
            if video.loss:
                losses.add(video.loss)
            yield video
    finally:
        videos.close()
