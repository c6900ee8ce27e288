"""Frames of the videos of a result, read where the data set still is."""

import dataclasses
from functools import partial

import numpy as np

from trn_jax.data import annotations
from trn_jax.data.class_names import read_class_names
from trn_jax.data.datasets import Dataset, locate
from trn_jax.data.decode import FrameError, read_video
from trn_jax.errors import UserError, escaped, first_line
from trn_jax.files import reading
from trn_jax.pages.markup import middle_cut, tag
from trn_jax.pages.page import note
from trn_jax.pages.pictures import strip
from trn_jax.recipe_data import default_data_dir, source_of
from trn_jax.settings import from_dict

NUM_FRAMES = 8  # of a strip
_SIDE = 96  # pixels of a frame
_MOST_OF_REASON = 1_000  # characters; several paths of a machine fit into it
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

    def note(self):
        """A note on a page, in place of the frames."""
        return note(f"Their frames can't be shown: {_short(self.reason)}")


def open_videos(result, workdir):
    """The `EvaluatedVideos` of a result with scores, or `NoVideos`."""
    if not result.scores.videos:
        return NoVideos("they have no names")
    try:
        return EvaluatedVideos(result, workdir)
    except UserError as error:
        return NoVideos(first_line(error))


def video_figure(videos, video, caption, label):
    """A figure with frames of a video, or why they can't be shown.

    Args:
        videos: `EvaluatedVideos`.
        video: its name in the list.
        caption: `Markup`, or what `markup.tag` takes.
        label: what the strip shows, behind the number of frames.
    """
    try:
        frames = videos.strip(video)
        shown = strip(frames, label=f"{len(frames)} frames of {label}, in order", side=_SIDE)
    except UserError as error:
        shown = note(f"The video can't be shown: {_short(error)}")
    return tag("figure", shown, tag("figcaption", caption))


def _short(reason):
    return middle_cut(escaped(reason), _MOST_OF_REASON)
