"""Prediction: timelines of long videos, folders of short ones, and the age of live answers."""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.turns import Side
from trn_jax import create_model
from trn_jax.data.videos import VideoFile
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.evaluation.scoring import ClipScorer
from trn_jax.loading import Info
from trn_jax.prediction import live
from trn_jax.prediction.api import Predictor
from trn_jax.prediction.timeline import TimelineScorer, plan_windows
from trn_jax.recipe_data import Data
from trn_jax.settings import resolved_views

_RATE = 25  # frames per second of the film
_SIZE = 340, 256
_SECONDS_LIVE = 20.0


def predictor(config: ConfigDict, sampling: dict, **options: Any) -> Predictor:
    """Predicts with random weights."""
    num_classes = config.model.num_classes or 400
    config.model.num_classes = num_classes
    model = create_model(**config.model, rngs=nnx.Rngs(config.seed))
    names = tuple(f"class {number}" for number in range(num_classes))
    model.info = Info("", 0, names, {}, sampling, config.to_dict(), {}, {})
    return Predictor(model, **options)


def write_film(path: str, seconds: int) -> str:
    """Write a film of moving waves, with a key frame every ten seconds, as cameras write them."""
    width, height = _SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    with av.open(path, "w") as container:
        stream: Any = container.add_stream("libx264", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(10 * _RATE), "preset": "veryfast"}
        for number in range(seconds * _RATE):
            waves = [
                np.sin(x / 20 + number / 9),
                np.sin(y / 15 - number / 13),
                np.sin((x + y) / 27),
            ]
            pixels = (127 + 90 * np.stack(waves, -1)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def timeline_sides(config: ConfigDict, folder: str, seconds: int) -> list[Side]:
    """A timeline, and what it can't do without: decoding once, and a backbone per sampled frame."""
    film = write_film(os.path.join(folder, "film.mp4"), seconds)
    sampling = {"num_frames": 2.0 * _RATE, "seconds": 2.0, "frame_rate": float(_RATE)}
    found = predictor(config, sampling, timeline=True)
    inputs = found.find(film)
    view = found.contract.view
    with VideoFile(film) as video:
        plan = plan_windows(found.contract, every=None, frame_rate=_RATE, seed=0)
        windows = list(plan.windows(video.times, video.seconds))
    num_frames = len({key for window in windows for key in window.keys.flat})
    per_frame = found.model.scores_frames
    graph, state = nnx.split(found.model)
    scorer = ClipScorer(graph, max_views=config.eval.max_views_per_step)
    states = scorer.on_these_devices((nnx.as_pure(state),))
    size, shape = scorer.num_clips, (view.crop_size, view.crop_size, 3)
    segments = 1 if per_frame else view.num_segments
    step = scorer.feature_step() if per_frame else scorer.score_step((("model", 0),), states)
    clips = np.zeros((size, segments, *shape), np.uint8)
    numbers = np.zeros(size, np.int32)
    num_steps = -(-(num_frames if per_frame else len(windows)) * view.num_views // size)

    def timeline(passes: int) -> None:
        for _ in range(passes):
            for _ in found(inputs):
                pass

    def floor(passes: int) -> None:
        for _ in range(passes):
            with av.open(film) as container:
                container.streams.video[0].thread_type = "NONE"
                for _ in container.decode(video=0):
                    pass
            for _ in range(num_steps):
                np.asarray(step(states, clips, numbers, np.bool_(False)))

    return [
        Side(f"timeline of {seconds} s", len(windows), timeline),
        Side("decoding once, backbone", len(windows), floor),
    ]


def folder_sides(config: ConfigDict, workdir: str) -> list[Side]:
    """Prediction of the validation videos, and their evaluation by the same protocol."""
    data = Data(config, workdir)
    config.model.num_classes = len(data.class_names)
    found = predictor(config, data.sampling(), timeline=False)
    name = found.contract.protocol
    root = data.files.of_split("val")[1]
    inputs = found.find([os.path.join(root, video) for video in data.val_names])
    graph, state = nnx.split(found.model)
    states = (nnx.as_pure(state),)
    max_views = config.eval.max_views_per_step
    evaluator = Evaluator(graph, multi_label=data.multi_label, max_views=max_views)
    views = {name: resolved_views(config)[f"protocols.{name}"]}

    def predict(passes: int) -> None:
        for _ in range(passes):
            for _ in found(inputs):
                pass

    def evaluate(passes: int) -> None:
        for _ in range(passes):
            evaluator.run(data, views, states)

    count = len(inputs)
    return [Side("prediction", count, predict), Side("evaluation", count, evaluate)]


class _Camera:
    """A camera of 30 frames per second."""

    path = "camera"

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._frames = rng.integers(0, 256, (8, *_SIZE[::-1], 3), np.uint8)

    def __enter__(self) -> "_Camera":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def arriving(self) -> Iterator[int]:
        """Numbers of frames, each when it is taken."""
        begin = time.monotonic()
        for number in range(1 << 30):
            time.sleep(max(begin + number / 30 - time.monotonic(), 0))
            yield number

    def upright(self, number: int) -> np.ndarray:
        """A frame."""
        return self._frames[number % len(self._frames)]


def live_ages(config: ConfigDict) -> str:
    """The age of answers to a camera, in strides, as a line of text."""
    sampling = {"num_frames": 60.0, "seconds": 2.0, "frame_rate": 30.0}
    found = predictor(config, sampling)
    plan = plan_windows(found.contract, every=None, frame_rate=30.0, seed=0)
    view = found.contract.view
    options = dict(class_names=found.class_names, multi_label=False, seed=0)
    scorer = TimelineScorer(found.model, found.contract, max_views=view.num_segments, **options)
    answers = live.live_windows(scorer, plan, view, _Camera, "camera", duration=_SECONDS_LIVE)
    with contextlib.closing(answers):
        kept = [answer for answer in answers if not isinstance(answer, live.Gap)]
    ends = [answer.end for answer in kept]
    strides = [b - a for a, b in itertools.pairwise(ends)] or [plan.stride]
    ages = [answer.age for answer in kept]
    return (
        f"camera, 30 frames/s for {_SECONDS_LIVE:g} s, a stride of {plan.stride:g} s: "
        f"{len(kept)} answers, every {statistics.median(strides):.2f} s; age "
        f"{statistics.median(ages):.2f} s, at most {max(ages):.2f} s or "
        f"{max(ages) / max(*strides, plan.stride):.2f} strides; "
        f"{kept[-1].dropped} frames dropped"
    )
