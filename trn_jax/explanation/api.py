"""`trn_jax.explain`: why a model gives a video its class."""

import contextlib

import jax
import numpy as np
from flax import nnx

from trn_jax.checkpoints.checkpoint import class_numbers
from trn_jax.data.pipeline import EvalVideos
from trn_jax.data.workers import num_cpus
from trn_jax.errors import UserError, did_you_mean
from trn_jax.evaluation.merging import merge_of, merge_views
from trn_jax.explanation.cam import ActivationMaps
from trn_jax.explanation.clips import explained, views_of
from trn_jax.explanation.explanation import Explanation
from trn_jax.explanation.frames import NUM_ORDERS, FrameExplainer
from trn_jax.explanation.order import NUM_SHUFFLES, rearrangements, score_orders
from trn_jax.explanation.rearranged import Rearranged, with_expected_relations
from trn_jax.prediction import sources
from trn_jax.prediction.contract import contract_of, open_model
from trn_jax.prediction.inputs import Inputs

PARTS = ("frames", "order", "where")


class Explainer:
    """Explains videos with one model.

    The clip that is explained is that of the prediction; of a protocol with several views, its
    middle clip and most central crop. Long videos are explained as a whole.

    Args:
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        classes: names or numbers of classes to explain besides the predicted one.
        parts: some of `PARTS`; by default all that the model has.
        num_orders: of sampled values of frames, see `frames.FrameExplainer`.
        num_shuffles: random orders for the score of shuffled frames.
        stage: whose maps show where the model looks, see `cam.ActivationMaps`.
        protocol: of the recipe, whose view is used; by default the one with the fewest views.
        frame_rate: of frames in folders and records, per second; by default that of training
            examples.
        num_threads: threads that decode; 0: one per processor.
        **view: other keys of the view, such as `num_segments` or `crop`.

    Attributes:
        model: the model.
        contract: its `Contract`, how it samples videos.
        class_names: in the order of the scores.
        game: what the values of frames are of, see `frames`.
        num_frames: of a clip.
        notes: messages about what can't be explained.

    Raises:
        UserError: the model was not loaded from a checkpoint or has no head, a class is unknown, or
            values are invalid.
    """

    def __init__(
        self,
        model,
        *,
        classes=None,
        parts=None,
        num_orders=NUM_ORDERS,
        num_shuffles=NUM_SHUFFLES,
        stage=None,
        protocol=None,
        frame_rate=None,
        num_threads=0,
        **view,
    ):
        self.model, config = open_model(model)
        if self.model.head is None:
            raise UserError(
                f"{self.model.info.path} has no head, so it gives no class that could be "
                "explained; train one with `trn-jax probe`"
            )
        unknown = set(parts or ()) - set(PARTS)
        if unknown:
            raise UserError(f"parts={unknown.pop()!r} is not one of {', '.join(PARTS)}")
        if num_shuffles < 1:
            raise UserError(f"num_shuffles={num_shuffles}: expected a positive number")
        info = self.model.info
        self.contract = contract_of(info, protocol=protocol, frame_rate=frame_rate, **view)
        self.class_names = info.class_names or tuple(class_numbers(config.model.num_classes))
        self._classes = [self._class(each) for each in classes or ()]
        self._multi_label = config.data.multi_label
        self._max_pixels = config.data.max_pixels
        self._frame_rate = frame_rate or self.contract.frame_rate
        self._reading = dict(seed=config.seed, num_threads=num_threads or num_cpus())
        self._num_shuffles = num_shuffles
        self.notes: list[str] = []
        self._check_clip()
        self._explained = with_expected_relations(self.model)
        self._rearranged = Rearranged(self._explained, max_clips=config.eval.max_views_per_step)
        self.num_frames = self.contract.view.num_segments
        self._frames = FrameExplainer(
            self._explained,
            self._rearranged,
            num_frames=self.num_frames,
            num_orders=num_orders,
            seed=config.seed,
        )
        self.game = self._frames.game
        self._parts = set(parts or PARTS)
        self._maps = self._activation_maps(stage, parts)

    def _class(self, named):
        """The number of a class, from its name or number; also from the digits of its number."""
        names = self.class_names
        if isinstance(named, str):
            if named in names:
                return names.index(named)
            if not (named.isascii() and named.isdigit()):
                hint = did_you_mean(named, names, all_of="classes")
                raise UserError(f"no class is called {named!r}{hint}")
        elif isinstance(named, bool) or not isinstance(named, int | np.integer):
            raise UserError(f"class {named!r:.80}: expected a name, or a number of a class")
        number = int(named) if len(str(named)) < 20 else len(names)
        if not 0 <= number < len(names):
            raise UserError(f"class {named!s:.80}: expected 0 to {len(names) - 1}")
        return number

    def _clip_shape(self):
        view = self.contract.view
        return view.num_segments, view.crop_size, view.crop_size, 3

    def _check_clip(self):
        """Check that the model takes the clips of the view; computes nothing."""
        clips = jax.ShapeDtypeStruct((1, *self._clip_shape()), np.uint8)
        try:
            nnx.eval_shape(lambda model, clips: model(clips, rngs=nnx.Rngs(0)), self.model, clips)
        except UserError as error:
            raise UserError(f"protocols.{self.contract.protocol}: {error}") from None

    def _activation_maps(self, stage, parts):
        """The `ActivationMaps`, or `None`."""
        if "where" not in self._parts:
            return None
        try:
            return ActivationMaps(self._explained, self._clip_shape(), stage=stage)
        except UserError as error:
            if parts or stage is not None:
                raise
            self.notes.append(str(error))
            return None

    def find(self, source):
        """The videos of a source or of several, see `sources.find`.

        Raises:
            UserError: one is a stream, doesn't exist, or has no videos.
        """
        recorded = sources.without_streams(source, "can be explained")
        options = dict(max_pixels=self._max_pixels, multi_label=self._multi_label)
        return sources.find(recorded, frame_rate=self._frame_rate, **options)

    def __call__(self, inputs):
        """Explain videos, in order.

        Args:
            inputs: a list of `Input`, from `find`.

        Yields:
            The `Explanation` of each; one that can't be read has a `problem`.
        """
        opened = Inputs(inputs)
        views = views_of(self.contract.view, early="order" in self._parts)
        options = dict(on_error="skip", timed=True, **self._reading)
        videos = EvalVideos(opened.records, views, opened, **options)
        with contextlib.closing(videos), contextlib.closing(iter(videos)) as found:
            for video in found:
                yield self._explain(opened, video)

    def _explain(self, opened, video):
        name = opened.name(video.example)
        if video.problem:
            return Explanation(video=name, problem=video.problem)
        clip = explained(video, self.contract.view)
        logits = self._rearranged.score([*clip.views, *clip.seen])
        views, seen = np.split(logits, [len(clip.views)])
        scores = self._probabilities(views, merged=True)
        if not np.isfinite(scores).all():
            path = self.model.info.path
            problem = f"the scores of {name} are no numbers (NaN or infinite); see {path}"
            return Explanation(video=name, problem=problem)
        loaded = self._rearranged.load(clip.pixels)
        classes = np.array(list(dict.fromkeys([int(scores.argmax()), *self._classes])))
        found: dict = {}
        if "frames" in self._parts:
            values, scales = self._frames(loaded, classes)
            found |= dict(values=values, scales=scales)
        if "order" in self._parts:
            found |= self._orders(loaded, seen)
        if self._maps:
            found["maps"] = np.stack([self._maps(clip.pixels, label) for label in classes])
        return Explanation(
            video=name,
            notes=self._notes(video, clip, name),
            class_names=self.class_names,
            scores=scores.astype(np.float32),
            classes=classes,
            frames=clip.frames,
            times=clip.times + opened.start(video.example),
            pixels=clip.pixels,
            features=loaded.features,
            **found,
        )

    def _notes(self, video, clip, name):
        notes = list(video.notes)
        if clip.place:
            notes.append(f"{name}: {clip.place} is explained; the scores are those of all views")
        if self.contract.is_long(video.seconds):
            notes.append(
                f"{name} lasts {video.seconds:.1f} s, much longer than training examples; its "
                f"{self.num_frames} frames are spread over all of it. To explain a part, give a "
                "list with the columns video,start,end"
            )
        return tuple(notes)

    def _probabilities(self, logits, merged=False):
        """Scores of logits `[rows, classes]`: the mean, or `merged` as views are."""
        view, model = self.contract.view, self.model
        merge = merge_of(view, model.merge_views) if merged else "probabilities"
        return merge_views(logits, merge=merge, multi_label=self._multi_label)

    def _orders(self, loaded, seen):
        choices = rearrangements(loaded.num_frames, num_shuffles=self._num_shuffles)
        logits = score_orders(self._rearranged, loaded, choices)
        return dict(
            order={name: self._probabilities(each) for name, each in logits.items()},
            early=np.stack([self._probabilities(each[None]) for each in seen]),
        )


def explain(source, model, *, classes=None, **options):
    """Explain the classes of videos.

    Args:
        source: a video file, a folder (of videos, of frames or of records), a list of videos, a
            pattern such as `clips/*.mp4`; or several of these.
        model: a loaded model, see `trn_jax.load_model`, or the path of a checkpoint.
        classes: names or numbers of classes to explain besides the predicted one.
        **options: of `Explainer`, such as `parts` and `num_orders`.

    Yields:
        An `Explanation` per video: `values.values` `[explained, frames]`, `scales`, `order`,
        `early` `[10, classes]`, `maps` `[explained, frames, height, width]`; `problem`, if it can't
        be read.

    Raises:
        UserError: a source doesn't exist, a class is unknown, or options don't fit the model.
    """
    explainer = Explainer(model, classes=classes, **options)
    yield from explainer(explainer.find(source))
