"""Frames of the videos of a result, read where the data set still is."""

import dataclasses
from functools import partial

import numpy as np

from trn_jax.data import annotations
from trn_jax.data.class_names import read_class_names
from trn_jax.data.datasets import Dataset, locate
from trn_jax.data.decode import FrameError, read_video
from trn_jax.errors import UserError, first_line
from trn_jax.files import reading
from trn_jax.recipe_data import default_data_dir, source_of
from trn_jax.settings import from_dict

NUM_FRAMES = 8  # of a strip
_SPLITS = ("train", "val", "test")


class EvaluatedVideos:
    """The videos of an evaluation, opened by the reader of their data set.

    Args:
        result: a `runs.Result`, whose configuration names the data set.
        workdir: the working directory of the run.

    Raises:
        UserError: the result has no configuration, or the data set is not there.
    """

    def __init__(self, result, workdir):
        stored = result.entries.get("config")
        if not isinstance(stored, dict):
            raise UserError("the result doesn't name its data set")
        with reading(result.path, "the configuration of a result"):
            config = from_dict(stored)
            section = config.data
            keys = [key for key in Dataset.__dataclass_fields__ if key in section]
            data_dir = config.data_dir or default_data_dir(section.dataset, workdir)
            overrides = {key: section[key] for key in keys}
            files = locate(section.dataset, data_dir, write=False, **overrides)
            split = result.text("split")
            path, root = files.of_split(split if split in _SPLITS else "val")
            self._source = source_of(files, section.max_pixels)
            names = read_class_names(files.class_names)
            options = dict(num_classes=len(names), multi_label=section.multi_label)
            if files.source == "records":
                records = self._source.videos(path.rpartition("/")[2], **options)
            else:
                options |= dict(frames_root=root, with_offset=files.with_offset)
                records = annotations.read_list(path, **options)
        self._records = {record.named(root): record for record in records}

    def strip(self, video, num_frames=NUM_FRAMES):
        """Frames from the middles of equal parts of a video.

        Args:
            video: its name in the list.
            num_frames: how many, at most.

        Returns:
            uint8 `[frames, height, width, 3]`, RGB.

        Raises:
            UserError: it is not in the list, or can't be read.
        """
        record = self._records.get(video)
        if record is None:
            raise UserError("no longer in the list")
        try:
            return read_video(partial(self._source.open, record), partial(_spread, num_frames))
        except FrameError as error:
            raise UserError(first_line(error)) from None


def _spread(num_frames, video):
    count = min(num_frames, video.num_frames)
    middles = ((np.arange(count) + 0.5) * video.num_frames / count).astype(int)
    return np.stack(video.read(middles))


@dataclasses.dataclass(frozen=True)
class NoVideos:
    """Stands for the videos of an evaluation that are not there.

    Attributes:
        reason: why.
    """

    reason: str

    def strip(self, video, num_frames=NUM_FRAMES):
        """Raise the reason."""
        raise UserError(self.reason)


def open_videos(result, workdir):
    """The `EvaluatedVideos` of a result, or `NoVideos`."""
    try:
        return EvaluatedVideos(result, workdir)
    except UserError as error:
        return NoVideos(first_line(error))
