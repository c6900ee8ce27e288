"""Evaluates a model frame by frame: videos as streams, and how early they are recognised."""

import collections
import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

from trn_jax.data import pipeline
from trn_jax.data.frame_views import FrameView, check_streamable, frame_spacing
from trn_jax.data.views import View
from trn_jax.distributed.sharding import batch_sharding, make_mesh, replicated
from trn_jax.errors import UserError
from trn_jax.evaluation import results
from trn_jax.evaluation.evaluator import gather
from trn_jax.evaluation.merging import RunningAccuracy, merge_of, merge_views
from trn_jax.evaluation.scoring import on_these_devices
from trn_jax.models.folding import fold_batch_norm
from trn_jax.models.streaming import averages_features, streaming
from trn_jax.progress import Progress

TENTHS = range(1, 11)  # of the frames of a video, after which it is scored
_STEPS_AHEAD = 2  # that run while the logits of the one before them are fetched


class StreamedEvaluator:
    """Evaluates a model frame by frame, as a stream.

    Every process reads and scores its own videos on its own devices. Their streams, one per crop,
    take turns in the rows of one batch: where one ends, another begins.

    Args:
        model: a `Recognizer`.
        protocol: its name.
        section: its view, a section of the configuration. Streams have its crops, and frames as
            far apart as those of its clips.
        num_frames: typical number of frames of a training example; `None` if unknown.
        pooling: see `models.streaming.Stream`; "auto": "mean" for heads that average features,
            because videos are recognised as a whole, and "window" for others.
        max_views: streams at a time; rounded up to a multiple of the devices of this process.
        multi_label: videos have several labels each.
        class_order: int `[classes]`, the output of each label; `None`: the same.
        alive: called after every step.

    Attributes:
        protocol: its name.
        name: of the result, the same with `_streamed`.

    Raises:
        UserError: the model can't be streamed, or the view has no place in a stream.
    """

    def __init__(
        self,
        model,
        protocol,
        section,
        *,
        num_frames,
        pooling,
        max_views,
        multi_label=False,
        class_order=None,
        alive=lambda: None,
    ):
        view = View(**section)
        check_streamable(protocol, view)
        self.protocol, self.name = protocol, f"{protocol}_streamed"
        self._section = section
        self._view = FrameView(**section, spacing=frame_spacing(view, num_frames))
        mesh = make_mesh(jax.local_devices())
        graph, state = nnx.split(model)
        model = nnx.merge(graph, on_these_devices(nnx.as_pure(state), mesh))
        model = fold_batch_norm(model, size=view.crop_size)
        if pooling == "auto":
            pooling = "mean" if averages_features(model) else "window"
        self._stream = streaming(model, pooling=pooling, window=view.num_segments)
        self._merge = merge_of(view, model.merge_views)
        self._multi_label = multi_label
        self._class_order = slice(None) if class_order is None else class_order
        self._alive = alive
        self._num_rows = -(-max_views // mesh.size) * mesh.size
        self._size = view.cropping(exact=True).size
        self._rows = rows = batch_sharding(mesh)
        replicate = replicated(mesh)
        # Raises if the model doesn't take the frames.
        self._begin = jax.device_put(self._stream.init(self._num_rows, self._size), rows)
        self._step = jax.jit(
            self._score, in_shardings=(replicate, rows, rows, rows), out_shardings=rows
        )

    def _score(self, parameters, state, frames, is_new):
        state = self._stream.reset(state, is_new)
        return self._stream.apply(parameters, state, frames)

    def run(self, data):
        """Evaluate the list of `data`.

        Args:
            data: a `Data`.

        Returns:
            A result, see `results.summarize`, of the scores after the last frame of every video,
            with how it was `streamed` and, as `early_recognition`, the metrics after each tenth of
            the frames.
        """
        start = time.perf_counter()
        num_videos, process = len(data.val_records), jax.process_index()
        problems, losses = dict[int, str](), set[str]()
        videos = pipeline.readable(data.eval_videos({self.name: self._view}), problems, losses)
        share = len(range(process, num_videos, jax.process_count()))
        scores = np.zeros((num_videos, len(TENTHS), len(data.class_names)), np.float32)
        num_frames = 0
        with (
            Progress("Streaming", share, "videos", shown=process == 0) as progress,
            contextlib.closing(self._scored(videos)) as scored,
        ):
            count = RunningAccuracy(data.val_labels, progress.add)
            for example, logits in scored:
                scores[example] = self._after_tenths(logits)
                count(example, scores[example, -1])
                num_frames += logits.shape[1]
        missing = np.isin(np.arange(num_videos), list(problems))
        rows, num_frames = gather({"scores": scores, "missing": missing}, num_frames)
        return self._result(data, rows, num_frames, time.perf_counter() - start)

    def _result(self, data, rows, num_frames, seconds):
        scores, missing = rows["scores"], rows["missing"]
        num_videos = len(scores)
        found = results.summarize(data, self.name, self._view, scores[:, -1:], missing)
        early = [
            {"share": tenth / 10} | results.scores_of(data, self.name, part, missing).metrics()
            for tenth, part in zip(TENTHS, scores.swapaxes(0, 1), strict=True)
        ]
        streamed = {
            "pooling": self._stream.pooling,
            "window": self._stream.window,
            "spacing": self._view.spacing,
            "frames_per_video": num_frames / max(num_videos - int(missing.sum()), 1),
        }
        speed = results.speed(num_frames, num_videos, seconds)
        view = self._section.to_dict()
        return found | speed | {"view": view, "streamed": streamed, "early_recognition": early}

    def _after_tenths(self, logits):
        """Merged scores `[tenths, classes]` of a video from `logits` `[crops, frames, classes]`."""
        last = [-(-tenth * logits.shape[1] // 10) - 1 for tenth in TENTHS]
        options = dict(merge=self._merge, multi_label=self._multi_label)
        return merge_views(logits[:, last], **options)[:, self._class_order]

    def _scored(self, videos):
        """Pairs of an example and its logits `[crops, frames, classes]`, as streams end."""
        waiting = (each for video in videos for each in self._streams(video))
        rows: list[_FrameStream | None] = [None] * self._num_rows
        running: collections.deque = collections.deque()
        state = self._begin
        with contextlib.closing(waiting), contextlib.closing(videos):
            while True:
                is_new = np.array([row is None or row.is_fed for row in rows])
                for number in np.flatnonzero(is_new):
                    rows[number] = next(waiting, None)
                if not any(rows):
                    break
                frames = np.zeros((self._num_rows, self._size, self._size, 3), np.uint8)
                for row, target in zip(rows, frames, strict=True):
                    if row:
                        target[...] = row.take()
                inputs = jax.device_put((frames, is_new), self._rows)
                logits, state = self._step(self._stream.parameters, state, *inputs)
                running.append((logits, list(rows)))
                if len(running) > _STEPS_AHEAD:
                    yield from self._ended(*running.popleft())
            for each in running:
                yield from self._ended(*each)

    def _ended(self, logits, rows):
        """Keep the logits of a step; yields the videos that end with it."""
        self._alive()
        for row, found in zip(rows, np.asarray(logits), strict=True):
            if row and row.add(found):
                yield row.example, np.stack([each.logits for each in row.crops])

    def _streams(self, video):
        """The `_FrameStream`s of a `VideoClips`, one per crop."""
        num_crops = self._view.num_views
        num_frames = sum(len(clip.places) for clip in video.clips) // num_crops
        crops = [_FrameStream(video.example, [None] * num_frames) for _ in range(num_crops)]
        for clip, pixels in video.pairs():
            for _, position, mirrored in clip.places:
                crop, frame = divmod(position, num_frames)
                crops[crop].frames[frame] = pixels[0, :, ::-1] if mirrored else pixels[0]
        for each in crops:
            each.crops = crops
            yield each


@dataclasses.dataclass(eq=False)
class _FrameStream:
    """A crop of a video.

    Attributes:
        example: position of the video in its list.
        frames: uint8 `[size, size, 3]` each; those that were taken are dropped.
        logits: `[classes]` of every frame so far.
        crops: all streams of the video.
    """

    example: int
    frames: list[Any]
    logits: list[np.ndarray] = dataclasses.field(default_factory=list)
    crops: list["_FrameStream"] = dataclasses.field(default_factory=list)
    _next: int = 0

    @property
    def is_fed(self):
        """All frames were taken."""
        return self._next == len(self.frames)

    def take(self):
        """The next frame."""
        frame, self.frames[self._next] = self.frames[self._next], None
        self._next += 1
        return frame

    def add(self, logits):
        """Keep the logits of the next frame; returns whether they are the last of the video."""
        self.logits.append(logits)
        return all(len(each.logits) == len(each.frames) for each in self.crops)


def streamed_protocol(views):
    """The protocol to stream, of `{name: section}`: that with the fewest views, then the first.

    Raises:
        UserError: none has frames in their order.
    """
    parsed = {name: View(**section) for name, section in views.items()}
    forward = [name for name, view in parsed.items() if view.frame_order == "forward"]
    if not forward:
        raise UserError(
            f"a stream has its frames in their order, but those of {', '.join(parsed)} are "
            "reversed or shuffled; choose another --protocol"
        )
    return min(forward, key=lambda name: parsed[name].num_views)
