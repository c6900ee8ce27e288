"""Both parts of the records of a prepared data set, built with TFDS on this machine."""

import contextlib
import glob
import io
import logging
import os
import shlex
import shutil
import tempfile

import tensorflow_datasets as tfds
from tensorflow_datasets.core.constants import INCOMPLETE_PREFIX

from trn_jax.data.shards import INFO_FILE
from trn_jax.errors import UserError, listed
from trn_jax.files import write_text
from trn_jax.prepare.extraction import Settings
from trn_jax.prepare.left_out import UNREADABLE, printable, reason_lines
from trn_jax.prepare.training_command import own_recipe
from trn_jax.progress import Progress
from trn_jax.tfds import BUILDERS, VideoFolder

_RECIPES = {
    "sthv1": "trn_sthv1",
    "sthv2": "trn_sthv2",
    "jester": "trn_bninception_jester",
    "k400": "tsn_k400_8seg",
}


def build_prepared(writer):
    """Build records of a data set that was just prepared, to `records` below its folder.

    They have the lists of the printed training command: of frames, or of videos while there are no
    frames.

    Args:
        writer: a `DatasetWriter` with a `training`.

    Returns:
        The summary, with the command that trains the same recipe on the records.
    """
    training = writer.training
    options = {"files": training.lists}
    if training.source == "videos":
        options["files"] = training.lists | {"source": "videos"}
        options["short_side"] = Settings().short_side
    return build_records(
        writer.to,
        os.path.join(writer.to, "records"),
        dataset=training.dataset,
        multi_label=training.multi_label,
        training=training,
        **options,
    )


def build_records(
    data_dir, to, *, dataset="frames", multi_label=False, training=None, left_out=None, **options
):
    """Build the records of a data set, unless they are complete.

    Args:
        data_dir: folder of the prepared data set.
        to: folder of TFDS's data sets; the records get a folder in it.
        dataset: name in `datasets.DATASETS`.
        multi_label: whether videos have several labels.
        training: the `Training` whose command the summary has. If it has fewer classes than the
            data set, a `VideoFolder` is built.
        left_out: a list that receives the names of unreadable videos, which `unreadable.txt` beside
            the records has, too, with reasons.
        **options: `short_side`, `quality` and `files` of `VideoFolder`.

    Returns:
        The summary, with the command that trains on the records.

    Raises:
        UserError: lists or videos are missing or malformed, the folder has records of other
            contents, or cannot be written.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    kind = BUILDERS.get(dataset, VideoFolder)
    if training and kind.NUM_CLASSES not in (None, training.num_classes):
        kind = VideoFolder
    options |= {"dataset": dataset, "multi_label": multi_label or kind.MULTI_LABEL}
    # Frames come first: if there are videos, everything is there.
    parts = {part: kind(data_dir=to, config=part, **options) for part in ("frames", "videos")}
    contents = parts["videos"].find_contents(data_dir)
    for builder in parts.values():
        _build_part(builder, contents, data_dir)
    root = os.path.dirname(os.path.dirname(parts["videos"].data_dir))
    if left_out is not None:
        left_out += contents.unreadable
    if training:
        command = training.command(root)
    else:
        command = _command(root, contents, dataset, options["multi_label"])
    lines = [*_counts(parts, contents), *_problems(root, contents)]
    return "\n".join([*lines, "next:", f"  {shlex.join(command)}"])


def _problems(root, contents):
    """Lines on unreadable and unusual videos; writes or removes the list of the unreadable ones."""
    path = os.path.join(root, UNREADABLE)
    lines = []
    if contents.unreadable:
        text = reason_lines(contents.unreadable)
        write_text(path, text)
        lines.append(
            f"left out: {len(contents.unreadable):,} videos that cannot be read (all in {path}):"
            + listed(text.replace("\t", ": ").splitlines())
        )
    elif os.path.exists(path):
        os.remove(path)
    if contents.notes:
        notes = listed(list(map(printable, contents.notes)))
        lines.append(f"{len(contents.notes):,} notes on videos that are kept:{notes}")
    return lines


def _build_part(builder, contents, data_dir):
    folder = os.fspath(builder.data_path)
    if os.path.exists(os.path.join(folder, INFO_FILE)):
        if builder.info.metadata.get("contents") != builder.digest(contents):
            raise UserError(
                f"{folder} has records of other videos, or of other lists, or of videos that have "
                "frames now; remove that folder and run the same command again, or build records "
                "elsewhere with `trn-jax records` and its --to"
            )
        return
    for left_behind in builder.data_path.parent.glob(f"{INCOMPLETE_PREFIX}*"):
        shutil.rmtree(left_behind)
    part = builder.builder_config.name
    builder.use(contents)
    with (
        Progress(f"Writing {part}", builder.num_records, part) as progress,
        tempfile.TemporaryDirectory() as downloads,  # TFDS always makes one
        contextlib.redirect_stdout(io.StringIO()),  # messages on downloads of unknown size
    ):
        builder.progress = progress.add
        try:
            builder.download_and_prepare(
                file_format="array_record",
                download_dir=downloads,
                download_config=tfds.download.DownloadConfig(manual_dir=data_dir),
            )
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error}; make room or check --to") from None


def _counts(parts, contents):
    lines = [
        f"{split}: {len(videos):,} videos, {sum(video.num_frames for video in videos):,} frames"
        for split, videos in contents.videos.items()
    ]
    for part, builder in parts.items():
        paths = glob.glob(os.path.join(glob.escape(builder.data_dir), "*.array_record-*"))
        size = sum(map(os.path.getsize, paths))
        lines.append(f"{builder.data_dir}: {len(paths)} files with {size / 1e6:,.1f} MB of {part}")
    return lines


def _command(root, contents, dataset, multi_label):
    recipe, flags = _RECIPES.get(dataset), []
    if recipe is None:
        recipe, flags = own_recipe(len(contents.videos["train"]), multi_label=multi_label)
    command = ["trn-jax", "train", recipe, f"--config.data_dir={root}"]
    if multi_label:
        command.append("--config.data.multi_label=True")
    return [*command, f"--workdir=runs/{recipe}", *flags]
