"""Speed of a recipe's parts on this machine, and of ResNet-50 against PyTorch on the CPU.

    python scripts/benchmark.py --config=configs/trn_synthetic.py --what=both
    python scripts/benchmark.py --what=torch

`--what=data` reads, decodes and crops the training clips; `--what=step` takes training steps on a
batch that is on the device already; `--what=both` measures these two, and training as it is: steps
on the clips that the pipeline delivers meanwhile. `--what=torch` compares evaluation and training
step of a ResNet-50 with PyTorch in eager mode: the same weights, batch and number of threads.

What is compared takes turns within one run, forwards and backwards, so that other work on the
machine hits all alike. Clips per second suffer from such work all the same; the processor time per
clip, summed over all threads, hardly does. Every number is a median over the rounds, with the
smallest and the largest one; ratios are taken round by round. PyTorch's threads wait for each
other at full load, which other work on the machine prolongs: `--threads=1` compares the work alone.
"""

import dataclasses
import os
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict, config_flags

from trn_jax import create_model, evaluate, recipe, train
from trn_jax.config import base
from trn_jax.devices import DevicePrefetch, make_mesh
from trn_jax.errors import UserError
from trn_jax.models.recognizer import IMAGENET_MEAN, IMAGENET_STD

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe; --what=torch needs none.")
_WHAT = flags.DEFINE_enum("what", "both", ["data", "step", "both", "torch"], "What to measure.")
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/benchmark", "As in training: the synthetic data set lies beside this folder."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Batches per turn; 10 by default, 1 with --what=torch.", lower_bound=1
)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Use so many of the processors; all by default.", lower_bound=1
)
_CLIPS = flags.DEFINE_integer("clips", 1, "With --what=torch: clips per batch.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 8, "With --what=torch: frames per clip.", lower_bound=1)
_PIXELS = flags.DEFINE_integer("pixels", 224, "With --what=torch: side of a frame.", lower_bound=32)

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
            start, used = time.perf_counter(), time.process_time()
            side.run(steps)
            end = side.rest()
            clips = steps * side.clips
            turn = Turn((end - start) / clips, (time.process_time() - used) / clips)
            turns[side.name].append(turn)
    return turns


def rest() -> float:
    """Wait until this process is idle; returns the moment when it became so.

    A turn of a pipeline thereby begins and ends with full buffers, and counts every batch once.
    """
    since, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - since < _QUIET:
        time.sleep(_QUIET / 10)
        if time.process_time() - used > _QUIET / 100:
            since, used = time.perf_counter(), time.process_time()
    return since


def table(turns: dict[str, list[Turn]], ratios: Iterable[tuple[str, str]]) -> str:
    """Describe the turns, and the ratio of some pairs of sides."""
    lines = [f"{'':34}{'clips/s':>32}{'CPU seconds per clip':>32}"]
    for name, own in turns.items():
        rates = _spread([1 / turn.wall for turn in own])
        lines.append(f"{name:34}{rates:>32}{_spread([turn.cpu for turn in own]):>32}")
    for name, other in ratios:
        pairs = list(zip(turns[name], turns[other], strict=True))
        rates = _spread([b.wall / a.wall for a, b in pairs])
        costs = _spread([a.cpu / b.cpu for a, b in pairs])
        lines.append(f"{f'{name} / {other}':34}{rates:>32}{costs:>32}")
    return "\n".join(lines)


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
        self.graph, optimizer, self.state = train.init_state(
            lambda: create_model(**config.model, rngs=nnx.Rngs(config.seed)),
            lambda params: recipe.optimizer(config, params, rate),
            mesh,
        )
        self._mesh = mesh
        self._step = train.jit_train_step(
            mesh,
            graph=self.graph,
            optimizer=optimizer,
            rate=rate,
            seed=config.seed,
            accumulation=config.train.accumulation,
        )

    def load(self, state_dict: dict[str, np.ndarray]) -> None:
        """Start from foreign weights, see `trn_jax.convert`."""
        self.state = train.load_weights(self.graph, self.state, state_dict, self._mesh)

    def __call__(self, batches: Iterable[dict[str, jax.Array]]) -> dict[str, jax.Array]:
        """Take one step per batch, and wait for the last; returns its scalars."""
        for batch in batches:
            self.state, scalars = self._step(self.state, batch)
        jax.block_until_ready(self.state)
        return scalars


def training_sides(config: ConfigDict, workdir: str, stack: ExitStack) -> list[Side]:
    """The data pipeline, the training step, and the two together; `stack` closes them."""
    if config.data.num_workers:
        raise UserError(
            f"data.num_workers={config.data.num_workers}: the processor time of worker processes "
            "cannot be measured; set it to 0"
        )
    mesh = make_mesh()
    recipe.check_batch(config, mesh.size)
    data = recipe.Data(config, workdir)
    stepper = Stepper(config, mesh, len(data.train_records))
    batches = stack.enter_context(closing(data.train_batches(0)))
    prefetch = stack.enter_context(closing(DevicePrefetch(data.train_batches(0), mesh)))
    resident, _ = next(prefetch)

    def deliver(steps: int) -> None:
        for _ in range(steps):
            next(batches)

    def step(steps: int) -> None:
        stepper([resident] * steps)

    def both(steps: int) -> None:
        stepper(arrays for arrays, _ in islice(prefetch, steps))

    clips = config.train.batch
    return [
        Side("data", clips, deliver, rest),
        Side("step", clips, step),
        Side("both", clips, both, rest),
    ]


# ResNet-50 against PyTorch -----------------------------------------------------------------------


def torch_resnet50(torch: Any, num_classes: int) -> Any:
    """TSN with ResNet-50 in PyTorch: maps `[clips, frames, height, width, 3]` to logits.

    Its parameters have mmaction2's names, so that `trn_jax.convert` can read them.
    """
    nn = torch.nn

    def conv_norm(in_channels, channels, kernel, stride=1):
        conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels)))

    class Bottleneck(torch.nn.Module):
        def __init__(self, in_channels, channels, stride):
            super().__init__()
            self.conv1 = conv_norm(in_channels, channels, 1)
            self.conv2 = conv_norm(channels, channels, 3, stride)
            self.conv3 = conv_norm(channels, 4 * channels, 1)
            if stride > 1 or in_channels != 4 * channels:
                self.downsample = conv_norm(in_channels, 4 * channels, 1, stride)
            else:
                self.downsample = nn.Identity()

        def forward(self, x):
            y = self.conv1(x).relu_()
            y = self.conv2(y).relu_()
            y = self.conv3(y)
            y += self.downsample(x)
            return y.relu_()

    class TSN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Module()
            self.backbone.conv1 = conv_norm(3, 64, 7, 2)
            in_channels = 64
            for stage, depth in enumerate((3, 4, 6, 3)):
                channels = 64 * 2**stage
                blocks = []
                for index in range(depth):
                    stride = 2 if stage > 0 and index == 0 else 1
                    blocks.append(Bottleneck(in_channels, channels, stride))
                    in_channels = 4 * channels
                setattr(self.backbone, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.cls_head = nn.Module()
            self.cls_head.fc_cls = nn.Linear(in_channels, num_classes)
            self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), False)
            self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), False)
            self.max_pool = nn.MaxPool2d(3, 2, 1)

        def forward(self, clips):
            x = clips.flatten(0, 1).permute(0, 3, 1, 2)  # channels first in name only
            x = (x.float() - self.mean) / self.std
            backbone = self.backbone
            x = self.max_pool(backbone.conv1(x).relu_())
            x = backbone.layer4(backbone.layer3(backbone.layer2(backbone.layer1(x))))
            x = x.mean((2, 3)).unflatten(0, clips.shape[:2]).mean(1)
            return self.cls_head.fc_cls(x)

    return TSN()


def torch_sides(*, clips: int, frames: int, pixels: int, threads: int) -> list[Side]:
    """Evaluation and training step of ResNet-50, ours and PyTorch's, from the same weights."""
    try:
        import torch
    except ImportError:
        raise UserError("--what=torch needs PyTorch: pip install torch") from None
    torch.set_num_threads(threads)
    # Numbers too small to be normal slow PyTorch down a hundredfold; XLA takes them for 0 anyway.
    torch.set_flush_denormal(True)
    network = torch_resnet50(torch, _NUM_CLASSES).to(memory_format=torch.channels_last)

    config = base(dataset="synthetic", model="tsn_resnet50", num_classes=_NUM_CLASSES)
    config.model.dropout_rate = 0.0
    config.train.batch = clips
    # The rate does not matter for speed; a tiny one keeps the two side by side, step after step.
    config.optim.update(lr=1e-6, schedule="constant", clip_norm=0.0)
    stepper = Stepper(config, make_mesh(jax.devices()[:1]), num_videos=clips)
    stepper.load({name: value.numpy() for name, value in network.state_dict().items()})
    optimizer = torch.optim.SGD(
        network.parameters(), config.optim.lr, config.optim.momentum, 0, config.optim.weight_decay
    )

    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (clips, 1, frames, pixels, pixels, 3), np.uint8)
    labels = rng.integers(0, _NUM_CLASSES, clips)
    batch = {"clip": jnp.asarray(pictures), "label": jnp.asarray(labels, jnp.int32)}
    torch_clips, torch_labels = torch.from_numpy(pictures[:, 0]), torch.from_numpy(labels)
    score = jax.jit(partial(evaluate.eval_step, graph=stepper.graph))

    def evaluation(steps: int) -> np.ndarray:
        for _ in range(steps):
            scores = jax.block_until_ready(score(stepper.state.model, batch["clip"]))
        return np.asarray(scores)

    def torch_evaluation(steps: int) -> np.ndarray:
        network.eval()
        with torch.inference_mode():
            for _ in range(steps):
                scores = network(torch_clips).softmax(-1)
        return scores.numpy()

    def step(steps: int) -> float:
        return float(stepper([batch] * steps)["loss"])

    def torch_step(steps: int) -> float:
        network.train()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(torch_clips), torch_labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    return [
        Side("evaluation", clips, evaluation),
        Side("evaluation, PyTorch", clips, torch_evaluation),
        Side("step", clips, step),
        Side("step, PyTorch", clips, torch_step),
    ]


# The command -------------------------------------------------------------------------------------

_RATIOS = {
    "data": (),
    "step": (),
    "both": (("both", "step"), ("both", "data")),
    "torch": (("evaluation", "evaluation, PyTorch"), ("step", "step, PyTorch")),
}


def main(_: Sequence[str]) -> None:
    """Do what the flags say."""
    what, rounds = _WHAT.value, _ROUNDS.value
    processors = sorted(os.sched_getaffinity(0))
    threads = _THREADS.value or len(processors)
    if threads > len(processors):
        raise UserError(f"--threads={threads}: this process may use {len(processors)} processors")
    os.sched_setaffinity(0, processors[:threads])  # XLA starts one thread per processor
    print(f"{what}, {threads} threads, {rounds} rounds: median (smallest..largest)", flush=True)
    with ExitStack() as stack:
        if what == "torch":
            jax.config.update("jax_platforms", "cpu")
            sides = torch_sides(
                clips=_CLIPS.value, frames=_FRAMES.value, pixels=_PIXELS.value, threads=threads
            )
        else:
            if _CONFIG.value is None:
                raise UserError(f"--what={what} needs --config=configs/trn_synthetic.py or alike")
            sides = training_sides(_CONFIG.value, _WORKDIR.value, stack)
            if what != "both":
                sides = [side for side in sides if side.name == what]
        steps = _STEPS.value or (1 if what == "torch" else 10)
        print(table(measure(sides, rounds=rounds, steps=steps), _RATIOS[what]))


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
