"""Train, evaluate or calibrate.

    python -m trn_jax.main --config=configs/trn_synthetic.py --workdir=runs/trn
    trn-jax train trn_synthetic --workdir=runs/trn

`--mode=eval --checkpoint=runs/trn` evaluates the newest checkpoint of a training,
`--checkpoint=runs/trn@best` the best one, and `runs/trn@1200` that of step 1200. `--config` is then
optional, because checkpoints contain their configuration; `--config.data.val_list=...` changes a
setting of it. `--mode=calibrate` fits a temperature and thresholds to the scores and stores them in
the checkpoint. `trn-jax --help` lists the commands that prepare data, predict, export and more.

In multi-process runs, every process runs the same command. Slurm, Open MPI, Cloud TPU and
Kubernetes are detected; elsewhere pass `--coordinator_address=<process 0>:<port>
--num_processes=<number> --process_id=<index, from 0>`.
"""

import faulthandler
import functools
import os
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from trn_jax.errors import UserError
from trn_jax.recipe_flags import exit_with_help, loaded, parse, recipe_name
from trn_jax.settings import from_dict
from trn_jax.signals import StopSignals

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: the name of one that comes with the package, or the path of a file."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, logs and results, by default runs/<recipe>; with --mode=eval for "
    "results only, by default that of the training.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "calibrate"], "What to do.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "With --mode=eval or calibrate: a checkpoint; the working directory of a training, for its "
    "newest one; <directory>@best or <directory>@<step>; a hub folder; hf:<user>/<name>.",
)
_PROTOCOL = flags.DEFINE_string(
    "protocol",
    "all",
    "With --mode=eval: names of protocols of the recipe, or all. With --mode=calibrate: one name; "
    "by default the one with the fewest views.",
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "val",
    ["val", "test", "train"],
    "With --mode=eval or calibrate: the split to evaluate; results of a split other than val go to "
    "<workdir>/results/<split>.",
)
_DUMP = flags.DEFINE_string(
    "dump",
    None,
    "With --mode=eval: file for the scores of every video, .npz, .json or .pkl (as mmaction2); "
    "several protocols have one each, <name>_<protocol>.<format>.",
)
_JSON = flags.DEFINE_bool(
    "json", False, "With --mode=eval or calibrate: print JSON instead of tables."
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["auto", "bfloat16", "float32"],
    "With --mode=eval or calibrate: dtype of the computation; auto is bfloat16 on TPUs and on GPUs "
    "that have it, float32 elsewhere. By default model.dtype of the configuration.",
)
_STREAMED = flags.DEFINE_bool(
    "streamed",
    False,
    "With --mode=eval: also evaluate frame by frame, as a stream with frames as far apart as those "
    "of a clip, and report how early videos are recognised.",
)
_POOLING = flags.DEFINE_enum(
    "pooling",
    None,
    ["window", "mean", "exponential"],
    "With --streamed: features that TSN and TSM average: of all frames so far, equally (mean, the "
    "default) or with weights that fall, or of as many as a clip has (window).",
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "In training: record these steps for XProf in <workdir>/profile, such as 10:15, both included.",
)
# The names of jax.distributed.initialize.
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "Multi-process runs: <name or address of process 0>:<port>."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; 1 runs alone, even inside Slurm or MPI."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout",
    300,
    "Seconds to wait until all processes are connected.",
    lower_bound=1,
)
for _name, _former in (
    ("coordinator_address", "coordinator"),
    ("num_processes", "num_hosts"),
    ("process_id", "host"),
    ("initialization_timeout", "hosts_timeout"),
):
    flags.DEFINE_alias(_former, _name)
_IGNORE_CLASS_NAMES = flags.DEFINE_bool(
    "ignore_class_names",
    False,
    "Resume or evaluate although the data names other classes than the checkpoint.",
)
_IGNORE_LISTS = flags.DEFINE_bool(
    "ignore_lists", False, "Resume a training although its lists have changed."
)
_EVALUATIONS = ("eval", "calibrate")
# Flags that the other modes don't use, and what does the same there.
_ONLY_IN = {
    "checkpoint": (_EVALUATIONS, "; --config.init_from={value} starts a training from its weights"),
    "dtype": (_EVALUATIONS, "; --config.model.dtype={value} trains in it"),
    "protocol": (_EVALUATIONS, "; a training is evaluated by all protocols at its end"),
    "split": (_EVALUATIONS, ""),
    "json": (_EVALUATIONS, "; a training writes metrics.jsonl to its --workdir"),
    "dump": (("eval",), ""),
    "streamed": (("eval",), ""),
    "pooling": (("eval",), ""),
    "profile_steps": (("train",), ""),
    "ignore_lists": (("train",), "; --ignore_class_names is for evaluations, too"),
    "workdir": (("eval", "train"), "; a calibration is stored in the checkpoint"),
}


def main(_):
    """Train, evaluate or calibrate."""
    logging.set_verbosity(logging.FATAL)  # again: parsing the flags has reset it
    # After a crash, print the stack of that thread only; absl prints all of them.
    faulthandler.enable(all_threads=False)
    if _MODE.value != "train":
        return _main(None)
    with StopSignals() as signals:  # before what takes long, such as importing JAX
        return _main(signals)


def _main(signals):
    # Imported late, so that a wrong flag is reported at once.
    from trn_jax.data import memory

    memory.keep()  # before the other imports, which start threads
    config, mode = loaded(_CONFIG.value, flags.FLAGS), _MODE.value
    _check_flags(mode, config)
    return _train(config, signals) if mode == "train" else _evaluate(config, mode)


def _check_flags(mode, config):
    if mode == "train" and config is None:
        raise UserError("training needs a recipe: --config=trn_synthetic")
    if mode != "train" and not _CHECKPOINT.value:
        raise UserError(f"--mode={mode} needs --checkpoint=<checkpoint or working directory>")
    for name, (modes, instead) in _ONLY_IN.items():
        flag = flags.FLAGS[name]
        if mode not in modes and flag.value != flag.default:
            shown = f"--{name}" if flag.value is True else f"--{name}={flag.value}"
            needed = f"--mode={' or '.join(modes)}"
            raise UserError(f"{shown} requires {needed}{instead.format(value=flag.value)}")
    if _POOLING.value and not _STREAMED.value:
        raise UserError(f"--pooling={_POOLING.value} requires --streamed")
    if mode == "calibrate":
        from trn_jax.checkpoints import hub

        if hub.is_address(_CHECKPOINT.value):
            raise UserError(
                f"a calibration is stored in the checkpoint, and {_CHECKPOINT.value} is on the "
                "hub: export it to a folder, calibrate that, and push it"
            )


def _train(config, signals):
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.training.loop import train

    profile_steps = _profile_steps(_PROFILE_STEPS.value)
    workdir = _WORKDIR.value or os.path.join("runs", recipe_name(flags.FLAGS))
    _connect_processes()
    keep_programs(workdir)
    return train(
        config,
        workdir,
        profile_steps=profile_steps,
        ignore_lists=_IGNORE_LISTS.value,
        ignore_class_names=_IGNORE_CLASS_NAMES.value,
        signals=signals,
    )


def _evaluate(config, mode):
    """Evaluate or calibrate a checkpoint; returns 1 if videos could not be read."""
    from trn_jax.checkpoints import finding
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.evaluation.calibrate import calibrate
    from trn_jax.evaluation.evaluate import evaluate

    _connect_processes()
    path = _pinned(_CHECKPOINT.value)
    workdir = _WORKDIR.value or finding.workdir_of(path)
    keep_programs(workdir)
    options = dict(ignore_class_names=_IGNORE_CLASS_NAMES.value, split=_SPLIT.value)
    options |= dict(as_json=_JSON.value, dtype=_DTYPE.value)
    of_checkpoint = config, path, workdir
    if mode == "calibrate":
        num_unreadable = calibrate(*of_checkpoint, protocol=_PROTOCOL.value, **options)
    else:
        options |= dict(protocols=_PROTOCOL.value, dump=_DUMP.value)
        options |= dict(streamed=(_POOLING.value or "auto") if _STREAMED.value else None)
        num_unreadable = evaluate(*of_checkpoint, **options)
    return 1 if num_unreadable else 0


def _profile_steps(text):
    """`"10:15"` -> `(10, 15)`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 0 < first <= last:
        raise UserError(
            f"--profile_steps={text} is not <first step>:<last step>, counted from 1, such as 10:15"
        )
    return first, last


def _connect_processes():
    from trn_jax.distributed import processes

    processes.initialize(
        _COORDINATOR_ADDRESS.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        timeout=_INITIALIZATION_TIMEOUT.value,
    )


@functools.cache  # the hub may change while a command runs
def _pinned(path):
    """The checkpoint that a command is about; of an address on the hub, that of one commit."""
    from trn_jax.checkpoints import hub

    return hub.pinned(path)


def _parse(arguments):
    exit_with_help(arguments, __doc__)
    return parse(flags.FLAGS, arguments, prepare=_use_stored_config)


def _use_stored_config(arguments):
    """Without a recipe, apply settings to the configuration that the checkpoint carries."""
    if not any(re.match(r"--?config[.\[]", argument) for argument in arguments):
        return
    if any(re.fullmatch(r"--?config(=.*)?", argument, re.DOTALL) for argument in arguments):
        return
    others = [a for a in arguments if not re.match(r"--?config[.\[]", a)]
    flags.FLAGS(others)
    path, mode = _CHECKPOINT.value, _MODE.value
    flags.FLAGS.unparse_flags()
    if mode == "train" or not path:
        raise UserError("settings need a recipe, --config=<recipe>, or a --checkpoint to evaluate")
    from trn_jax.checkpoints import checkpoint

    stored = from_dict(checkpoint.open_checkpoint(_pinned(path)).info["config"])
    delattr(flags.FLAGS, "config")
    config_flags.DEFINE_config_dict("config", stored)


def _without_closed_loops(unraisable, report=sys.unraisablehook):
    """Report an error that could not be raised.

    When one array of a checkpoint cannot be written, Orbax closes its event loop and raises, and
    each of the other arrays then complains about the closed loop.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


def run(arguments=None):
    """Entry point; returns the exit status."""
    logging.set_verbosity(logging.FATAL)  # of Orbax and grain, which raise what they log as errors
    sys.unraisablehook = _without_closed_loops
    _pinned.cache_clear()
    try:
        app.run(main, argv=arguments and list(arguments), flags_parser=_parse)
    except UserError as error:
        _fail(f"error: {error}", error.status)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Exception:
        _fail(traceback.format_exc(), 1)


def _fail(message, status):
    """Exit with a message, with one process or several."""
    if "trn_jax.distributed.processes" in sys.modules:
        from trn_jax.distributed import processes

        processes.fail(message, status)
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


if __name__ == "__main__":
    run()
