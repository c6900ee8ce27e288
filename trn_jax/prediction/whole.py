"""One answer per video: the clips and the scores of an evaluation, without labels."""

import contextlib
import dataclasses

import numpy as np
from flax import nnx

from trn_jax.data.pipeline import EvalVideos
from trn_jax.evaluation.merging import ScoreMerger
from trn_jax.evaluation.scoring import ClipScorers, relation_draws
from trn_jax.models.folding import fold_batch_norm
from trn_jax.prediction.answers import Answer


class WholeScorer:
    """Scores whole videos by a protocol, as an evaluation of their list does.

    Args:
        model: a `Recognizer`.
        contract: its `Contract`.
        class_names: in the order of the scores.
        multi_label: scores are sigmoids.
        max_views: most clips per step; fewer videos take fewer.
        seed: of what is drawn.

    Raises:
        UserError: the model doesn't take the clips of the protocol.
    """

    def __init__(self, model, contract, *, class_names, multi_label, max_views, seed):
        self._class_names = class_names
        self._seed = seed
        graph, state = nnx.split(fold_batch_norm(model, size=contract.view.crop_size))
        self._view = contract.protocol, contract.view
        self._merging = dict(model_merge=model.merge_views, multi_label=multi_label)
        self._scorers = ClipScorers(graph, max_views=max_views)
        scorer = self._scorers.of()
        self._states = scorer.on_these_devices((nnx.as_pure(state),))
        scorer.check({f"protocols.{contract.protocol}": contract.section}, self._states)

    def answers(self, inputs, workers):
        """Score videos.

        Args:
            inputs: the `Inputs`.
            workers: of the loader, `num_threads` and `num_workers`, see `EvalVideos`.

        Yields:
            An `Answer` per video, in order.
        """
        name, view = self._view
        kinds, draws = relation_draws({name: view})
        scores: dict[int, np.ndarray] = {}

        def keep(example, merged):
            # The mean over drawn relations; there is usually one draw.
            scores[example] = merged[name].astype(np.float32).mean(axis=0)

        merger = ScoreMerger({name: view}, draws=draws, merged=keep, **self._merging)
        options = dict(seed=self._seed, on_error="skip", timed=True, **workers)
        videos = EvalVideos(inputs.records, {name: view}, inputs, **options)
        scorer = self._scorers.of(view.num_views * len(inputs.records))
        step = scorer.score_step(kinds, self._states)
        read: dict[int, Answer] = {}  # without scores
        readable = self._readable(iter(videos), inputs, read)
        first = 0  # that has not been yielded
        with (
            contextlib.closing(videos),
            contextlib.closing(scorer.scored(readable, step, self._states)) as scored,
        ):
            for found in scored:
                merger.add(*found)
                while first in read and (read[first].problem or first in scores):
                    yield dataclasses.replace(read.pop(first), scores=scores.pop(first, None))
                    first += 1
        for index in range(first, len(inputs.records)):
            yield dataclasses.replace(read.pop(index), scores=scores.pop(index, None))

    def _readable(self, videos, inputs, read):
        """Pass on the `VideoClips` of readable videos; `read` receives all without scores."""
        try:
            for video in videos:
                start = inputs.start(video.example)
                read[video.example] = Answer(
                    video=inputs.name(video.example),
                    start=start,
                    end=start + video.seconds if video.seconds else None,
                    class_names=self._class_names,
                    problem=video.problem,
                    notes=video.notes,
                )
                if not video.problem:
                    yield video
        finally:
            videos.close()
