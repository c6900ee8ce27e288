"""Speed of a recipe's parts on this machine, and of the models against PyTorch on the CPU.

    python scripts/benchmark.py --config=configs/trn_synthetic.py --what=both
    python scripts/benchmark.py --config=configs/tsn_k400_3seg.py --config.data_dir=... --what=eval
    python scripts/benchmark.py --config=configs/trn_sthv1.py --config.data_dir=... --what=data
    python scripts/benchmark.py --what=torch
    python scripts/benchmark.py --what=models --models='tsm_*' --rounds=3

`--what=step` takes training steps on a batch that is on the device already; `--what=both` measures
these and the data pipeline, and training as it is: steps on the clips that the pipeline delivers
meanwhile. `--what=data` takes the pipeline apart: files are read, and decoded, and cropped, in one
thread; clips come as batches, and on the devices; in worker processes, too. It is compared with the
least that has to be done, with a `DataLoader` of PyTorch that does the same with OpenCV, and with
the same videos in other forms, such as records (`--other_data_dir`).

`--what=views` reads the clips of the protocol that shows the model most pixels, and compares that
with cutting them with OpenCV and NumPy. `--what=eval` evaluates the validation list by all
protocols in one pass, and by that one. `--what=models` compares evaluation and training step of one
model after the other with its twin in PyTorch (`trn_jax.twins`), in eager mode: the same weights,
batch and number of threads; then the training step of TSM with that of TSN. `--what=torch` is short
for `--what=models --models=tsn_resnet50`. Goals that are named are those for the processor time.

What is compared takes turns within one run, forwards and backwards, so that other work on the
machine hits all alike. Clips per second suffer from such work all the same; the processor time per
clip, summed over all threads, hardly does. Every number is a median over the rounds, with the
smallest and the largest one; ratios are taken round by round. PyTorch's threads wait for each
other at full load, which other work on the machine prolongs: `--threads=1` compares the work alone.
"""

import contextlib
import copy
import dataclasses
import fnmatch
import gc
import importlib.metadata
import itertools
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import simplejpeg
from absl import app, flags, logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from trn_jax import create_model, evaluate, list_models, recipe, train_step
from trn_jax.config import base
from trn_jax.data import augment, pipeline
from trn_jax.data.views import View
from trn_jax.devices import DevicePrefetch, make_mesh
from trn_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, but for --what=models.")
_WHAT = flags.DEFINE_enum(
    "what",
    "both",
    ["data", "step", "both", "views", "eval", "models", "torch"],
    "What to measure.",
)
_MODELS = flags.DEFINE_string("models", "*", "With --what=models: pattern of names, as 'tsm_*'.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/benchmark", "As in training: the synthetic data set lies beside this folder."
)
_OTHERS = flags.DEFINE_multi_string(
    "other_data_dir", [], "With --what=data: the same videos in another form; may be given again."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Batches per turn, 10 by default, 1 for models; passes per turn, 1 by default, for eval.",
    lower_bound=1,
)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Use so many of the processors; all by default.", lower_bound=1
)
_CLIPS = flags.DEFINE_integer("clips", 1, "With --what=models: clips per batch.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 8, "With --what=models: frames per clip.", lower_bound=1)
_PIXELS = flags.DEFINE_integer(
    "pixels", 224, "With --what=models: side of a frame.", lower_bound=32
)

_NUM_CLASSES = 174
_QUIET = 0.1  # seconds of next to no work after which all threads are taken to be idle


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the things that are compared.

    Attributes:
        name: its row in the table.
        clips: in one step.
        run: takes so many steps, and returns what the last one computed.
        rest: waits until threads that work ahead have nothing left to do, and returns the moment
            when that was so, by `time.perf_counter`.
    """

    name: str
    clips: int
    run: Callable[[int], Any]
    rest: Callable[[], float] = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one clip took.

    Attributes:
        wall: seconds.
        cpu: seconds, summed over all threads.
    """

    wall: float
    cpu: float


def measure(sides: Sequence[Side], *, rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Let the sides take turns, after one step each to warm up."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for side in sides:
        side.run(1)
        side.rest()
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            start, used = time.perf_counter(), processor_seconds()
            side.run(steps)
            end = side.rest()
            clips = steps * side.clips
            turn = Turn((end - start) / clips, (processor_seconds() - used) / clips)
            turns[side.name].append(turn)
    return turns


def processor_seconds() -> float:
    """Processor time of this process and, where the system tells, of its workers."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        try:
            with open(f"/proc/{worker.pid}/stat") as file:
                ticks = file.read().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds


def rest() -> float:
    """Wait until this process and its workers are idle; returns the moment when they became so.

    A turn of a pipeline thereby begins and ends with full buffers, and counts every batch once.
    """
    since, used = time.perf_counter(), processor_seconds()
    while time.perf_counter() - since < _QUIET:
        time.sleep(_QUIET / 10)
        if processor_seconds() - used > _QUIET / 10:  # asking takes some itself
            since, used = time.perf_counter(), processor_seconds()
    return since


def table(
    turns: Mapping[str, Sequence[Turn]],
    pairs: Mapping[tuple[str, str], float | None],
    unit: str = "clip",
) -> str:
    """Describe the turns, and the ratios of some `pairs` of sides.

    With each pair comes the largest ratio of processor time that is wanted, or `None`.
    """
    goals = any(pairs.values())
    header = f"{'':34}{f'{unit}s/s':>32}{f'CPU seconds per {unit}':>32}"
    lines = [f"{header}{'goal':>10}" if goals else header]
    for name, own in turns.items():
        rates = _spread([1 / turn.wall for turn in own])
        lines.append(f"{name:34}{rates:>32}{_spread([turn.cpu for turn in own]):>32}")
    for (name, other), goal in pairs.items():
        rounds = zip(turns[name], turns[other], strict=True)
        rates = _spread([b.wall / a.wall for a, b in rounds])
        costs = _spread(cost_ratios(turns[name], turns[other]))
        line = f"{f'{name} / {other}':34}{rates:>32}{costs:>32}"
        lines.append(f"{line}{f'<= {goal:.3g}':>10}" if goal else line)
    return "\n".join(lines)


def cost_ratios(turns: Sequence[Turn], others: Sequence[Turn]) -> list[float]:
    """Processor time of one side in units of that of another, round by round."""
    return [turn.cpu / other.cpu for turn, other in zip(turns, others, strict=True)]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g}..{max(values):.4g})"


# The parts of a training ------------------------------------------------------------------------


class Stepper:
    """Takes training steps of a recipe, each on the state that the last one left.

    Args:
        config: see `trn_jax.config.base`.
        mesh: the devices.
        num_videos: length of the training list.
    """

    def __init__(self, config: ConfigDict, mesh: Mesh, num_videos: int):
        rate = recipe.learning_rate(config, num_videos / config.train.batch)
        self.graph, optimizer, self.state = train_step.init_state(
            lambda: create_model(**config.model, rngs=nnx.Rngs(config.seed)),
            lambda params: recipe.optimizer(config, params, rate),
            mesh,
        )
        self._mesh = mesh
        self._step = train_step.jit_train_step(
            mesh,
            graph=self.graph,
            optimizer=optimizer,
            rate=rate,
            seed=config.seed,
            accumulation=config.train.accumulation,
        )

    def load(self, state_dict: dict[str, np.ndarray]) -> None:
        """Start from foreign weights, see `trn_jax.convert`."""
        self.state = train_step.load_weights(self.graph, self.state, state_dict)

    def __call__(self, batches: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        """Take one step per batch, and wait for the last; returns its scalars."""
        for batch in batches:
            self.state, scalars = self._step(self.state, batch)
        jax.block_until_ready(self.state)
        return scalars


def training_sides(config: ConfigDict, workdir: str, stack: ExitStack) -> list[Side]:
    """The data pipeline, the training step, and the two together; `stack` closes them."""
    mesh = make_mesh()
    recipe.check_batch(config, mesh.size)
    data = recipe.Data(config, workdir)
    stepper = Stepper(config, mesh, len(data.train_records))
    prefetch = stack.enter_context(closing(DevicePrefetch(data.train_batches(0), mesh)))
    resident, _ = next(prefetch)

    def step(steps: int) -> None:
        stepper([resident] * steps)

    def both(steps: int) -> None:
        stepper(arrays for arrays, _ in islice(prefetch, steps))

    clips = config.train.batch
    return [
        _pipeline("data", config, workdir, stack),
        Side("step", clips, step),
        Side("both", clips, both, rest),
    ]


# The data pipeline ------------------------------------------------------------------------------


class PeerClips:
    """The training clips of a recipe as toolboxes of PyTorch read them, one `[index]` at a time.

    Frames are read by OpenCV, scaled, cropped, scaled again, mirrored and put in the order that
    PyTorch's convolutions take, `[channels, frames, height, width]`.
    """

    def __init__(self, data: recipe.Data):
        self._records = data.train_records
        self._view = data.train_reader().view
        self._source = data.source

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        record, view = self._records[index], self._view
        rng = np.random.default_rng(index)
        frames: list[Any] = []
        for number in view.sampler()(record.num_frames, rng).ravel().tolist():
            name = self._source.pattern.format(number + self._source.first_frame)
            path = os.path.join(record.path, name)
            frames.append(cv2.imread(path, cv2.IMREAD_COLOR_RGB))
        frames = [augment.resize_short_side(frame, view.short_side) for frame in frames]
        crop = dataclasses.replace(view.cropping(exact=True), short_side=0)
        ((left, top, width, height), _), *_ = crop.boxes(*frames[0].shape[:2], rng)
        cropped = [frame[top : top + height, left : left + width] for frame in frames]
        clip = np.stack([augment.resize(frame, crop.size, crop.size) for frame in cropped])
        if rng.random() < view.flip_rate:
            clip = clip[:, :, ::-1]
        return np.ascontiguousarray(clip.transpose(3, 0, 1, 2)), int(record.label)


def data_sides(
    config: ConfigDict, workdir: str, others: Sequence[str], stack: ExitStack
) -> tuple[list[Side], dict[tuple[str, str], float | None]]:
    """The data pipeline in all its parts, and what it is compared with.

    Args:
        config: see `trn_jax.config.base`.
        workdir: as in training.
        others: folders with the same videos in other forms.
        stack: closes what works ahead.

    Returns:
        The sides; and the pairs of their names to compare, with the largest ratio of processor time
        that is wanted, if there is one.
    """
    data = recipe.Data(config, workdir)
    name, processors = data.files.source, len(os.sched_getaffinity(0))
    sides = _stages(name, data, config.train.batch)
    sides += [_pipeline(name, config, workdir, stack), _delivery(data, config, stack)]
    workers = f"{name}, {processors} workers"
    with_workers = copy.deepcopy(config)
    with_workers.data.num_workers = processors
    sides.append(_pipeline(workers, with_workers, workdir, stack))
    pairs: dict[tuple[str, str], float | None] = {(workers, name): None}
    if name == "videos":
        sides.append(_from_the_start(name, data, config.train.batch))
        pairs[f"{name}, decode", sides[-1].name] = 1.05
    else:
        sides.append(_floor(data, config.train.batch, stack))
        pairs[name, sides[-1].name] = 1.25
    if name == "frames":
        for side in _peers(data, config.train.batch, processors, stack):
            sides.append(side)
            pairs[name, side.name] = 0.5
    for number, other in enumerate(others, 2):
        again = copy.deepcopy(config)
        again.data_dir = other
        form = recipe.Data(again, workdir)
        called = f"{number}: {form.files.source}"
        sides += _stages(called, form, config.train.batch)
        sides.append(_pipeline(called, again, workdir, stack))
        pairs[called, name] = None
        if form.files.source == "videos":
            sides.append(_from_the_start(called, form, config.train.batch))
            pairs[f"{called}, decode", sides[-1].name] = 1.05
    return sides, pairs


def _pipeline(name: str, config: ConfigDict, workdir: str, stack: ExitStack) -> Side:
    """What delivers batches to the training."""
    data = recipe.Data(config, workdir)
    batches = stack.enter_context(closing(data.train_batches(0)))

    def deliver(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    return Side(name, config.train.batch, deliver, rest)


def _delivery(data: recipe.Data, config: ConfigDict, stack: ExitStack) -> Side:
    """The same to the devices."""
    prefetch = stack.enter_context(closing(DevicePrefetch(data.train_batches(0), make_mesh())))

    def deliver(steps: int) -> None:
        for arrays, _ in islice(prefetch, steps):
            jax.block_until_ready(arrays)

    return Side(f"{data.files.source}, to the devices", config.train.batch, deliver, rest)


class _Clips:
    """Videos in random order, and the frames of a clip of each."""

    def __init__(self, data: recipe.Data):
        self.records = data.train_records
        self._source = data.source
        self._sample = data.train_reader().sample
        self._order = np.random.default_rng(0).permutation(len(self.records)).tolist()
        self._number = itertools.count()

    def entries(self, count: int) -> list[tuple[int, Any]]:
        """Numbers that do not come again, each with a record."""
        numbers = list(islice(self._number, count))
        return [(n, self.records[self._order[n % len(self._order)]]) for n in numbers]

    def open(self, count: int) -> Iterable[tuple[Any, list[int]]]:
        for number, record in self.entries(count):
            with self._source.open(record) as video:
                rng = np.random.default_rng(number)
                yield video, np.unique(self._sample(video.num_frames, rng)).tolist()


def _stages(name: str, data: recipe.Data, batch: int) -> list[Side]:
    """The way of a clip, one part more in every side: read, decode, crop; in one thread."""
    clips, reader = _Clips(data), data.train_reader()
    reader.num_threads = 1

    def read(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            list(video.images(wanted))

    def decode(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            for _ in video.frames(wanted, reader.draft):
                pass

    def crop(steps: int) -> None:
        for _ in range(steps):
            reader(clips.entries(batch))

    stages = {"read": read, "decode": decode, "crop": crop}
    if data.files.source == "videos":
        del stages["read"]  # decoding reads as it goes
    return [Side(f"{name}, {stage}", batch, run) for stage, run in stages.items()]


def _from_the_start(name: str, data: recipe.Data, batch: int) -> Side:
    """Frames of video files without looking for key frames: everything up to them is decoded."""
    import av

    clips = _Clips(data)

    def run(steps: int) -> None:
        for video, wanted in clips.open(steps * batch):
            with av.open(video.path) as container:
                for number, frame in enumerate(container.decode(video=0)):
                    if number in wanted:
                        frame.to_ndarray(format="rgb24")
                    if number == wanted[-1]:
                        break

    return Side(f"{name}, from the start", batch, run)


def _floor(data: recipe.Data, batch: int, stack: ExitStack) -> Side:
    """No more than decoding images that are in memory, and resizing a box of each."""
    reader, rng = data.train_reader(), np.random.default_rng(0)
    clips = []
    for record in (data.train_records * batch)[:batch]:
        with data.source.open(record) as video:
            wanted = reader.sample(video.num_frames, rng).ravel()
            clips.append(list(video.images(wanted.tolist())))
    size = reader.view.crop_size

    def make(images: list[bytes]) -> None:
        frames = [simplejpeg.decode_jpeg(image, "RGB") for image in images]
        height, width, _ = frames[0].shape
        (((left, top, w, h), _),) = reader.crop.boxes(height, width, np.random.default_rng(0))
        for frame in frames:
            cv2.resize(frame[top : top + h, left : left + w], (size, size))

    pool = stack.enter_context(ThreadPoolExecutor(data.num_threads))

    def run(steps: int) -> None:
        for _ in range(steps):
            list(pool.map(make, clips))

    return Side("decode and resize alone", batch, run)


def _peers(data: recipe.Data, batch: int, processors: int, stack: ExitStack) -> list[Side]:
    """A `DataLoader` of PyTorch in this process, and in as many workers as processors."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed, so its loader is left out")
        return []

    def peer(num_workers: int) -> Callable[[int], None]:
        loader = torch.utils.data.DataLoader(
            PeerClips(data),
            batch_size=batch,
            sampler=torch.utils.data.RandomSampler(
                data.train_records, replacement=True, num_samples=10**9
            ),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
        )
        clips = iter(loader)

        def run(steps: int) -> None:
            for _ in range(steps):
                next(clips)

        return run

    return [
        Side("PyTorch", batch, peer(0)),
        Side(f"PyTorch, {processors} workers", batch, peer(processors), rest),
    ]


# Evaluation --------------------------------------------------------------------------------------


def _largest_protocol(config: ConfigDict, names: Sequence[str]) -> str:
    """The protocol that shows the model most pixels."""

    def pixels(name: str) -> int:
        view = View(**config.protocols[name])
        return view.num_views * view.num_segments * view.crop_size**2

    return max(names, key=pixels)


def views_sides(config: ConfigDict, workdir: str) -> list[Side]:
    """Reading the clips of the largest protocol, and doing that as toolboxes of PyTorch do."""
    data = recipe.Data(config, workdir)
    if data.files.source != "frames":
        raise UserError("--what=views compares folders of frames, which this data set has not")
    name = _largest_protocol(config, recipe.protocol_names(config, "all"))
    view = View(**config.protocols[name])
    source, crop = data.source, view.cropping(exact=True)

    def ours(passes: int) -> None:
        for _ in range(passes):
            videos = data.eval_videos({name: view})
            for _ in pipeline.clip_batches(videos, config.eval.max_views_per_step):
                pass

    def peer(passes: int) -> None:
        for record in data.val_records * passes:
            rng = np.random.default_rng(record.index)
            clips = []
            for indices in view.sampler()(record.num_frames, rng):
                frames: list[Any] = []
                for number in indices.tolist():
                    file = source.pattern.format(number + source.first_frame)
                    path = os.path.join(record.path, file)
                    frames.append(cv2.imread(path, cv2.IMREAD_COLOR_RGB))
                frames = [augment.resize_short_side(frame, view.short_side) for frame in frames]
                for (left, top, width, height), mirrored in crop.boxes(*frames[0].shape[:2]):
                    cut = [frame[top : top + height, left : left + width] for frame in frames]
                    clips += [np.flip(frame, 1) for frame in cut] if mirrored else cut
            np.ascontiguousarray(np.stack(clips).transpose(0, 3, 1, 2))

    videos = len(data.val_records)
    return [Side(name, videos, ours), Side(f"{name}, OpenCV and NumPy", videos, peer)]


def evaluation_sides(config: ConfigDict, workdir: str) -> list[Side]:
    """All protocols in one pass over the validation list, and the largest of them by itself."""
    data = recipe.Data(config, workdir)
    graph, state = nnx.split(create_model(**config.model, rngs=nnx.Rngs(config.seed)))
    states = (nnx.as_pure(state),)
    evaluator = evaluate.Evaluator(
        graph, multi_label=data.multi_label, max_views=config.eval.max_views_per_step
    )

    def side(name: str, protocols: Sequence[str]) -> Side:
        views = {protocol: config.protocols[protocol] for protocol in protocols}

        def run(passes: int) -> None:
            for _ in range(passes):
                evaluator.run(data, views, states)

        return Side(name, len(data.val_records), run)

    names = recipe.protocol_names(config, "all")
    largest = _largest_protocol(config, names)
    return [side("one pass", names), side(largest, [largest])]


# Models against PyTorch --------------------------------------------------------------------------

TWIN_RATIOS = (("evaluation", "evaluation, PyTorch"), ("step", "step, PyTorch"))

# The first pattern that fits: largest ratios of processor time that are wanted, of an evaluation
# and of a training step. XLA's convolutions of many groups have no fast form on a CPU.
GOALS = (
    ("*_resnext*", 1.2, 12.0),
    ("*_mobileone*", 2.0, 1.5),
    ("tpn_*", 1.2, 1.5),
    ("*_resnet*", 0.8, 1.0),
    ("*", 1.2, 1.5),
)
# A shift has no products, so a step of TSM should take little longer than one of TSN.
TSM_AND_TSN = ("tsm_resnet50", "tsn_resnet50")
TSM_GOAL = 1.15


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of the clips that models are measured with."""

    clips: int
    frames: int
    pixels: int


def model_stepper(
    name: str, shape: Shape, **options: Any
) -> tuple[Stepper, dict[str, jax.Array], ConfigDict]:
    """Training of a model on the first device, a batch of noise, and the configuration."""
    config = base(dataset="synthetic", model=name, num_classes=_NUM_CLASSES)
    config.model.update(num_segments=shape.frames, **options)
    config.train.batch = shape.clips
    # The rate does not matter for speed; a tiny one keeps the two side by side, step after step.
    config.optim.update(lr=1e-6, schedule="constant", clip_norm=0.0)
    stepper = Stepper(config, make_mesh(jax.devices()[:1]), num_videos=shape.clips)
    rng = np.random.default_rng(0)
    size = (shape.clips, shape.frames, shape.pixels, shape.pixels, 3)
    pictures = rng.integers(0, 256, size, np.uint8)
    labels = rng.integers(0, _NUM_CLASSES, shape.clips)
    batch = {"clip": jnp.asarray(pictures), "label": jnp.asarray(labels, jnp.int32)}
    return stepper, batch, config


def twin_sides(name: str, shape: Shape, **options: Any) -> list[Side]:
    """Evaluation and training step of a model, ours and its twin's, from the same weights.

    Args:
        name: of the model.
        shape: of the clips.
        **options: of the model.
    """
    from trn_jax.twins import create_twin, torch

    # Numbers too small to be normal slow PyTorch down a hundredfold; XLA takes them for 0 anyway.
    torch.set_flush_denormal(True)
    stepper, batch, config = model_stepper(name, shape, **options)
    twin = create_twin(**config.model)
    stepper.load({name: value.numpy() for name, value in twin.state_dict().items()})
    optimizer = torch.optim.SGD(
        twin.parameters(), config.optim.lr, config.optim.momentum, 0, config.optim.weight_decay
    )
    torch_clips = torch.from_numpy(np.array(batch["clip"]))
    torch_labels = torch.from_numpy(np.array(batch["label"], np.int64))
    score = jax.jit(partial(evaluate.score_clips, graph=stepper.graph))
    clips = batch["clip"]
    examples = np.arange(len(clips), dtype=np.int32)

    def evaluation(steps: int) -> np.ndarray:
        for _ in range(steps):
            logits = jax.block_until_ready(score(stepper.state.model, clips, examples))
        return np.asarray(logits)

    def torch_evaluation(steps: int) -> np.ndarray:
        twin.eval()
        with torch.inference_mode():
            for _ in range(steps):
                logits = twin(torch_clips)
        return logits.numpy()

    def step(steps: int) -> float:
        return float(stepper([batch] * steps)["loss"])

    def torch_step(steps: int) -> float:
        cross_entropy = torch.nn.functional.cross_entropy
        twin.train()
        for _ in range(steps):
            optimizer.zero_grad()
            logits, auxiliary = twin.outputs(torch_clips)
            loss = cross_entropy(logits, torch_labels)
            if auxiliary is not None:
                loss = loss + twin.auxiliary_weight * cross_entropy(auxiliary, torch_labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    return [
        Side("evaluation", shape.clips, evaluation),
        Side("evaluation, PyTorch", shape.clips, torch_evaluation),
        Side("step", shape.clips, step),
        Side("step, PyTorch", shape.clips, torch_step),
    ]


def step_side(name: str, shape: Shape) -> Side:
    """The training step of a model alone, as a side of its name."""
    stepper, batch, _ = model_stepper(name, shape)
    return Side(name, shape.clips, lambda steps: stepper([batch] * steps))


def compare_models(names: Sequence[str], shape: Shape, *, rounds: int, steps: int) -> str:
    """Measure one model after the other, print their tables, and return a summary.

    Args:
        names: of the models.
        shape: of the clips.
        rounds: turns of each side.
        steps: batches per turn.
    """
    lines = [f"{'CPU time / PyTorch':26}{'evaluation':>26}{'goal':>9}{'step':>26}{'goal':>9}"]
    for name in names:
        found = measure(twin_sides(name, shape), rounds=rounds, steps=steps)
        goals = next(wanted for pattern, *wanted in GOALS if fnmatch.fnmatchcase(name, pattern))
        print(f"\n{name}\n{table(found, dict(zip(TWIN_RATIOS, goals, strict=True)))}", flush=True)
        line = f"{name:26}"
        for (own, other), goal in zip(TWIN_RATIOS, goals, strict=True):
            ratios = _spread(cost_ratios(found[own], found[other]))
            line += f"{ratios:>26}{f'<= {goal:.3g}':>9}"
        lines.append(line)
        _release()
    if set(TSM_AND_TSN) <= set(names):
        sides = [step_side(name, shape) for name in TSM_AND_TSN]
        found = measure(sides, rounds=rounds, steps=steps)
        text = table(found, {TSM_AND_TSN: TSM_GOAL})
        lines += ["", "training step of TSM and TSN", text]
    return "\n".join(lines)


def _release() -> None:
    """Give back what the last model has taken: two models beside each other may not fit."""
    jax.clear_caches()
    gc.collect()


# The command -------------------------------------------------------------------------------------

_RATIOS = {
    "step": (),
    "both": (("both", "step"), ("both", "data")),
}


def main(_: Sequence[str]) -> None:
    """Do what the flags say."""
    what, rounds = _WHAT.value, _ROUNDS.value
    processors = sorted(os.sched_getaffinity(0))
    threads = _THREADS.value or len(processors)
    if threads > len(processors):
        raise UserError(f"--threads={threads}: this process may use {len(processors)} processors")
    os.sched_setaffinity(0, processors[:threads])  # XLA starts one thread per processor
    print(_machine())
    print(f"{what}, {threads} threads, {rounds} rounds: median (smallest..largest)", flush=True)
    if what in ("models", "torch"):
        _main_of_models("tsn_resnet50" if what == "torch" else _MODELS.value, threads, rounds)
        return
    if _CONFIG.value is None:
        raise UserError(f"--what={what} needs --config=configs/trn_synthetic.py or alike")
    if what in ("eval", "views"):
        make, goal = (evaluation_sides, None) if what == "eval" else (views_sides, 1 / 3)
        sides = make(_CONFIG.value, _WORKDIR.value)
        turns = measure(sides, rounds=rounds, steps=_STEPS.value or 1)
        print(table(turns, {(sides[0].name, sides[1].name): goal}, unit="video"))
        return
    with ExitStack() as stack:
        if what == "data":
            sides, pairs = data_sides(_CONFIG.value, _WORKDIR.value, _OTHERS.value, stack)
        else:
            sides = training_sides(_CONFIG.value, _WORKDIR.value, stack)
            pairs = dict.fromkeys(_RATIOS[what])
            sides = [side for side in sides if what in ("both", side.name)]
        print(table(measure(sides, rounds=rounds, steps=_STEPS.value or 10), pairs))


def _machine() -> str:
    """The processor, and versions of what decides about speed."""
    named = []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            named = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    for package in ("jax", "numpy", "opencv-python-headless", "simplejpeg", "av", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{named[0] if named else platform.machine()}; {', '.join(versions)}"


def _main_of_models(pattern: str, threads: int, rounds: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    from trn_jax.twins import torch

    names = list_models(pattern)
    if not names:
        raise UserError(f"no model is called {pattern!r}; there are {', '.join(list_models())}")
    torch.set_num_threads(threads)
    shape = Shape(_CLIPS.value, _FRAMES.value, _PIXELS.value)
    print("\n" + compare_models(names, shape, rounds=rounds, steps=_STEPS.value or 1))


def _parse(arguments: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(arguments)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"wrong flag or recipe: {error}") from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
