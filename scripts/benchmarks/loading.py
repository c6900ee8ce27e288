"""The data pipeline in stages, against PyTorch and a lower bound."""

import copy
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

import cv2
import jax
import numpy as np
import simplejpeg
from ml_collections import ConfigDict

from benchmarks.turns import Side, rest
from trn_jax.data import augment
from trn_jax.distributed.sharding import DevicePrefetch, make_mesh
from trn_jax.recipe_data import Data


class TorchClips:
    """The training clips of a recipe as a PyTorch data set, read as PyTorch toolboxes do.

    OpenCV reads frames, which are resized, cropped, resized again, mirrored and transposed to
    `[channels, frames, height, width]`.
    """

    def __init__(self, data: Data):
        self._records = data.train_records
        self._view = data.train_reader().view
        self._source = data.source

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        record, view = self._records[index], self._view
        rng = np.random.default_rng(index)
        frames: list[Any] = []
        for number in view.sampler()(record.num_frames, rng).ravel().tolist():
            name = self._source.pattern.format(number + self._source.first_frame)
            path = os.path.join(record.path, name)
            frames.append(cv2.imread(path, cv2.IMREAD_COLOR_RGB))
        frames = [augment.resize_short_side(frame, view.short_side) for frame in frames]
        crop = dataclasses.replace(view.cropping(exact=True), short_side=0)
        ((left, top, width, height), _), *_ = crop.boxes(*frames[0].shape[:2], rng)
        cropped = [frame[top : top + height, left : left + width] for frame in frames]
        clip = np.stack([augment.resize(frame, crop.size, crop.size) for frame in cropped])
        if rng.random() < view.flip_rate:
            clip = clip[:, :, ::-1]
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2)), int(record.label)


def data_sides(
    config: ConfigDict, workdir: str, others: Sequence[str], stack: ExitStack
) -> tuple[list[Side], dict[tuple[str, str], float | None]]:
    """The stages of the data pipeline, and what they are compared with.

    Args:
        config: see `trn_jax.config.base`.
        workdir: as in training.
        others: folders with the same videos stored otherwise.
        stack: closes the prefetching threads.

    Returns:
        The sides, and the pairs of names to compare with the goal for the ratio of CPU time.
    """
    data = Data(config, workdir)
    name, processors = data.files.source, len(os.sched_getaffinity(0))
    sides = _stages(name, data, config.train.batch)
    sides += [pipeline_side(name, config, workdir, stack), _delivery(data, config, stack)]
    workers = f"{name}, {processors} workers"
    with_workers = copy.deepcopy(config)
    with_workers.data.num_workers = processors
    sides.append(pipeline_side(workers, with_workers, workdir, stack))
    pairs: dict[tuple[str, str], float | None] = {(workers, name): None}
    if name == "videos":
        sides.append(_sequential(name, data, config.train.batch))
        pairs[f"{name}, decode", sides[-1].name] = 1.05
    else:
        sides.append(_lower_bound(data, config.train.batch, stack))
        pairs[name, sides[-1].name] = 1.25
    if name == "frames":
        for side in _torch_loaders(data, config.train.batch, processors):
            sides.append(side)
            pairs[name, side.name] = 0.5
    for number, other in enumerate(others, 2):
        again = copy.deepcopy(config)
        again.data_dir = other
        form = Data(again, workdir)
        called = f"{number}: {form.files.source}"
        sides += _stages(called, form, config.train.batch)
        sides.append(pipeline_side(called, again, workdir, stack))
        pairs[called, name] = None
        if form.files.source == "videos":
            sides.append(_sequential(called, form, config.train.batch))
            pairs[f"{called}, decode", sides[-1].name] = 1.05
    return sides, pairs


def pipeline_side(name: str, config: ConfigDict, workdir: str, stack: ExitStack) -> Side:
    """The batches of training."""
    data = Data(config, workdir)
    batches = stack.enter_context(closing(data.train_batches(0)))

    def deliver(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return Side(name, config.train.batch, deliver, rest)


def _delivery(data: Data, config: ConfigDict, stack: ExitStack) -> Side:
    """The batches of training on the devices."""
    prefetch = stack.enter_context(closing(DevicePrefetch(data.train_batches(0), make_mesh())))

    def deliver(steps: int) -> None:
        for arrays, _ in islice(prefetch, steps):
            jax.block_until_ready(arrays)

    return Side(f"{data.files.source}, to the devices", config.train.batch, deliver, rest)


class _Clips:
    """Videos in random order, with the frames of one clip each."""

    def __init__(self, data: Data):
        self.records = data.train_records
        self._source = data.source
        self._sample = data.train_reader().view.sampler()
        self._order = np.random.default_rng(0).permutation(len(self.records)).tolist()
        self._number = itertools.count()

    def entries(self, count: int) -> list[tuple[int, Any]]:
        """Unique numbers, each with a record."""
        numbers = list(islice(self._number, count))
        return [(n, self.records[self._order[n % len(self._order)]]) for n in numbers]

    def open(self, count: int) -> Iterable[tuple[Any, list[int]]]:
        for number, record in self.entries(count):
            with self._source.open(record) as video:
                rng = np.random.default_rng(number)
                yield video, np.unique(self._sample(video.num_frames, rng)).tolist()


def stage_sides(data: Data, batch: int) -> list[Side]:
    """Decoding clips, and cropping them, too, in one thread: "decode" and "crop"."""
    return [
        dataclasses.replace(side, name=side.name.rpartition(", ")[2])
        for side in _stages("", data, batch)
        if not side.name.endswith("read")
    ]


def _stages(name: str, data: Data, batch: int) -> list[Side]:
    """The stages of reading a clip, cumulatively: read, decode, crop; in one thread."""
    clips, reader = _Clips(data), data.train_reader()
    reader.num_threads = 1

    def read(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            list(video.images(wanted))

    def decode(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            for _ in video.frames(wanted, reader.draft):
                pass

    def crop(steps: int) -> None:
        for _ in range(steps):
            reader(clips.entries(batch))

    stages = {"read": read, "decode": decode, "crop": crop}
    if data.files.source == "videos":
        del stages["read"]  # decoding reads as it goes
    return [Side(f"{name}, {stage}", batch, run) for stage, run in stages.items()]


def _sequential(name: str, data: Data, batch: int) -> Side:
    """Frames of video files decoded from the start, without seeking to key frames."""
    import av

    clips = _Clips(data)

    def run(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            with av.open(video.path) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    if number in wanted:
                        frame.to_ndarray(format="rgb24")
                    if number == wanted[-1]:
                        break

    return Side(f"{name}, from the start", batch, run)


def _lower_bound(data: Data, batch: int, stack: ExitStack) -> Side:
    """Only decoding images in memory and resizing a box of each."""
    view, rng = data.train_reader().view, np.random.default_rng(0)
    sample, crop = view.sampler(), view.cropping(exact=False)
    clips = []
    for record in (data.train_records * batch)[:batch]:
        with data.source.open(record) as video:
            wanted = sample(video.num_frames, rng).ravel()
            clips.append(list(video.images(wanted.tolist())))

    def make(images: list[bytes]) -> None:
        frames = [simplejpeg.decode_jpeg(image, "RGB") for image in images]
        height, width, _ = frames[0].shape
        (((left, top, w, h), _),) = crop.boxes(height, width, np.random.default_rng(0))
        for frame in frames:
            cv2.resize(frame[top : top + h, left : left + w], (crop.size, crop.size))

    pool = stack.enter_context(ThreadPoolExecutor(data.num_threads))

    def run(steps: int) -> None:
        for _ in range(steps):
            list(pool.map(make, clips))

    return Side("decode and resize alone", batch, run)


def _torch_loaders(data: Data, batch: int, processors: int) -> list[Side]:
    """A PyTorch `DataLoader` in this process, and one with a worker per CPU."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed; its loader is left out")
        return []

    def loader_of(num_workers: int) -> Callable[[int], None]:
        loader = torch.utils.data.DataLoader(
            TorchClips(data),
            batch_size=batch,
            sampler=torch.utils.data.RandomSampler(
                data.train_records, replacement=True, num_samples=10**9
            ),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
        )
        clips = iter(loader)

        def run(steps: int) -> None:
            for _ in range(steps):
                next(clips)

        return run

    return [
        Side("PyTorch", batch, loader_of(0)),
        Side(f"PyTorch, {processors} workers", batch, loader_of(processors), rest),
    ]
