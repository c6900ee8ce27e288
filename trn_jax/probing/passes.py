"""Computes the features that a probe needs: passes over the training videos, and validation."""

import contextlib
import dataclasses
import hashlib
import os

import jax
import numpy as np
from flax import nnx

from trn_jax.data import pipeline
from trn_jax.data.reader import VideoClips
from trn_jax.data.views import View
from trn_jax.evaluation.merging import ViewRows
from trn_jax.evaluation.scoring import ClipScorer, feature_shape
from trn_jax.models.folding import fold_batch_norm
from trn_jax.probing.cache import FeatureCache
from trn_jax.progress import Progress
from trn_jax.settings import resolved_views

_FRAMES_ON_CPU = 32  # of a step: more take memory, and no less time


class Backbone:
    """Computes features of clips with a frozen model, as in evaluation.

    Args:
        model: a `Recognizer`; its head is not used.
        max_views: clips per step.
        num_segments: frames of a clip.
        checksum: of the checkpoint.
        size: height and width of the frames, in pixels.
    """

    def __init__(self, model, *, max_views, num_segments, checksum, size):
        model.head = None
        self.checksum = checksum
        self._graph, state = nnx.split(fold_batch_norm(model, size=size))
        if jax.default_backend() == "cpu":
            max_views = min(max_views, max(_FRAMES_ON_CPU // num_segments, 1))
        self._scorer = ClipScorer(self._graph, max_views=max_views)
        self._states = self._scorer.on_these_devices((nnx.as_pure(state),))

    def shape(self, view):
        """Shape of the features of a clip of a `View`, `[segments, channels]`.

        Raises:
            UserError: the backbone doesn't take the clips.
        """
        return feature_shape(self._graph, self._states, view)

    def features(self, videos):
        """Compute features of an iterator of `VideoClips`; see `ClipScorer.scored`."""
        return self._scorer.scored(videos, self._scorer.feature_step(), self._states)


def training_features(backbone, config, data, folder, passes):
    """The features of some passes over the training videos.

    Pass p has the clips that a training of the configuration takes in epoch p: the same frames,
    crops, colours and flips (with their labels), drawn from (seed, p, example).

    Args:
        backbone: a `Backbone`.
        config: the configuration.
        data: its `Data`.
        folder: of the cache; what is in it is not computed again.
        passes: number of passes.

    Returns:
        A list of `FeatureCache`, one per pass, with a row per video.
    """
    section = resolved_views(config)["data.train"]
    view, records = View(**section), data.train_records
    about = _about(backbone, config, section, records, data.train_names(range(len(records))))
    about["labels"] = {str(a): b for a, b in data.mirrored(view).items()}
    about["fast_decode"] = config.data.fast_decode
    about["exact_resize"] = config.data.exact_resize
    shape = backbone.shape(view)
    caches = [
        FeatureCache(
            os.path.join(folder, f"train-{number}"),
            about | {"pass": number},
            shape=shape,
            num_rows=len(records),
            label_shape=_label_shape(data),
        )
        for number in range(passes)
    ]
    missing = [(p, int(n)) for p, cache in enumerate(caches) for n in cache.missing]
    if missing:
        _fill_training(caches, missing, backbone, config, data)
    return caches


def _fill_training(caches, missing, backbone, config, data):
    """Compute the rows of passes that are missing, pairs of a pass and an example."""
    writers, labels = [cache.writer() for cache in caches], {}
    batches = pipeline.single_rows(
        data.train_reader(),
        [(number, data.train_records[example]) for number, example in missing],
        num_threads=data.num_threads,
        num_workers=config.data.num_workers,
    )

    def clips():
        try:
            for row, batch in enumerate(batches):
                number, example = missing[row]
                for message in (*batch["problems"], *batch["losses"]):
                    writers[number].note(example, message)
                labels[row] = batch["label"][0]
                clip = dataclasses.replace(batch["clips"][0], example=row)
                yield VideoClips(row, [clip], [batch["clip"]])
        finally:
            batches.close()

    with (
        Progress("Features for training", len(missing), "clips") as progress,
        contextlib.closing(backbone.features(clips())) as found,
    ):
        for rows, shown, _ in found:
            for row, clip in zip(np.asarray(rows), shown, strict=False):
                number, example = missing[clip.example]
                writers[number].add(example, row, labels.pop(clip.example))
                progress.add()


def validation_features(backbone, config, data, folder):
    """The features of all views of the validation videos.

    Args:
        backbone: a `Backbone`.
        config: the configuration.
        data: its `Data`.
        folder: of the cache; what is in it is not computed again.

    Returns:
        A `FeatureCache` with a row per video, of features `[views, segments, channels]`.
    """
    section = resolved_views(config)["data.val"]
    view, records = View(**section), data.val_records
    cache = FeatureCache(
        os.path.join(folder, "val"),
        _about(backbone, config, section, records, data.val_names),
        shape=(view.num_views, *backbone.shape(view)),
        num_rows=len(records),
        label_shape=_label_shape(data),
    )
    missing = cache.missing
    if len(missing):
        _fill_validation(cache, missing, backbone, config, data, view)
    return cache


def _fill_validation(cache, missing, backbone, config, data, view):
    """Compute the rows of validation that are missing; those of unreadable videos are 0."""
    labels, unreadable = data.val_labels, []
    videos = pipeline.EvalVideos(
        [data.val_records[number] for number in missing],
        {"val": view},
        data.source,
        seed=config.seed,
        on_error=config.data.on_error,
        num_threads=data.num_threads,
        num_workers=config.data.num_workers,
    )
    writer = cache.writer()
    progress = Progress("Features for validation", len(missing), "videos")

    def readable(videos):
        try:
            for video in videos:
                writer.note(video.example, video.problem or video.loss)
                if video.problem:
                    unreadable.append(video.example)
                    continue
                yield video
        finally:
            videos.close()

    def complete(example, rows):
        writer.add(example, rows["val"], labels[example])
        progress.add()

    rows = ViewRows({"val": view.num_views}, complete)
    with (
        contextlib.closing(videos),
        progress,
        contextlib.closing(backbone.features(readable(iter(videos)))) as found,
    ):
        for each in found:
            rows.add(*each)
    for example in unreadable:
        writer.add(example, 0.0, labels[example], readable=False)


def _about(backbone, config, section, records, names):
    """What features depend on."""
    lines = "".join(
        f"{name}\t{record.num_frames}\t{record.label}\n"
        for name, record in zip(names, records, strict=True)
    )
    return {
        "checkpoint": backbone.checksum,
        "dtype": config.model.dtype,
        "list": hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
        "seed": config.seed,
        "view": section.to_dict(),
    }


def _label_shape(data):
    return (len(data.class_names),) if data.multi_label else ()
