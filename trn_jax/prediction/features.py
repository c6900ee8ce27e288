"""Features of videos: a vector per frame or per clip, with times."""

import contextlib
import itertools
from collections.abc import Iterator

import numpy as np
from flax import nnx

from trn_jax.data.decode import FrameError
from trn_jax.data.pipeline import EvalVideos
from trn_jax.data.workers import num_cpus
from trn_jax.errors import UserError
from trn_jax.evaluation.merging import ViewRows
from trn_jax.evaluation.scoring import ClipScorers, feature_shape
from trn_jax.models.folding import fold_batch_norm
from trn_jax.prediction import sources
from trn_jax.prediction.contract import check_every, contract_of, open_model, origin
from trn_jax.prediction.feature_rows import InOrder
from trn_jax.prediction.inputs import Inputs
from trn_jax.prediction.timeline import WindowFrames, plan_windows
from trn_jax.prediction.windows import VIEW, Crops, frame_clips, window_clips

KINDS = ("frame", "clip")


class FeatureExtractor:
    """Computes features of videos with one model.

    The vector of a frame is the output of the backbone, averaged over height and width, and over
    the crops of the view. That of a clip is the mean over its frames.

    Args:
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        per: "frame" or "clip"; by default "frame" for a model whose frames meet only in the head
            (`Recognizer.sees_frames`), else "clip".
        every: seconds from one frame, or one window of the length of training examples, to the
            next; by default the frames, or the clips, of the view.
        protocol: of the recipe, whose view is used; by default the one with the fewest views.
        seconds: length of a window; by default that of training examples.
        frame_rate: of frames in folders and records, per second; by default that of training
            examples.
        num_threads: threads that decode; 0: one per processor.
        **view: other keys of the view, such as `num_segments` or `crop`.

    Attributes:
        contract: its `Contract`, how it samples videos.
        per: "frame" or "clip".
        about: what makes the features, a dict that JSON can hold.

    Raises:
        UserError: the model was not loaded from a checkpoint, or values are invalid.
    """

    def __init__(
        self,
        model,
        *,
        per=None,
        every=None,
        protocol=None,
        seconds=None,
        frame_rate=None,
        num_threads=0,
        **view,
    ):
        model, config = open_model(model)
        info = model.info
        self.contract = contract_of(
            info, protocol=protocol, seconds=seconds, frame_rate=frame_rate, **view
        )
        self.per = per or ("frame" if model.sees_frames else "clip")
        self._every = every
        _check(self.per, every, model)
        self._frame_rate = frame_rate or self.contract.frame_rate
        self._found = dict(max_pixels=config.data.max_pixels, multi_label=config.data.multi_label)
        self._seed = config.seed
        self._num_threads = num_threads or num_cpus()
        folded = fold_batch_norm(model, size=self.contract.view.crop_size)
        self._graph, state = nnx.split(folded)
        self._scorers = ClipScorers(self._graph, max_views=config.eval.max_views_per_step)
        self._states = self._scorers.of().on_these_devices((nnx.as_pure(state),))
        self._check_view()
        self.about = origin(model, self.contract) | {
            "per": self.per,
            "every": every,
        }

    def _check_view(self):
        """Check that the backbone takes the clips of the view."""
        try:
            feature_shape(self._graph, self._states, self.contract.view)
        except UserError as error:
            raise UserError(f"protocols.{self.contract.protocol}: {error}") from None

    def find(self, source):
        """The videos of a source or of several, see `sources.find`.

        Raises:
            UserError: one is a stream, doesn't exist, or has no videos.
        """
        recorded = sources.without_streams(source, "have features")
        return sources.find(recorded, frame_rate=self._frame_rate, **self._found)

    def __call__(self, inputs):
        """Compute the features of videos, in order.

        Args:
            inputs: a list of `Input`, from `find`.

        Yields:
            The `VideoFeatures` of each.
        """
        opened = Inputs(inputs)
        found = self._of_views(opened) if self._every is None else self._regular(opened)
        with contextlib.closing(found):
            yield from found

    def _of_views(self, opened):
        """The features of the view's frames or clips, read as an evaluation does."""
        views = {self.contract.protocol: self.contract.view}
        waiting = InOrder(opened)

        def readable(videos):
            try:
                for video in videos:
                    if video.problem:
                        waiting.end(video.example, problem=video.problem)
                        continue
                    waiting.videos[video.example] = video._replace(pixels=())
                    waiting.end(video.example, count=1, notes=video.notes)
                    yield video
            finally:
                videos.close()

        def complete(example, rows):
            (found,) = rows.values()
            video = waiting.videos.pop(example)
            times, vectors = self._rows(video, found)
            waiting.add(example, opened.start(example) + times, vectors)

        rows = ViewRows({name: view.num_views for name, view in views.items()}, complete)
        options = dict(seed=self._seed, on_error="skip", num_threads=self._num_threads)
        videos = EvalVideos(opened.records, views, opened, timed=True, **options)
        scorer = self._scorers.of(self.contract.view.num_views * len(opened.records))
        with contextlib.closing(videos):
            yield from _run(scorer, self._states, readable(iter(videos)), rows, waiting)

    def _rows(self, video, rows):
        """Times and vectors of a video from the rows `[views, segments, channels]` of its views."""
        view = self.contract.view
        num_clips = view.sampler().clips_per_video
        vectors = rows.reshape(-1, num_clips, *rows.shape[1:]).mean(axis=0)  # over the crops
        frames = np.empty((num_clips, view.num_segments), np.int64)
        for clip in video.clips:
            for _, position, _ in clip.places:
                frames[position % num_clips] = clip.frames
        if self.per == "clip":
            ends = video.times_of(frames[:, [0, -1]])
            return ends.mean(axis=1), vectors.mean(axis=1)
        # The frames of clips may overlap, and short videos repeat theirs.
        numbers, places = np.unique(frames, return_index=True)
        return video.times_of(numbers), vectors.reshape(-1, vectors.shape[-1])[places]

    def _regular(self, opened):
        """The features of a frame, or of a window, every few seconds."""
        view = self.contract.view
        waiting, pieces = InOrder(opened), _frames if self.per == "frame" else self._windows
        places: dict[int, tuple[int, float]] = {}  # of a piece: its video and its time

        def videos():
            numbers = itertools.count()
            for example in range(len(opened.records)):
                count, problem = 0, ""
                notes: tuple[str, ...] = ()
                try:
                    with opened.open_in_order(example) as video:
                        for time, clips in pieces(video, self._every, view):
                            number = next(numbers)
                            places[number] = example, opened.start(example) + time
                            count += 1
                            yield clips(number)
                        notes = video.notes
                except FrameError as error:
                    problem = str(error)
                waiting.end(example, count=count, problem=problem, notes=notes)

        def complete(number, rows):
            example, time = places.pop(number)
            vector = rows[VIEW].mean(axis=(0, 1))  # over views and frames
            waiting.add(example, np.array([time]), vector[None])

        of_frame = Crops(view).num_crops
        rows = ViewRows({VIEW: of_frame if self.per == "frame" else view.num_views}, complete)
        scorer = self._scorers.of()
        yield from _run(scorer, self._states, videos(), rows, waiting)

    def _windows(self, video, every, view):
        """Windows of a video: pairs of the time of the middle and a function of a number."""
        options = dict(frame_rate=video.mean_rate, seed=self._seed)
        plan = plan_windows(self.contract, every=every, **options)
        frames = WindowFrames(video, plan, view)
        found = (frames.assembler.add(key, pixels) for key, pixels in frames.frames())
        last = (frames.finish() for _ in range(1))
        for window, pixels in itertools.chain.from_iterable(itertools.chain(found, last)):
            yield (
                (window.start + window.end) / 2,
                lambda number, pixels=pixels: window_clips(frames.crops, number, pixels),
            )


def extract_features(source, model, **options):
    """Compute features of videos.

    Args:
        source: a video file, a folder (of videos, of frames or of records), a list of videos, a
            pattern such as `clips/*.mp4`; or several of these.
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint; it needs no
            head.
        **options: of `FeatureExtractor`, such as `per` and `every`.

    Yields:
        The `VideoFeatures` of each video: `video`, `times` `[rows]` in seconds, `vectors`
        `[rows, channels]`; `problem`, if it can't be read.

    Raises:
        UserError: a source doesn't exist, or options don't fit the model.
    """
    extractor = FeatureExtractor(model, **options)
    yield from extractor(extractor.find(source))


def _run(scorer, states, videos, rows, waiting):
    """Compute the features of clips, and yield the `VideoFeatures` that are complete."""
    with contextlib.closing(scorer.scored(videos, scorer.feature_step(), states)) as scored:
        for found in scored:
            rows.add(*found)
            yield from waiting.complete()
    yield from waiting.complete()


def _check(per, every, model):
    if per not in KINDS:
        raise UserError(f"per={per!r} is not one of {', '.join(KINDS)}")
    if per == "frame" and not model.sees_frames:
        raise UserError(
            "per='frame': this model exchanges features among the frames of a clip, so single "
            "frames have none; use per='clip'"
        )
    check_every(every)


def _frames(video, every, view):
    """Frames of a video: pairs of a time and a function of a number."""
    crops = Crops(view)
    multiples: Iterator[float] = (number * every for number in itertools.count())
    if video.listed_times is not None:
        end = video.seconds
        multiples = itertools.takewhile(lambda time: time < end, multiples)
    for time, frame in video.shown_at(multiples):
        pixels = crops.cut(frame)
        yield time, lambda number, pixels=pixels: frame_clips(crops, number, pixels)
