"""Speed of a recipe's parts on this machine, and of models and training steps against PyTorch.

    python scripts/benchmark.py --config=configs/trn_synthetic.py --what=both
    python scripts/benchmark.py --config=configs/tsn_k400_3seg.py --config.data_dir=... --what=eval
    python scripts/benchmark.py --config=configs/trn_sthv1.py --config.data_dir=... --what=data
    python scripts/benchmark.py --what=torch
    python scripts/benchmark.py --what=models --models='tsm_*' --rounds=3
    python scripts/benchmark.py --what=train --recipes=trn_sthv1,tsm_k400
    python scripts/benchmark.py --what=protocol --config=configs/tsn_k400_3seg.py --protocol=25x10

`--what=step` takes training steps on a batch that is on the device already; `--what=both` measures
these and the data pipeline, and training as it is: steps on the clips that the pipeline delivers
meanwhile. `--what=data` takes the pipeline apart: files are read, and decoded, and cropped, in one
thread; clips come as batches, and on the devices; in worker processes, too. It is compared with the
least that has to be done, with a `DataLoader` of PyTorch that does the same with OpenCV, and with
the same videos in other forms, such as records (`--other_data_dir`).

`--what=views` reads the clips of the protocol that shows the model most pixels, and compares that
with cutting them with OpenCV and NumPy. `--what=eval` evaluates the validation list by all
protocols in one pass, and by that one. `--what=models` compares evaluation and training step of one
model after the other with its twin in PyTorch (`trn_jax.torch_models`), in eager mode: the same
weights, batch and number of threads; then the training step of TSM with that of TSN. `--what=torch`
is short for `--what=models --models=tsn_resnet50`. Goals that are named are those for the processor
time.

`--what=protocol` scores all views of one video, by `--protocol` or by the protocol of the recipe
that shows the model most pixels: the inference time of the published tables, which leaves out
reading and preprocessing. The video is noise; no data set is needed. As in an evaluation, clips
move to the device, at most `eval.max_views_per_step` at a time, and their scores are merged. The
peak memory is that of the device, or, where it keeps no count, of the process. The published
numbers are of one GPU, so let JAX see one (`CUDA_VISIBLE_DEVICES=0`).

`--what=train` takes the training steps of published recipes, or of the one of `--config`, on the
first device, a GPU if JAX finds one: with the published batch, on clips of noise that are there
already, in bfloat16 (`--dtype`). They are compared with those of the twins in PyTorch, with the
same weights, the channels last in memory and `torch.autocast`, in eager mode and compiled by
`torch.compile` (`--pytorch`). Without PyTorch, ours are timed alone. Each recipe has a process of
its own, in which each of JAX and PyTorch has half of a GPU's memory (with `--pytorch=` JAX has nine
tenths; settings of JAX in the environment count for more); if its batch does not fit, half of it is
taken, or a quarter, ..., unless `--batch` was given. Besides clips per second there are the bytes
that each side took at most (ours on a CPU: as the compiler plans), and the share of the memory
bandwidth: of that of adding 1 to a large array on the same device, if each activation moved 14
times in a step, which is 28 bytes in bfloat16. Smaller clips (`--batch`, `--frames`, `--pixels`)
are for a dry run. `--record` keeps all numbers, with versions.

What else matters on a GPU takes a data set: `--what=both --steps=50` with
`--config.model.dtype=bfloat16` for what the loader adds to a step on clips that are there already
(`both / step`, at least 0.95 is wanted; turns end with full buffers, which shows in short ones),
and `--what=eval` with `--config.model.dtype=bfloat16 --config.eval.max_views_per_step=64` and a
validation list of at least 1,000 videos for videos per second, of which the row `25x10` is the one
that counts.

What is compared takes turns within one run, forwards and backwards, so that other work on the
machine hits all alike. Clips per second suffer from such work all the same; the processor time per
clip, summed over all threads, hardly does. Every number is a median over the rounds, with the
smallest and the largest one; ratios are taken round by round. PyTorch's threads wait for each
other at full load, which other work on the machine prolongs: `--threads=1` compares the work alone.
On a GPU the processor only waits, so clips per second are what counts there.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks import evaluation, loading, machine, models, protocol, recipes, training
from benchmarks.turns import measure, table
from trn_jax import list_models
from trn_jax.data import memory
from trn_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe; not for --what=models.")
_WHAT = flags.DEFINE_enum(
    "what",
    "both",
    ["data", "step", "both", "train", "views", "eval", "protocol", "models", "torch"],
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
    "Batches (or, for protocol, videos) per turn, 10 by default, 1 for models and, on a CPU, for "
    "train and protocol; passes per turn, 1 by default, for eval.",
    lower_bound=1,
)
_PROTOCOL = flags.DEFINE_string(
    "protocol", "", "With --what=protocol: a protocol of the recipe; by default its largest."
)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Use so many of the processors; all by default.", lower_bound=1
)
_CLIPS = flags.DEFINE_integer("clips", 1, "With --what=models: clips per batch.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", None, "With --what=train: clips per batch; as published by default.", lower_bound=1
)
_FRAMES = flags.DEFINE_integer(
    "frames", None, "Frames per clip: 8 for models, the recipe's for train.", lower_bound=1
)
_PIXELS = flags.DEFINE_integer(
    "pixels", None, "Side of a frame: 224 for models, the recipe's for train.", lower_bound=32
)
_RECIPES = flags.DEFINE_list(
    "recipes", list(recipes.RECIPES), "With --what=train and without --config: names of recipes."
)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "With --what=train: of the computation."
)
_TWINS = flags.DEFINE_list(
    "pytorch",
    list(recipes.TWINS),
    "With --what=train: compare with PyTorch 'eager', 'compiled', or, if empty, not at all.",
)
_RECORD = flags.DEFINE_string(
    "record", None, "With --what=train: a file that gets a line of JSON for every recipe."
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
    memory.keep()  # as trainings have it; PyTorch profits too
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
    if what == "train":
        _main_of_recipes(threads, rounds)
        return
    if _CONFIG.value is None:
        raise UserError(f"--what={what} needs --config=configs/trn_synthetic.py or alike")
    if what == "protocol":
        name, steps = _PROTOCOL.value, _STEPS.value
        print(protocol.measure_protocol(_CONFIG.value, name, rounds=rounds, steps=steps))
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
            sides = training.training_sides(_CONFIG.value, _WORKDIR.value, stack)
            pairs = dict.fromkeys(_RATIOS[what])
            sides = [side for side in sides if what in ("both", side.name)]
        print(table(measure(sides, rounds=rounds, steps=_STEPS.value or 10), pairs))


def _main_of_models(pattern: str, threads: int, rounds: int) -> None:
    jax.config.update("jax_platforms", "cpu")
    from trn_jax.torch_models import torch

    names = list_models(pattern)
    if not names:
        raise UserError(f"no model is called {pattern!r}; there are {', '.join(list_models())}")
    torch.set_num_threads(threads)
    shape = models.Shape(_CLIPS.value, _FRAMES.value or 8, _PIXELS.value or 224)
    print("\n" + models.compare_models(names, shape, rounds=rounds, steps=_STEPS.value or 1))


def _main_of_recipes(threads: int, rounds: int) -> None:
    unknown = sorted(set(_TWINS.value) - set(recipes.TWINS))
    if unknown:
        raise UserError(
            f"--pytorch={','.join(unknown)}: expected some of {', '.join(recipes.TWINS)}"
        )
    if _CONFIG.value is None:
        chosen = {name: recipes.load(name) for name in _RECIPES.value}
    else:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        chosen = {os.path.splitext(os.path.basename(path))[0]: _CONFIG.value}
    changes = dict(batch=_BATCH.value, frames=_FRAMES.value, pixels=_PIXELS.value)
    configs = {}
    for name, config in chosen.items():
        try:
            configs[name] = recipes.adapt(config, dtype=_DTYPE.value, **changes)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    recipes.share_memory(os.environ, with_pytorch=bool(_TWINS.value))
    failed = []
    for name, found in recipes.compare(
        configs,
        halve=_BATCH.value is None,
        rounds=rounds,
        steps=_STEPS.value,
        threads=threads,
        twins=_TWINS.value,
    ):
        if isinstance(found, UserError):
            failed.append(name)
            print(f"\n{name}: {found}", flush=True)
            continue
        print(f"\n{recipes.table(name, found)}", flush=True)
        if _RECORD.value is not None:
            with open(_RECORD.value, "a") as file:
                file.write(json.dumps({"recipe": name} | found.record()) + "\n")
    if failed:
        raise UserError(f"not measured: {', '.join(failed)}; see above")


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        raise UserError(f"{error}; --helpshort tells of all flags") from None
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"wrong flag or recipe: {error}") from None


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
