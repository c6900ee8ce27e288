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

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks import evaluation, loading, machine, models, training
from benchmarks.turns import measure, table
from trn_jax import list_models
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

# With the largest ratio of processor time that is wanted.
_VIDEO_SIDES = {
    "eval": (evaluation.evaluation_sides, None),
    "views": (evaluation.views_sides, 1 / 3),
}
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
    print(machine.describe())
    print(f"{what}, {threads} threads, {rounds} rounds: median (smallest..largest)", flush=True)
    if what in ("models", "torch"):
        _main_of_models("tsn_resnet50" if what == "torch" else _MODELS.value, threads, rounds)
        return
    if _CONFIG.value is None:
        raise UserError(f"--what={what} needs --config=configs/trn_synthetic.py or alike")
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
            sides = training.training_sides(_CONFIG.value, _WORKDIR.value, stack)
            pairs = dict.fromkeys(_RATIOS[what])
            sides = [side for side in sides if what in ("both", side.name)]
        print(table(measure(sides, rounds=rounds, steps=_STEPS.value or 10), pairs))


def _main_of_models(pattern: str, threads: int, rounds: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    from trn_jax.twins import torch

    names = list_models(pattern)
    if not names:
        raise UserError(f"no model is called {pattern!r}; there are {', '.join(list_models())}")
    torch.set_num_threads(threads)
    shape = models.Shape(_CLIPS.value, _FRAMES.value, _PIXELS.value)
    print("\n" + models.compare_models(names, shape, rounds=rounds, steps=_STEPS.value or 1))


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
