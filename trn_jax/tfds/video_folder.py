"""TFDS builder for prepared lists of videos, with two configurations, see `data.records`.

    import trn_jax.tfds
    builder = tfds.builder("something_something_v1/frames", data_dir="data/records")
    config = tfds.download.DownloadConfig(manual_dir="data/sthv1")
    builder.download_and_prepare(file_format="array_record", download_config=config)

`trn-jax records` builds both. Shards are written one by one, or in parallel with a `beam_runner` in
the `DownloadConfig`. Videos keep the order of the lists.
"""

import functools
import os
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters

from trn_jax.data.records import PARTS
from trn_jax.tfds.contents import (
    Encoding,
    cut_into_shards,
    find_contents,
    frame_examples,
    video_examples,
)
from trn_jax.tfds.shard_writer import ShardWriter, forget_unfinished


class VideoFolder(tfds.core.ShardBasedBuilder):
    """Builder of labelled videos.

    Args:
        dataset: name in `datasets.DATASETS`, for the names of its files.
        multi_label: whether videos have several labels.
        files: fields of `datasets.Dataset` that differ from the defaults of the data set.
        short_side: see `Encoding`.
        quality: see `Encoding`.
        **options: those of TFDS, such as `data_dir` and `config`.

    Attributes:
        progress: called with 1 after every record; or `None`.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=part, description=description)
        for part, description in zip(
            PARTS,
            ("Name, label and number of frames of every video.", "Every frame of every video."),
            strict=True,
        )
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Lists and folders of frames, or video files, as `trn-jax prepare` makes them."
    )
    # Subclasses override these.
    DATASET = "frames"
    NUM_CLASSES: int | None = None
    MULTI_LABEL = False
    DESCRIPTION = "Labelled videos, from lists and folders of frames or video files."
    CITATION: str | None = None
    HOMEPAGE: str | None = None

    def __init__(
        self, *, dataset=None, multi_label=None, files=None, short_side=0, quality=95, **options
    ):
        self._dataset = dataset or self.DATASET
        self._multi_label = self.MULTI_LABEL if multi_label is None else multi_label
        self._files = files or {}
        self._encoding = Encoding(short_side, quality)
        self._contents: Any = None
        self.progress = None
        super().__init__(**options)

    def find_contents(self, data_dir):
        """The `Contents` of a prepared data set."""
        return find_contents(
            self._dataset,
            data_dir,
            num_classes=self.NUM_CLASSES,
            multi_label=self._multi_label,
            files=self._files,
        )

    def use(self, contents):
        """Build from these `Contents`; without, they are found again."""
        self._contents = contents

    @property
    def num_records(self):
        """Number of records of the `Contents`."""
        splits = self._contents.videos
        return sum(self._length(shard) for split in splits for shard in self._shards(split))

    def digest(self, contents):
        """Hash of these `Contents` as stored, which is in the metadata of finished records."""
        return contents.digest(self._encoding)

    def _info(self):
        features = {"video": tfds.features.Text()}
        if self.builder_config.name == "frames":
            features["frame"] = np.int64
            features["image"] = tfds.features.Image()
        else:
            label = tfds.features.ClassLabel(num_classes=self.NUM_CLASSES)
            kind = {"labels": tfds.features.Sequence(label)}
            features |= kind if self._multi_label else {"label": label}
            features |= {"num_frames": np.int64, "first_frame": np.int64}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            citation=self.CITATION,
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager, download_config=None):
        if self._contents is None:
            self._contents = self.find_contents(dl_manager.manual_dir)
        self.info.metadata["contents"] = self.digest(self._contents)
        super()._download_and_prepare(dl_manager, download_config)
        # With Beam, TFDS sorts the lengths of shards by name, "10" before "2".
        splits = [
            split.replace(shard_lengths=[self._length(shard) for shard in self._shards(name)])
            for name, split in self.info.splits.items()
        ]
        self.info.set_splits(tfds.core.splits.SplitDict(splits))

    def _shard_iterators_per_split(self, dl_manager):
        if self.builder_config.name == "frames":
            generate: Any = functools.partial(frame_examples, self._contents.files, self._encoding)
        else:
            self._name_classes()
            generate = video_examples
        return {
            split: [functools.partial(generate, shard) for shard in self._shards(split)]
            for split in self._contents.videos
        }

    def _shards(self, split):
        videos = self._contents.videos[split]
        return cut_into_shards(videos) if self.builder_config.name == "frames" else [videos]

    def _length(self, shard):
        if self.builder_config.name == "frames":
            return sum(video.num_frames for video in shard)
        return len(shard)

    def _name_classes(self):
        label = self.info.features["labels" if self._multi_label else "label"]
        if self._multi_label:
            label = label.feature
        label.names = self._contents.class_names

    def _example_writer(self):
        folder = os.fspath(self.data_path.parent)
        digest = self.digest(self._contents)
        return ShardWriter(self.info.file_format, folder, digest, self.progress)

    def _post_download_and_prepare_hook(self):
        forget_unfinished(os.fspath(self.data_path.parent))

    def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
        """For `tfds.load`, as TFDS has no `tf.data` reader of ArrayRecord; needs TensorFlow."""
        if self.info.file_format is not file_adapters.FileFormat.ARRAY_RECORD:
            return super()._as_dataset(split, decoders, read_config, shuffle_files)
        import tensorflow as tf

        source = self.as_data_source(split, decoders=decoders)
        return tf.data.Dataset.from_generator(
            lambda: (source[index] for index in range(len(source))),
            output_signature=self.info.features.get_tensor_spec(),
        )
