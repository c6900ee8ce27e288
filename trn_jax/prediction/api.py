"""`trn_jax.predict`: from any video to scores, with times."""

import contextlib
import dataclasses
import itertools

import numpy as np

from trn_jax.checkpoints.checkpoint import class_numbers
from trn_jax.data.decode import FrameError
from trn_jax.data.streams import StreamVideo, is_stream, masked
from trn_jax.data.workers import num_cpus
from trn_jax.errors import UserError
from trn_jax.prediction import sources
from trn_jax.prediction.answers import Answer
from trn_jax.prediction.contract import check_every, contract_of, open_model, origin
from trn_jax.prediction.frame_by_frame import FrameScorer
from trn_jax.prediction.inputs import Inputs
from trn_jax.prediction.live import grid, live_windows
from trn_jax.prediction.timeline import TimelineScorer, plan_windows
from trn_jax.prediction.whole import WholeScorer


class Predictor:
    """Predicts videos with one model.

    Args:
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        timeline: `True` scores windows of every video, `False` every video as a whole, and `None`
            windows of those that last more than three times as long as training examples.
        every: seconds from one window to the next; by default as `timeline.plan_windows` has it.
        stream: score every video frame by frame, see `frame_by_frame.FrameScorer`, with one pass of
            the backbone per frame.
        pooling: of a stream, see `models.streaming.Stream`.
        protocol: of the recipe, whose view is used; by default the one with the fewest views.
        seconds: length of a window; by default that of training examples.
        frame_rate: of frames in folders and records, per second; by default that of training
            examples.
        num_threads: threads that decode; 0: one per processor.
        calibrate: give answers the calibration of the checkpoint, if it has one.
        dtype: of the computation, of a checkpoint given by its path: "float32", "bfloat16" or
            "auto"; by default that of its configuration.
        **view: other keys of the view, such as `num_segments` or `crop`.

    Attributes:
        model: the model.
        contract: its `Contract`, how it samples videos.
        class_names: in the order of the scores.
        multi_label: scores are sigmoids, one decision per class.
        calibration: the `Calibration` of the answers; `None` if they have none.
        frame_scorer: the `FrameScorer` of a stream; `None` without `stream`.
        about: what makes the scores and their calibration, a dict that JSON can hold.

    Raises:
        UserError: the model was not loaded from a checkpoint, or values are invalid.
    """

    def __init__(
        self,
        model,
        *,
        timeline=None,
        every=None,
        stream=False,
        pooling="window",
        protocol=None,
        seconds=None,
        frame_rate=None,
        num_threads=0,
        calibrate=True,
        dtype=None,
        **view,
    ):
        check_every(every)
        self.model, config = open_model(model, dtype=dtype)
        info = self.model.info
        self.contract = contract_of(
            info, protocol=protocol, seconds=seconds, frame_rate=frame_rate, **view
        )
        self.multi_label = config.data.multi_label
        num_classes = config.model.num_classes
        self.class_names = info.class_names or tuple(class_numbers(num_classes))
        self.calibration = info.calibration if calibrate else None
        self._timeline = timeline
        self._every = every
        if stream and (timeline is not None or every is not None):
            raise UserError(
                "a stream has an answer after every frame: it takes neither timeline nor every "
                "(--timeline, --whole, --every)"
            )
        self._frame_rate = frame_rate or self.contract.frame_rate
        self._max_pixels = config.data.max_pixels
        self._options = dict(
            class_names=self.class_names,
            multi_label=self.multi_label,
            max_views=config.eval.max_views_per_step,
            seed=config.seed,
        )
        self._num_threads = num_threads or num_cpus()
        self.about = origin(self.model, self.contract) | {
            "timeline": timeline,
            "every": every,
            "stream": pooling if stream else None,
            "multi_label": self.multi_label,
            "calibration": info.calibration and info.calibration.to_dict(),
        }
        self._whole = self._scorer = self.frame_scorer = None
        if stream:
            options = dict(class_names=self.class_names, multi_label=self.multi_label)
            self.frame_scorer = FrameScorer(self.model, self.contract, pooling=pooling, **options)

    def find(self, source):
        """The videos of a source or of several, see `sources.find`."""
        return sources.find(
            sources.several(source),
            frame_rate=self._frame_rate,
            max_pixels=self._max_pixels,
            multi_label=self.multi_label,
        )

    def __call__(self, inputs):
        """Predict videos, in order.

        Args:
            inputs: a list of `Input`, from `find`.

        Yields:
            An `Answer` per video, or per window of it; a video that can't be read gives one with a
            `problem`.
        """
        with contextlib.closing(self.by_video(inputs)) as found:
            for _, answers in found:
                yield from answers

    def by_video(self, inputs):
        """Predict videos, in order, so that the end of each is known at once.

        Args:
            inputs: a list of `Input`, from `find`.

        Yields:
            Pairs of an `Input` and an iterator of its `Answer`s, which ends before the next pair.
        """
        in_order = self._timeline or self.frame_scorer
        is_long = None if in_order or self._timeline is False else self.contract.is_long
        opened = Inputs(inputs, is_long)
        if in_order:
            for index, each in enumerate(inputs):
                yield each, self._all_checked(self._windows(opened, index))
            return
        workers = dict(num_threads=self._num_threads)
        if self._whole is None:
            self._whole = WholeScorer(self.model, self.contract, **self._options)
        with contextlib.closing(self._whole.answers(opened, workers)) as answers:
            for index, answer in enumerate(answers):
                one = (each for each in (answer,))
                windows = self._windows(opened, index) if index in opened.long else one
                yield inputs[index], self._all_checked(windows)

    def _all_checked(self, answers):
        with contextlib.closing(answers):
            yield from map(self._checked, answers)

    def _checked(self, answer):
        """An answer with the calibration, or a problem, if its scores are no numbers."""
        if answer.scores is None or np.isfinite(answer.scores).all():
            return dataclasses.replace(answer, calibration=self.calibration)
        problem = (
            f"the scores of {answer.video} are no numbers (NaN or infinite); its checkpoint "
            f"{self.model.info.path} has such weights, or they overflow in its dtype"
        )
        return dataclasses.replace(answer, scores=None, problem=problem)

    def stream(self, text, *, duration=None, name=None):
        """Predict a stream.

        One that ends by itself (standard input, a file on the web) is scored like a long video; of
        a live one (a camera, RTSP) always the newest window, see `live_windows`.

        Args:
            text: the number of a camera, a URL, or `-` for standard input.
            duration: seconds of the stream after which to stop; `None`: never.
            name: in the answers; by default the text, `streams.masked`.

        Yields:
            An `Answer` per window, and a `Gap` where a live stream broke; at last an `Answer` with
            a `problem`, if it can't be opened or ends early.
        """
        name = name or masked(text)
        with contextlib.closing(self._streamed(text, duration, name)) as found:
            for each in found:
                yield self._checked(each) if isinstance(each, Answer) else each

    def _streamed(self, text, duration, name):
        try:
            video = StreamVideo(text, max_pixels=self._max_pixels)
            if not video.is_live:
                with video:
                    for window in self._windows_of(name, video):
                        yield window
                        if duration is not None and window.end >= duration:
                            return
                    video.check_whole()
                return
            waiting = [video]

            def opened():
                return waiting.pop() if waiting else StreamVideo(text, max_pixels=self._max_pixels)

            if self.frame_scorer:
                options = dict(frame_rate=video.rate, duration=duration)
                yield from self.frame_scorer.live(opened, name, **options)
                return
            options = dict(frame_rate=video.rate, seed=self._options["seed"])
            plan = plan_windows(
                self.contract,
                every=self._every,
                by_frame=self.model.scores_frames,
                **options,
            )
            view = self.contract.view
            numbers, step = grid(plan)
            # As many clips per step as come from one window to the next.
            new = min(max(round(plan.stride / step), 1), numbers.size)
            new = new if self.model.scores_frames else view.num_views
            options = self._options | dict(max_views=new)
            scorer = TimelineScorer(self.model, self.contract, **options)
            yield from live_windows(scorer, plan, view, opened, name, duration=duration)
        except FrameError as error:
            yield Answer(name, 0.0, None, problem=str(error))

    def timeline_scorer(self):
        """The `TimelineScorer` of all videos."""
        if self._scorer is None:
            self._scorer = TimelineScorer(self.model, self.contract, **self._options)
        return self._scorer

    def _windows_of(self, name, video, offset=0.0):
        """The windows of an open video."""
        if self.frame_scorer:
            windows = self.frame_scorer.windows(name, video, offset=offset)
        else:
            options = dict(every=self._every, offset=offset)
            windows = self.timeline_scorer().windows(name, video, **options)
        yield from _any(windows, name)

    def _windows(self, opened, index):
        """The windows of one video."""
        name = opened.name(index)
        try:
            with opened.open_in_order(index) as video:
                yield from self._windows_of(name, video, opened.start(index))
        except FrameError as error:
            yield Answer(name, 0.0, None, problem=str(error))


def _any(windows, name):
    """The windows of a video.

    Raises:
        FrameError: there are none.
    """
    window = None
    for window in windows:
        yield window
    if window is None:
        raise FrameError(f"{name} has no frames that can be decoded")


def predict(source, model, **options):
    """Predict videos.

    Args:
        source: a video file, a folder (of videos, of frames or of records), a list of videos
            (`.txt`, `.csv`, `.tsv`, `.json`), a pattern such as `clips/*.mp4`, the number of a
            camera, a URL, `-` for standard input; or several of these.
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        **options: see `Predictor`.

    Yields:
        An `Answer` per video, or per window of long ones: `video`, `start` and `end` in seconds,
        `scores` `[classes]`, `label` and `top(k)`; `calibrated` and `is_none`, if the checkpoint is
        calibrated; `problem`, if it can't be read.

    Raises:
        UserError: a source doesn't exist, or options don't fit the model.
    """
    predictor = Predictor(model, **options)
    for streams, each in itertools.groupby(sources.several(source), is_stream):
        if streams:
            for stream in each:
                yield from predictor.stream(stream)
        else:
            yield from predictor(predictor.find(list(each)))
