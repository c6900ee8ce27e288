"""Models against PyTorch on the CPU, one after the other."""

import dataclasses
import fnmatch
import gc
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.torch_step import TorchStepper
from benchmarks.training import Stepper
from benchmarks.turns import Side, cost_ratios, measure, spread, table
from trn_jax.config import base
from trn_jax.distributed.sharding import make_mesh
from trn_jax.evaluation import scoring

_NUM_CLASSES = 174
RATIOS = (("evaluation", "evaluation, PyTorch"), ("step", "step, PyTorch"))

# By the first matching pattern: goals for the ratio of CPU time, of evaluation and training step.
# XLA has no fast grouped convolutions on CPUs.
GOALS = (
    ("*_resnext*", 1.2, 12.0),
    ("*_mobileone*", 2.0, 1.5),
    ("tpn_*", 1.2, 1.5),
    ("*_resnet*", 0.8, 1.0),
    ("*", 1.2, 1.5),
)
# Shifts need no FLOPs, so a step of TSM should take little longer than one of TSN.
TSM_AND_TSN = ("tsm_resnet50", "tsn_resnet50")
TSM_GOAL = 1.1


@dataclasses.dataclass(frozen=True)
class Shape:
    """Batch and size of the clips that models are measured with."""

    clips: int
    frames: int
    pixels: int


def model_stepper(
    name: str, shape: Shape, **options: Any
) -> tuple[Stepper, dict[str, jax.Array], ConfigDict]:
    """A `Stepper` on the first device, a batch of noise and the configuration."""
    config = base(dataset="synthetic", model=name, num_classes=_NUM_CLASSES)
    config.model.update(num_segments=shape.frames, **options)
    config.train.batch = shape.clips
    # A tiny learning rate keeps both models at the same weights.
    config.optim.update(lr=1e-6, schedule="constant", clip_norm=0.0)
    stepper = Stepper(config, make_mesh(jax.devices()[:1]), num_videos=shape.clips)
    rng = np.random.default_rng(0)
    size = (shape.clips, shape.frames, shape.pixels, shape.pixels, 3)
    frames = rng.integers(0, 256, size, np.uint8)
    labels = rng.integers(0, _NUM_CLASSES, shape.clips)
    batch = {"clip": jnp.asarray(frames), "label": jnp.asarray(labels, jnp.int32)}
    return stepper, batch, config


def model_sides(name: str, shape: Shape, **options: Any) -> list[Side]:
    """Evaluation and training step of a model in JAX and PyTorch, from the same weights.

    Args:
        name: of the model.
        shape: of the clips.
        **options: of the model.
    """
    stepper, batch, config = model_stepper(name, shape, **options)
    torch_stepper = TorchStepper(config, np.array(batch["clip"]), np.array(batch["label"]))
    stepper.load(torch_stepper.weights())
    score = jax.jit(partial(scoring.score_clips, graph=stepper.graph))
    clips = batch["clip"]
    examples = np.arange(len(clips), dtype=np.int32)

    def evaluation(steps: int) -> np.ndarray:
        for _ in range(steps):
            logits = jax.block_until_ready(score(stepper.state.model, clips, examples))
        return np.asarray(logits)

    def step(steps: int) -> float:
        return float(stepper([batch] * steps)["loss"])

    return [
        Side("evaluation", shape.clips, evaluation),
        Side("evaluation, PyTorch", shape.clips, torch_stepper.evaluate),
        Side("step", shape.clips, step),
        Side("step, PyTorch", shape.clips, torch_stepper),
    ]


def step_side(name: str, shape: Shape) -> Side:
    """The training step of a model in JAX."""
    stepper, batch, _ = model_stepper(name, shape)
    return Side(name, shape.clips, lambda steps: stepper([batch] * steps))


def compare_models(names: Sequence[str], shape: Shape, *, rounds: int, steps: int) -> str:
    """Measure models one after the other and print their tables; returns a summary.

    Args:
        names: of the models.
        shape: of the clips.
        rounds: turns of each side.
        steps: batches per turn.
    """
    lines = [f"{'CPU time / PyTorch':26}{'evaluation':>26}{'goal':>9}{'step':>26}{'goal':>9}"]
    for name in names:
        found = measure(model_sides(name, shape), rounds=rounds, steps=steps)
        goals = next(wanted for pattern, *wanted in GOALS if fnmatch.fnmatchcase(name, pattern))
        print(f"\n{name}\n{table(found, dict(zip(RATIOS, goals, strict=True)))}", flush=True)
        line = f"{name:26}"
        for (own, other), goal in zip(RATIOS, goals, strict=True):
            ratios = spread(cost_ratios(found[own], found[other]))
            line += f"{ratios:>26}{f'<= {goal:.3g}':>9}"
        lines.append(line)
        release()
    if set(TSM_AND_TSN) <= set(names):
        sides = [step_side(name, shape) for name in TSM_AND_TSN]
        found = measure(sides, rounds=rounds, steps=steps)
        text = table(found, {TSM_AND_TSN: TSM_GOAL})
        lines += ["", "training step of TSM and TSN", text]
    return "\n".join(lines)


def release() -> None:
    """Free the memory of the last model: two models may not fit."""
    jax.clear_caches()
    gc.collect()
