"""From a configuration to its data: lists, class names and loaders."""

import contextlib
import os

import jax
import numpy as np

from trn_jax.data import annotations, batches, datasets, decode, pipeline, records, videos
from trn_jax.data.class_names import read_class_names
from trn_jax.data.frame_folders import FrameFolders
from trn_jax.data.labels import mirrored_labels, paired_labels
from trn_jax.data.views import View
from trn_jax.data.workers import num_cpus
from trn_jax.distributed import processes
from trn_jax.errors import UserError
from trn_jax.settings import resolved_views

_CHECKED = 10  # videos of a list, at least one of which must exist
_MEASURED = 64  # training examples, whose lengths are the typical ones


class Data:
    """The lists, class names and loaders of a configuration.

    Args:
        config: see `trn_jax.config.base`.
        workdir: the synthetic data set is written beside it by default.
        split: what is evaluated, "val", "test" or "train".
        may_write: whether it may be written to the folder that the configuration names.

    Attributes:
        split: the same.
        class_names: names of the classes, in the order of their labels.
        num_threads: threads that decode.
        files: the `Dataset` with absolute paths.
        source: where videos are read.
        multi_label: whether videos have several labels each.

    Raises:
        UserError: files are missing or do not fit each other.
    """

    def __init__(self, config, workdir, split="val", *, may_write=True):
        self.split = split
        section = config.data
        data_dir = config.data_dir or default_data_dir(section.dataset, workdir)
        fields = datasets.Dataset.__dataclass_fields__
        overrides = {key: section[key] for key in fields if key in section}
        with processes.process_zero_first():  # it may have to write the synthetic data set
            self.files = datasets.locate(
                section.dataset, data_dir, write=may_write or not config.data_dir, **overrides
            )
        self.source = source_of(self.files, section.max_pixels)
        self.num_threads = section.num_threads or num_cpus()
        self.multi_label = section.multi_label
        self._config = config
        self._records: dict[str, list[annotations.Record]] = {}
        self._evaluated: tuple[dict, pipeline.EvalVideos] | None = None  # the last views and videos
        self.class_names = read_class_names(self.files.class_names)
        if config.model.num_classes not in (None, len(self.class_names)):
            raise UserError(
                f"{self.files.class_names} names {len(self.class_names)} classes, but "
                f"model.num_classes is {config.model.num_classes}; correct one of the two"
            )

    @property
    def train_records(self):
        """The training list."""
        return self._list(self.files.train_list, self.files.frames)

    @property
    def val_records(self):
        """The list that is evaluated, of validation unless `split` is another."""
        path, frames = self.files.of_split(self.split)
        is_list = self.files.source != "records"
        if is_list and self.split == "test" and not os.path.exists(path):
            raise UserError(
                f"--split=test: the data set has no list {path}; `trn-jax prepare` writes one for "
                "the test videos of its source; or name another list with --config.data.test_list"
            )
        return self._list(path, frames)

    def listed(self, split):
        """Names of the videos of a list, "train" or "val", as they stand there, and its records."""
        if split == "train":
            return self.train_names(range(len(self.train_records))), self.train_records
        return self.val_names, self.val_records

    @property
    def train_labels(self):
        """Of the training list, as `val_labels`."""
        return self._labels(self.train_records)

    @property
    def val_labels(self):
        """Of `val_records`: int64 `[videos]`, or multi-hot float32 `[videos, classes]`."""
        return self._labels(self.val_records)

    def _labels(self, records):
        labels = [record.label for record in records]
        if self.multi_label:
            return annotations.multi_hot(labels, len(self.class_names))
        return np.array(labels, np.int64)

    @property
    def val_names(self):
        """Names of the videos of the list that is evaluated, see `annotations.Record.named`."""
        _, root = self.files.of_split(self.split)
        return [record.named(root) for record in self.val_records]

    def train_names(self, examples):
        """Names of some videos of the training list, by their positions in it."""
        root = self.files.frames
        return [self.train_records[example].named(root) for example in examples]

    def _list(self, path, frames):
        if path not in self._records:
            labels = dict(num_classes=len(self.class_names), multi_label=self.multi_label)
            if self.files.source == "records":
                found = self.source.videos(os.path.basename(path), **labels)
            else:
                labels |= dict(with_offset=self.files.with_offset)
                found = annotations.read_list(path, frames_root=frames, **labels)
            self._check_some(found)
            self._records[path] = found
        return self._records[path]

    def _check_some(self, records):
        """Check that videos are where they are expected; if some may be unreadable, not all."""
        number = _CHECKED if self._config.data.on_error == "skip" else 1
        problems = []
        for record in records[:: -(-len(records) // number)]:
            try:
                return self.source.check(record)
            except decode.FrameError as error:
                problems.append(error)
        raise problems[0]

    def sampling(self):
        """How long training examples last: the medians of some of them, spread over the list.

        Returns:
            A dict of `num_frames`, `seconds` and `frame_rate` (per second); `None` where unknown.
            Videos that can't be read don't count.
        """
        found = []
        for record in self.train_records[:: -(-len(self.train_records) // _MEASURED)]:
            with contextlib.suppress(decode.FrameError), self.source.open(record) as video:
                found.append((video.num_frames, video.seconds))
        timed = [(num_frames, seconds) for num_frames, seconds in found if seconds]
        return {
            "num_frames": _median(num_frames for num_frames, _ in found),
            "seconds": _median(seconds for _, seconds in timed),
            "frame_rate": _median(num_frames / seconds for num_frames, seconds in timed),
        }

    @property
    def best_metric(self):
        """Name of the metric whose highest value makes a checkpoint the best."""
        return "map" if self.multi_label else "top1"

    @property
    def reversed_class(self):
        """`{label: label of the class that is this one backwards in time}`."""
        labels = {name: label for label, name in enumerate(self.class_names)}
        pairs = [
            (labels[a], labels[b])
            for a, b in self.files.reversed_pairs
            if a in labels and b in labels
        ]
        return dict(pairs) | {b: a for a, b in pairs}

    def train_reader(self):
        """What reads batches of the training list."""
        section = self._config.data
        view = View(**resolved_views(self._config)["data.train"])
        return batches.BatchReader(
            self.train_records,
            view,
            self.source,
            seed=self._config.seed,
            label_map=self.mirrored(view),
            exact_resize=section.exact_resize,
            fast_decode=section.fast_decode,
            on_error=section.on_error,
            num_threads=self.num_threads,
            num_classes=len(self.class_names) if self.multi_label else None,
        )

    def train_batches(self, first_batch):
        """This process's part of the training batches, from batch `first_batch` on."""
        config, section = self._config, self._config.data
        return pipeline.train_batches(
            self.train_reader(),
            batch=config.train.batch,
            seed=config.seed,
            balanced=section.balanced,
            first_batch=first_batch,
            process=jax.process_index(),
            num_processes=jax.process_count(),
            num_workers=section.num_workers,
        )

    def eval_videos(self, views):
        """This process's videos of `val_records`, with the clips of `views`, `{name: View}`.

        Worker processes are reused until the views change.
        """
        if self._evaluated is None or self._evaluated[0] != views:
            self.close()
            videos = pipeline.EvalVideos(
                self.val_records,
                views,
                self.source,
                seed=self._config.seed,
                on_error=self._config.data.on_error,
                process=jax.process_index(),
                num_processes=jax.process_count(),
                num_threads=self.num_threads,
                num_workers=self._config.data.num_workers,
            )
            self._evaluated = dict(views), videos
        return iter(self._evaluated[1])

    def close(self):
        """Stop the worker processes of evaluations."""
        if self._evaluated is not None:
            self._evaluated[1].close()
            self._evaluated = None

    def mirrored(self, view):
        """`{label: its label in a mirrored clip}` for the labels that `view` exchanges.

        Raises:
            UserError: `flip_pairs` names something that is not a class.
        """
        found = mirrored_labels(self.class_names) if view.flip_labels else {}
        # Given pairs take precedence over those found by names.
        given = paired_labels(view.flip_pairs, self.class_names)
        found = {a: b for a, b in found.items() if a not in given and b not in given}
        return found | given

    def describe_flip(self, view):
        """Lines for the log: the labels that mirroring a clip exchanges."""
        pairs = self.mirrored(view)
        names = self.class_names
        lines = [f"  {names[a]} <-> {names[b]}" for a, b in sorted(pairs.items()) if a < b]
        if not lines:
            return "mirrored clips keep their label"
        return "\n".join(["mirrored clips exchange these labels:", *lines])


def _median(values):
    """The median of some numbers, or `None` of none."""
    values = list(values)
    return float(np.median(values)) if values else None


def source_of(files, max_pixels):
    """Where the videos of a `Dataset` are read."""
    if files.source == "videos":
        return videos.VideoFiles(max_pixels=max_pixels)
    if files.source == "records":
        root = os.path.dirname(files.frames)
        return records.VideoRecords(root, max_pixels=max_pixels, frame_rate=files.frame_rate)
    naming = dict(pattern=files.frame_pattern, first_frame=files.first_frame)
    return FrameFolders(**naming, max_pixels=max_pixels, frame_rate=files.frame_rate)


def default_data_dir(dataset, workdir):
    """The folder of a data set whose configuration names none."""
    if dataset == "synthetic":
        return os.path.join(os.path.dirname(os.path.abspath(workdir)), "data", "synthetic")
    return os.path.join("data", dataset)
