"""Inference time and peak memory of a test protocol: all views of one video, without reading it."""

import dataclasses
import resource
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from benchmarks.evaluation import largest_protocol
from benchmarks.turns import Side, Turn, measure, spread, table
from trn_jax import checks, create_model
from trn_jax.data.annotations import Record
from trn_jax.data.decode import Video
from trn_jax.data.reader import ClipReader, VideoClips
from trn_jax.data.views import View
from trn_jax.distributed.sharding import make_mesh, replicated
from trn_jax.evaluation.evaluator import Evaluator
from trn_jax.nn.precision import compute_dtype
from trn_jax.settings import protocol_names, resolved_views

_NUM_FRAMES = 300  # ten seconds


class _Noise(Video):
    """A video of noise."""

    path = "noise"
    num_frames = _NUM_FRAMES

    def __init__(self, height: int, width: int):
        self._shape = height, width, 3

    def _decode(self, wanted: list[int], memory: Any, draft: Any) -> Iterator[tuple]:
        for number in wanted:
            rng = np.random.default_rng(number)
            yield number, rng.integers(0, 256, self._shape, np.uint8)


@dataclasses.dataclass(frozen=True)
class _NoiseSource:
    """A source of `_Noise`, see `frame_folders.FrameFolders`."""

    short_side: int

    def open(self, record: Record) -> _Noise:
        return _Noise(self.short_side, self.short_side * 4 // 3)


@dataclasses.dataclass(frozen=True)
class _OneVideo:
    """Stands for `Data` in `Evaluator.run`: one video, already read.

    Attributes:
        video: its clips.
        class_names: of the model.
        multi_label: whether videos have several labels.
    """

    video: VideoClips
    class_names: list[str]
    multi_label: bool
    val_names: tuple[str, ...] = ("noise",)
    val_records: tuple[Record, ...] = (Record(0, "noise", _NUM_FRAMES, 0),)
    reversed_class: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def val_labels(self) -> np.ndarray:
        if self.multi_label:
            return np.eye(1, len(self.class_names), dtype=np.float32)
        return np.zeros(1, np.int64)

    def eval_videos(self, views: dict[str, View]) -> Iterator[VideoClips]:
        yield self.video


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Inference time and memory of one video.

    Attributes:
        model: name of the model.
        protocol: name of the protocol.
        shape: views, and frames, height and width of each.
        distinct_views: views without repetitions.
        dtype: of the computation.
        devices: number and kind.
        turns: the rounds.
        memory: peak bytes.
        memory_of: what they were measured of.
    """

    model: str
    protocol: str
    shape: tuple[int, int, int, int]
    distinct_views: int
    dtype: str
    devices: str
    turns: list[Turn]
    memory: int
    memory_of: str

    def record(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        views, *clip = self.shape
        size = " x ".join(map(str, clip))
        shown = f"{views} views" if views > 1 else "1 view"
        if self.distinct_views < views:
            shown += f" ({self.distinct_views} distinct)"
        seconds = spread([turn.wall for turn in self.turns])
        return "\n".join(
            [
                f"{self.model}, {self.protocol}: {shown} of {size}, {self.dtype}, {self.devices}",
                table({self.protocol: self.turns}, {}, unit="video"),
                f"{'seconds per video':34}{seconds:>32}",
                f"{'GiB at most, of ' + self.memory_of:34}{self.memory / 2**30:>32.3g}",
            ]
        )


def measure_protocol(
    config: ConfigDict, protocol: str, *, rounds: int, steps: int | None
) -> Measurement:
    """Score one video by a protocol repeatedly, as in evaluation.

    Includes transfers to the device and merging of the views, but no reading.

    Args:
        config: a recipe.
        protocol: name of the protocol; "" for the one with the most pixels.
        rounds: turns.
        steps: videos per turn; by default 1 on a CPU, else 10.

    Raises:
        UserError: the recipe has no such protocol or no number of classes, or its model can't be
            built for it.
    """
    checks.check(config)
    checks.check_num_classes(config)
    config.model.dtype = compute_dtype(config.model.dtype)
    names = protocol_names(config, protocol or "all")
    name = largest_protocol(config, names)
    section = resolved_views(config)[f"protocols.{name}"]
    view = View(**section)
    source = _NoiseSource(max(view.short_side, view.crop_size))
    record = _OneVideo.val_records[0]
    video = ClipReader({name: view}, source).read(record, (config.seed, 0, record.index))
    class_names = [f"class {label}" for label in range(config.model.num_classes)]
    data = _OneVideo(video, class_names, config.data.multi_label)
    graph, state = nnx.split(create_model(**config.model, rngs=nnx.Rngs(config.seed)))
    devices = jax.local_devices()
    states = jax.device_put((nnx.as_pure(state),), replicated(make_mesh(devices)))
    # Steps of equal size, to pad as few views as possible.
    num_steps = -(-len(video.clips) // config.eval.max_views_per_step)
    evaluator = Evaluator(
        graph, multi_label=data.multi_label, max_views=-(-len(video.clips) // num_steps)
    )

    def run(videos: int) -> None:
        for _ in range(videos):
            evaluator.run(data, {name: section}, states)

    steps = steps or (1 if devices[0].platform == "cpu" else 10)
    turns = measure([Side(name, 1, run)], rounds=rounds, steps=steps)[name]
    memory, memory_of = peak_memory(devices[0])
    return Measurement(
        model=config.model.name,
        protocol=name,
        shape=(view.num_views, *video.clips[0].shape[:3]),
        distinct_views=sum(len(clip.flips) for clip in video.clips),
        dtype=config.model.dtype,
        devices=f"{len(devices)} x {devices[0].device_kind}",
        turns=turns,
        memory=memory,
        memory_of=memory_of,
    )


def peak_memory(device: jax.Device) -> tuple[int, str]:
    """Peak bytes so far of the device if it counts them, else of this process."""
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if peak is not None:
        return peak, "the device"
    unit = 1 if sys.platform == "darwin" else 1024  # of `ru_maxrss`
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "the process"
