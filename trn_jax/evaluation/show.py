"""Clips of a view as a sheet, read by what reads them in training and evaluation."""

from functools import partial

import numpy as np

from trn_jax.data import pipeline
from trn_jax.data.decode import FrameError, read_video
from trn_jax.data.videos import VideoFiles
from trn_jax.data.views import View
from trn_jax.errors import UserError, did_you_mean
from trn_jax.evaluation.clip_sheet import Row, Sheet, as_list, batch_rows, describe
from trn_jax.recipe_data import Data
from trn_jax.settings import resolved_views

TRAINING = "data.train"


def show(config, workdir, *, view=None, split=None, num_clips=12):
    """Read some clips of a view.

    Args:
        config: see `trn_jax.config.base`.
        workdir: see `Data`.
        view: "data.train", the first clips of a training; "data.val" or "protocols.<name>", clips
            of videos from all parts of the list, as an evaluation reads them; by default that of
            the split.
        split: "train", "val" or "test"; by default that of the view.
        num_clips: number of clips; a short list gives fewer.

    Returns:
        A `clip_sheet.Sheet`, and messages about videos that are unreadable or have lost frames.

    Raises:
        UserError: there is no such view or list, or no video can be read.
    """
    split = split or ("train" if view in (None, TRAINING) else "val")
    view = view or (TRAINING if split == "train" else "data.val")
    views = resolved_views(config)
    if view not in views:
        raise UserError(
            f"--view={view} is no view of the recipe{did_you_mean(view, views)} It has: "
            f"{', '.join(views)}"
        )
    if view == TRAINING and split != "train":
        others = ", ".join(each for each in views if each != TRAINING)
        raise UserError(
            f"--view={TRAINING} shows the training list; with --split={split} choose another view: "
            f"{others}"
        )
    data = Data(config, workdir, split, may_write=False)
    if view == TRAINING:
        rows, problems = _training_rows(config, data, num_clips)
        title = f"The first {len(rows)} clips of a training, as the network receives them"
    else:
        rows, problems = _evaluation_rows(config, data, view, View(**views[view]), num_clips)
        title = f"{len(rows)} clips of an evaluation, as the network receives them"
    if not rows:
        raise UserError(f"none of the chosen videos can be read: {problems[0]}")
    place = config.data_dir or config.data.dataset
    notes = (f"data {place}, list {split}, view {view}, seed {config.seed}", *describe(rows))
    return Sheet(title, notes, data.class_names, rows), problems


def _training_rows(config, data, num_clips):
    """The first clips of a training, whatever its batch, and messages."""
    records = data.train_records
    order = pipeline.train_rows(records, seed=config.seed, balanced=config.data.balanced)
    batch = data.train_reader()([order[number] for number in range(num_clips)])
    times = [_times(data.source, records[clip.example], clip.frames) for clip in batch["clips"]]
    return batch_rows(batch, data, times=times), [*batch["problems"], *batch["losses"]]


def _evaluation_rows(config, data, name, view, num_clips):
    """Clips of videos from all parts of the list, and messages."""
    records, names = data.val_records, data.val_names
    num_videos = min(-(-num_clips // view.num_views), len(records))
    # One from each of equal parts, as lists are often sorted by class.
    ends = np.arange(num_videos + 1) * len(records) // num_videos
    places = np.random.default_rng(config.seed).integers(ends[:-1], ends[1:])
    videos = pipeline.EvalVideos(
        [records[place] for place in places],
        {name: view},
        data.source,
        seed=config.seed,
        on_error=config.data.on_error,
        num_threads=data.num_threads,
    )
    rows: list[Row] = []
    problems: dict[int, str] = {}
    losses: set[str] = set()
    for video in pipeline.readable(iter(videos), problems, losses):
        record = records[video.example]
        for position, mirrored, clip, pixels in _in_order(video):
            row = Row(
                pixels=pixels[:, :, ::-1] if mirrored else pixels,
                labels=as_list(record.label),
                mirrored=mirrored,
                video=names[video.example],
                frames=clip.frames,
                times=_times(data.source, record, clip.frames),
                part=f"view {position + 1} of {view.num_views}" if view.num_views > 1 else "",
            )
            rows.append(row)
    return rows[:num_clips], [*problems.values(), *sorted(losses)]


def _in_order(video):
    """The clips of a `VideoClips` of one view: `(position, mirrored, clip, pixels)`."""
    found = [
        (position, mirrored, clip, pixels)
        for clip, pixels in video.pairs()
        for _, position, mirrored in clip.places
    ]
    return sorted(found, key=lambda each: each[0])


def _times(source, record, frames):
    """Times of frames of a video, or `None`.

    The frames are decoded again: if one is corrupt, only those that decode have numbers.
    """
    if not isinstance(source, VideoFiles):
        return None

    def read(video):
        for _ in video.frames(frames):
            pass
        try:
            return video.times[list(frames)].tolist()
        except FrameError:  # neither time stamps nor a rate
            return None

    return read_video(partial(source.open, record), read)
