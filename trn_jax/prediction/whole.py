"""One answer per video: the clips and the scores of an evaluation, without labels."""

import contextlib
import dataclasses

import numpy as np
from flax import nnx

from trn_jax.data.pipeline import EvalVideos
from trn_jax.evaluation.merging import ScoreMerger
from trn_jax.evaluation.scoring import ClipScorer, relation_draws
from trn_jax.prediction.answers import Answer


def whole_videos(model, contract, inputs, *, class_names, multi_label, max_views, seed, workers):
    """Score videos by a protocol: every clip and every score as in an evaluation of their list.

    Args:
        model: a `Recognizer`.
        contract: its `Contract`.
        inputs: the `Inputs`.
        class_names: in the order of the scores.
        multi_label: scores are sigmoids.
        max_views: most clips per step; fewer videos take fewer.
        seed: of what is drawn.
        workers: of the loader, `num_threads` and `num_workers`, see `EvalVideos`.

    Yields:
        An `Answer` per video, in order.
    """
    graph, state = nnx.split(model)
    views = {contract.protocol: contract.view}
    num_clips = contract.view.num_views * len(inputs.records)
    # Powers of two, so that few programs are compiled, whatever the number of videos.
    scorer = ClipScorer(graph, max_views=min(max_views, 1 << (num_clips - 1).bit_length()))
    states = scorer.on_these_devices((nnx.as_pure(state),))
    scorer.check({f"protocols.{contract.protocol}": contract.section}, states)
    kinds, draws = relation_draws(views)
    read: dict[int, Answer] = {}  # without scores
    scores: dict[int, np.ndarray] = {}

    def keep(example, merged):
        # The mean over drawn relations; there is usually one draw.
        scores[example] = merged[contract.protocol].astype(np.float32).mean(axis=0)

    def readable(videos):
        try:
            for video in videos:
                start = inputs.records[video.example].start or 0.0
                read[video.example] = Answer(
                    video=inputs.name(video.example),
                    start=start,
                    end=start + video.seconds if video.seconds else None,
                    class_names=class_names,
                    problem=video.problem,
                    notes=(video.loss,) if video.loss else (),
                )
                if not video.problem:
                    yield video
        finally:
            videos.close()

    merger = ScoreMerger(
        views,
        draws=draws,
        model_merge=model.merge_views,
        multi_label=multi_label,
        merged=keep,
    )
    videos = EvalVideos(inputs.records, views, inputs, seed=seed, on_error="skip", **workers)
    step = scorer.score_step(kinds, states)
    first = 0  # that has not been yielded
    with (
        contextlib.closing(videos),
        contextlib.closing(scorer.scored(readable(iter(videos)), step, states)) as scored,
    ):
        for found in scored:
            merger.add(*found)
            while first in read and (read[first].problem or first in scores):
                yield dataclasses.replace(read.pop(first), scores=scores.pop(first, None))
                first += 1
    for index in range(first, len(inputs.records)):
        yield dataclasses.replace(read.pop(index), scores=scores.pop(index, None))
