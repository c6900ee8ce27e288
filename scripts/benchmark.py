"""Benchmarks the parts of a recipe, and models and training steps against PyTorch.

    python scripts/benchmark.py --config=configs/trn_synthetic.py --what=both
    python scripts/benchmark.py --config=configs/tsn_k400_3seg.py --config.data_dir=... --what=eval
    python scripts/benchmark.py --config=configs/trn_sthv1.py --config.data_dir=... --what=data
    python scripts/benchmark.py --what=torch
    python scripts/benchmark.py --what=models --models='tsm_*' --rounds=3
    python scripts/benchmark.py --what=train --recipes=trn_sthv1,tsm_k400
    python scripts/benchmark.py --what=protocol --config=configs/tsn_k400_3seg.py --protocol=25x10
    python scripts/benchmark.py --what=stream --models=tsm_resnet50

`--what`:

step: training steps on a batch that is already on the device.
both: steps, the data pipeline, and training as it is: steps on the clips of the pipeline; and the
    headspace (steps on a replayed batch), the time of a clip for each part, and advice.
data: the stages of the pipeline. Files are read, decoded and cropped in one thread; clips are
    batched, moved to the devices, and read in worker processes. Compared with a lower bound, with a
    PyTorch `DataLoader` that does the same with OpenCV, and with other forms of the same videos,
    such as records (`--other_data_dir`).
views: reads the clips of the protocol with the most pixels, and crops them with OpenCV and NumPy
    for comparison.
eval: evaluates the validation list by all protocols in one pass, and by the largest one alone.
predict: the timeline of a long film against decoding it once and one pass of the backbone per
    sampled frame (goal for the ratio of CPU time: 1.15); the age of answers to a camera; and
    prediction of the validation videos against their evaluation (1 / 0.95). The weights are random.
models: evaluation and training step of one model after the other, against eager PyTorch
    (`trn_jax.torch_models`) with the same weights, batch and threads; then the step of TSM against
    that of TSN.
torch: short for `--what=models --models=tsn_resnet50`.
stream: one more frame of a stream, for `--models`, by default tsm_resnet50: a step against the
    backbone on one frame (goal for the ratio of CPU time: 1.1), and against a clip of the last
    frames (1 / 6 of 8 frames).
export: exported models in onnxruntime, for `--models`, by default tsm_resnet50 and trn_resnet50,
    against PyTorch's own export of the same weights (goal for the ratio of CPU time: 1.05; needs
    PyTorch and onnxscript, else it is left out), and against the jitted model. 8 frames of 224
    pixels, one clip.
protocol: inference time of the published tables, without reading and preprocessing: scores all
    views of one video of noise by `--protocol`, by default the one with the most pixels. No data
    set is needed. As in evaluation, at most `eval.max_views_per_step` clips move to the device at a
    time, and their scores are merged. Peak memory is that of the device, or of the process where
    the device doesn't count it. Published numbers are for one GPU: set `CUDA_VISIBLE_DEVICES=0`.
train: training steps of published recipes, or of `--config`, on the first device, a GPU if JAX
    finds one: the published batch of noise clips in bfloat16 (`--dtype`), against PyTorch with the
    same weights, channels-last memory and `torch.autocast`, eager and compiled (`--pytorch`).
    Without PyTorch, only JAX is timed. Each recipe runs in a new process, in which JAX and PyTorch
    get half of the GPU memory each (with `--pytorch=`, JAX gets 90 %; XLA settings in the
    environment take precedence). A batch that doesn't fit is halved until it does, unless `--batch`
    sets it. Besides clips per second, it reports peak bytes (JAX on a CPU: as planned by the
    compiler) and the fraction of the memory bandwidth, which is that of adding 1 to a large array,
    if each activation moved 14 times per step (28 bytes in bfloat16). `--batch`, `--frames` and
    `--pixels` make a dry run small. `--record` keeps all numbers and versions.

On a GPU with a data set, also run `--what=both --steps=50`, which shows what the loader adds to a
step (`both / step`; the goal is at least 0.95, and short turns are distorted because they end with
full buffers), and `--what=eval --config.eval.max_views_per_step=64` with at least 1,000 validation
videos, where the row `25x10` counts.

Everything that is compared takes turns within one run, forwards and backwards, so that other work
on the machine affects all alike. It affects clips per second, but hardly the CPU time per clip,
summed over all threads, for which the goals are. Numbers are medians over the rounds, with minimum
and maximum; ratios are taken per round. PyTorch's threads wait for each other at full load, and
other work prolongs that: `--threads=1` compares the work alone. On a GPU, compare clips per second.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from benchmarks import (
    evaluation,
    exports,
    headspace,
    loading,
    machine,
    measurement,
    models,
    prediction,
    protocol,
    recipes,
    stream,
    training,
)
from benchmarks.turns import measure, table
from trn_jax import list_models
from trn_jax.data import memory
from trn_jax.errors import UserError
from trn_jax.recipe_flags import exit_with_help, loaded, parse, recipe_name

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, by name or path; not for --what=models."
)
_WHAT = flags.DEFINE_enum(
    "what",
    "both",
    [
        *("data", "step", "both", "train", "views", "eval", "predict", "protocol"),
        *("models", "torch", "stream", "export"),
    ],
    "What to measure.",
)
_MODELS = flags.DEFINE_string(
    "models",
    None,
    "With --what=models, stream and export: names or patterns, such as 'tsm_*,trn_resnet50'.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/benchmark", "As in training: the synthetic data set is beside this folder."
)
_OTHERS = flags.DEFINE_multi_string(
    "other_data_dir", [], "With --what=data: the same videos in another form; may be repeated."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each side.", lower_bound=1)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Batches per turn (videos for protocol, passes for eval and views). Default: 10; 1 for models, "
    "eval and views, and on a CPU for train and protocol.",
    lower_bound=1,
)
_PROTOCOL = flags.DEFINE_string(
    "protocol", "", "With --what=protocol: a protocol of the recipe; by default its largest."
)
_THREADS = flags.DEFINE_integer("threads", None, "CPUs to use; default: all.", lower_bound=1)
_CLIPS = flags.DEFINE_integer("clips", 1, "With --what=models: clips per batch.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", None, "With --what=train: clips per batch; default: as published.", lower_bound=1
)
_FRAMES = flags.DEFINE_integer(
    "frames",
    None,
    "Frames per clip: 8 for models, stream and export, the recipe's for train.",
    lower_bound=1,
)
_PIXELS = flags.DEFINE_integer(
    "pixels",
    None,
    "Side of a frame: 224 for models, stream and export, the recipe's for train.",
    lower_bound=32,
)
_RECIPES = flags.DEFINE_list(
    "recipes", list(recipes.RECIPES), "With --what=train and without --config: names of recipes."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "With --what=train: dtype of the computation."
)
_PYTORCH = flags.DEFINE_list(
    "pytorch",
    list(recipes.PYTORCH),
    "With --what=train: PyTorch modes to compare with; empty: none.",
)
_SECONDS = flags.DEFINE_integer(
    "seconds", 120, "With --what=predict: length of the film.", lower_bound=1
)
_RECORD = flags.DEFINE_string(
    "record", None, "With --what=train, both, protocol: append JSON lines, by recipe, to this file."
)

# With the goal for the ratio of CPU time.
_VIDEO_SIDES = {
    "eval": (evaluation.evaluation_sides, None),
    "views": (evaluation.views_sides, 1 / 3),
}
_RATIOS = {
    "step": (),
    "both": (("both", "step"), ("both", "data"), ("both", "replayed")),
}


def main(_: Sequence[str]) -> None:
    """Entry point."""
    memory.keep()  # as in training; PyTorch profits, too
    what, rounds = _WHAT.value, _ROUNDS.value
    processors = sorted(os.sched_getaffinity(0))
    threads = _THREADS.value or len(processors)
    if threads > len(processors):
        raise UserError(f"--threads={threads}: only {len(processors)} CPUs are available")
    os.sched_setaffinity(0, processors[:threads])  # XLA starts one thread per processor
    print(machine.describe())
    print(f"{what}, {threads} threads, {rounds} rounds: median (smallest..largest)", flush=True)
    if what in ("models", "torch"):
        _run_models("tsn_resnet50" if what == "torch" else _MODELS.value or "*", threads, rounds)
        return
    if what == "train":
        _run_recipes(threads, rounds)
        return
    if what == "stream":
        _run_streams(_MODELS.value or "tsm_resnet50", rounds)
        return
    if what == "export":
        _run_exports(_models(_MODELS.value) if _MODELS.value else exports.MODELS, threads, rounds)
        return
    if _CONFIG.value is None:
        raise UserError(f"--what={what} needs a recipe, such as --config=configs/trn_synthetic.py")
    if what == "protocol":
        name, steps = _PROTOCOL.value, _STEPS.value
        measured = protocol.measure_protocol(_CONFIG.value, name, rounds=rounds, steps=steps)
        print(measured)
        _record({"recipe": recipe_name(flags.FLAGS)} | measured.record())
        return
    if what == "predict":
        _run_prediction(_CONFIG.value, rounds)
        return
    if what in _VIDEO_SIDES:
        make, goal = _VIDEO_SIDES[what]
        sides = make(_CONFIG.value, _WORKDIR.value)
        turns = measure(sides, rounds=rounds, steps=_STEPS.value or 1)
        print(table(turns, {(sides[0].name, sides[1].name): goal}, unit="video"))
        return
    with ExitStack() as stack:
        if what == "data":
            sides, pairs = loading.data_sides(_CONFIG.value, _WORKDIR.value, _OTHERS.value, stack)
        else:
            found = training.training_of(_CONFIG.value, _WORKDIR.value, stack)
            pairs = dict.fromkeys(_RATIOS[what])
            sides = [side for side in found.sides if what in ("both", side.name)]
            if what == "both":
                more = headspace.headspace_sides(found.data, found.stepper, found.mesh, stack)
                sides = more + sides
        turns = measure(sides, rounds=rounds, steps=_STEPS.value or 10)
        print(table(turns, pairs))
        if what == "both":
            result = headspace.headspace_of(turns, _CONFIG.value, found.data)
            print(result)
            _record({"recipe": recipe_name(flags.FLAGS)} | result.record())


def _run_prediction(config: ConfigDict, rounds: int) -> None:
    steps = _STEPS.value or 1
    with tempfile.TemporaryDirectory() as folder:
        sides = prediction.timeline_sides(config, folder, _SECONDS.value)
        turns = measure(sides, rounds=rounds, steps=steps)
        print(table(turns, {(sides[0].name, sides[1].name): 1.15}, unit="window"), flush=True)
    print("\n" + prediction.live_ages(config), flush=True)
    sides = prediction.folder_sides(config, _WORKDIR.value)  # the only part that needs the data set
    turns = measure(sides, rounds=rounds, steps=steps)
    print("\n" + table(turns, {(sides[0].name, sides[1].name): 1 / 0.95}, unit="video"))


def _run_models(patterns: str, threads: int, rounds: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    from trn_jax.torch_models import torch

    names = _models(patterns)
    torch.set_num_threads(threads)
    shape = models.Shape(_CLIPS.value, _FRAMES.value or 8, _PIXELS.value or 224)
    print("\n" + models.compare_models(names, shape, rounds=rounds, steps=_STEPS.value or 1))


def _run_streams(patterns: str, rounds: int) -> None:
    frames, pixels = _FRAMES.value or 8, _PIXELS.value or 224
    for name in _models(patterns):
        sides = stream.stream_sides(name, frames=frames, pixels=pixels)
        turns = measure(sides, rounds=rounds, steps=_STEPS.value or 10)
        text = table(turns, stream.goals(frames), unit="frame")
        print(f"\n{name}, {frames} x {pixels} x {pixels}\n{text}", flush=True)
        models.release()


def _run_exports(names: Sequence[str], threads: int, rounds: int) -> None:
    frames, pixels = _FRAMES.value or 8, _PIXELS.value or 224
    for name in names:
        sides = exports.export_sides(name, frames=frames, pixels=pixels, threads=threads)
        turns = measure(sides, rounds=rounds, steps=_STEPS.value or 1)
        text = table(turns, exports.goals(sides))
        print(f"\n{name}, {frames} x {pixels} x {pixels}\n{text}", flush=True)
        models.release()


def _models(patterns: str) -> list[str]:
    """The models that patterns, separated by commas, stand for, in their order."""
    names: dict[str, None] = {}
    for pattern in filter(None, patterns.split(",")):
        found = list_models(pattern)
        if not found:
            raise UserError(
                f"--models={pattern}: no such model; expected some of {', '.join(list_models())}"
            )
        names |= dict.fromkeys(found)
    if not names:
        raise UserError(f"--models={patterns} names no model, such as --models=tsm_resnet50")
    return list(names)


def _run_recipes(threads: int, rounds: int) -> None:
    unknown = sorted(set(_PYTORCH.value) - set(recipes.PYTORCH))
    if unknown:
        raise UserError(
            f"--pytorch={','.join(unknown)}: expected some of {', '.join(recipes.PYTORCH)}"
        )
    if _CONFIG.value is None:
        chosen = {name: recipes.load(name) for name in _RECIPES.value}
    else:
        chosen = {recipe_name(flags.FLAGS): _CONFIG.value}
    changes = dict(batch=_BATCH.value, frames=_FRAMES.value, pixels=_PIXELS.value)
    configs = {}
    for name, config in chosen.items():
        try:
            configs[name] = recipes.adapt(config, dtype=_DTYPE.value, **changes)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    recipes.share_memory(os.environ, with_pytorch=bool(_PYTORCH.value))
    failed = []
    for name, found in recipes.compare(
        configs,
        halve=_BATCH.value is None,
        rounds=rounds,
        steps=_STEPS.value,
        threads=threads,
        pytorch=_PYTORCH.value,
    ):
        if isinstance(found, UserError):
            failed.append(name)
            print(f"\n{name}: {found}", flush=True)
            continue
        print(f"\n{measurement.table(name, found)}", flush=True)
        _record({"recipe": name} | found.record())
    if failed:
        raise UserError(f"not measured: {', '.join(failed)}; see above")


def _record(line: dict[str, Any]) -> None:
    """Append a line to the file of `--record`, if there is one."""
    if _RECORD.value is not None:
        with open(_RECORD.value, "a") as file:
            file.write(json.dumps(line) + "\n")


def _parse(arguments: list[str]) -> list[str]:
    exit_with_help(arguments, __doc__ or "")
    rest: list[str] = parse(flags.FLAGS, arguments)
    loaded(_CONFIG.value, flags.FLAGS)
    return rest


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
