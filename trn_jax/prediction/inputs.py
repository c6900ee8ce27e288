"""The videos of a prediction: files, folders of frames and records as one source of videos."""

import dataclasses
from collections.abc import Callable
from typing import Any

from trn_jax.data.annotations import Record
from trn_jax.data.decode import FrameError
from trn_jax.data.videos import VideoFile, VideoFiles
from trn_jax.prediction.frame_parts import Folders


@dataclasses.dataclass(frozen=True)
class Input:
    """A video to predict.

    Attributes:
        name: in the output: its path as given, or as found below the folder that was given.
        record: its `Record`; the label means nothing.
        source: where it is read, with `open(record)`; `None` for what can't be read.
        problem: why it can't be read, or "".
    """

    name: str
    record: Record
    source: Any = None
    problem: str = ""


class Inputs:
    """Videos of different kinds as one source of videos, see `frame_folders.FrameFolders`.

    Args:
        inputs: a list of `Input`.
        is_long: whether a video of so many seconds (`None`: unknown) is not read as a whole; by
            default, all are.

    Attributes:
        records: one `Record` per input, numbered from 0.
        long: numbers of the inputs that `open` has found to be long.
    """

    def __init__(self, inputs, is_long: Callable | None = None):
        self._inputs = inputs
        self._is_long = is_long
        self.long: set[int] = set()
        self.records = [
            dataclasses.replace(each.record, index=index) for index, each in enumerate(inputs)
        ]

    def name(self, index):
        """Name of an input in the output."""
        return self._inputs[index].name

    def start(self, index):
        """When an input begins, if it is a part of a video, in seconds from the start of that."""
        source, record = self._inputs[index].source, self.records[index]
        if isinstance(source, Folders) and record.offset and source.frame_rate:
            return record.offset / source.frame_rate
        return record.start or 0.0

    def open(self, record):
        """The video of one of `records`; use it in a `with`.

        Raises:
            FrameError: it can't be read, or is long.
        """
        found = self._inputs[record.index]
        if found.problem:
            raise FrameError(found.problem)
        if self._is_long is None:
            return found.source.open(record)
        video = self.open_in_order(record.index)
        try:
            if self._is_long(video.listed_seconds):
                self.long.add(record.index)
                raise FrameError(f"{found.name} is long")  # before anything of it is decoded
            video.count()
        except BaseException:
            video.__exit__(None, None, None)
            raise
        return video

    def open_in_order(self, index):
        """Open a video, by its number, to read it once in order; see `open` for errors.

        Files without an index are not decoded just to count their frames.
        """
        found, record = self._inputs[index], self.records[index]
        if found.problem:
            raise FrameError(found.problem)
        if isinstance(found.source, VideoFiles) and record.start is None:
            return VideoFile(record.path, max_pixels=found.source.max_pixels, count=False)
        return found.source.open(record)
