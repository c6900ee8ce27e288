"""Train or evaluate.

    python -m trn_jax.main --config=configs/trn_synthetic.py --workdir=runs/trn
    trn-jax train trn_synthetic --workdir=runs/trn

With `--mode=eval --checkpoint=runs/trn` the newest checkpoint of a training is evaluated, with
`--checkpoint=runs/trn@best` the best one, with `runs/trn@1200` that of step 1200. `--config` is
optional then, because checkpoints carry their configuration; `--config.data.val_list=...` changes a
setting of it. The other commands of `trn-jax` check data, plan for other devices, convert weights
and more.

In multi-process runs, every process runs the same command. Slurm, Open MPI, Cloud TPU and
Kubernetes are detected; elsewhere pass `--coordinator_address=<process 0>:<port>
--num_processes=<number> --process_id=<index, from 0>` (or `--coordinator --num_hosts --host`).
"""

import faulthandler
import os
import re
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from trn_jax.config import recipe_file, recipe_names
from trn_jax.errors import UserError
from trn_jax.settings import from_dict
from trn_jax.training.signals import StopSignals

_LOADER = os.path.dirname(config_flags.__file__)  # what runs a recipe
_LIBRARIES = (os.path.dirname(_LOADER), os.path.dirname(app.__file__))
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: the name of one that comes with the package, or the path of a file."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, logs and results, by default runs/<recipe>; with --mode=eval for "
    "results only, by default that of the training.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "With --mode=eval: a checkpoint; the working directory of a training, for its newest one; "
    "<directory>@best or <directory>@<step>.",
)
_PROTOCOL = flags.DEFINE_string(
    "protocol", "all", "With --mode=eval: names of protocols of the recipe, or all."
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "val",
    ["val", "test", "train"],
    "With --mode=eval: the list that is evaluated; results of another one than val go to "
    "<workdir>/results/<split>.",
)
_DUMP = flags.DEFINE_string(
    "dump",
    None,
    "With --mode=eval: file for the scores of every video, .npz, .json, .pkl (as mmaction2) or "
    ".torch.pkl (for its tools); several protocols have one each, <name>_<protocol>.<format>.",
)
_JSON = flags.DEFINE_bool(
    "json", False, "With --mode=eval: print the results as JSON instead of tables."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "In training: record these steps for XProf in <workdir>/profile, such as 10:15, both included.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Multi-process runs: <name or address of process 0>:<port>."
)
_NUM_HOSTS = flags.DEFINE_integer(
    "num_hosts", None, "Number of processes; 1 runs alone, even inside Slurm or MPI."
)
_HOST = flags.DEFINE_integer("host", None, "Index of this process, from 0.")
# The names of jax.distributed.initialize.
for _name, _alias in (
    ("coordinator", "coordinator_address"),
    ("num_hosts", "num_processes"),
    ("host", "process_id"),
):
    flags.DEFINE_alias(_alias, _name)
_IGNORE_CLASS_NAMES = flags.DEFINE_bool(
    "ignore_class_names",
    False,
    "Resume or evaluate although the data names other classes than the checkpoint.",
)
_IGNORE_LISTS = flags.DEFINE_bool(
    "ignore_lists", False, "Resume a training although its lists have changed."
)
_HOSTS_TIMEOUT = flags.DEFINE_integer(
    "hosts_timeout", 300, "Seconds to wait until all processes are connected.", lower_bound=1
)


# Flags of the training and test scripts of mmaction2, and what does the same here.
_SETTING = "settings are given one by one, such as --config.optim.lr=0.01"
_RESUME = "the same command on the same --workdir resumes"
_PER_DEVICE = "all devices of this machine are used; several machines: --coordinator, --num_hosts"
_FOREIGN_FLAGS = {
    "work_dir": "here it is --workdir",
    "validate": "validation is on: --config.train.eval_every=<epochs> says how often",
    "no_validate": "here it is --config.train.eval_every=0, which validates at the end only",
    "seed": "here it is --config.seed",
    "deterministic": "runs are deterministic (on GPUs: see the README on XLA_FLAGS)",
    "diff_rank_seed": "leave it out: the batches do not depend on the number of devices",
    "cfg_options": _SETTING,
    "options": _SETTING,
    "auto_scale_lr": "here it is --config.optim.scale_lr=True",
    "eval": "all metrics are computed; --mode=eval --checkpoint=<checkpoint> evaluates",
    "out": "here it is --dump=<file>, with --mode=eval",
    "resume": _RESUME,
    "resume_from": _RESUME,
    "auto_resume": _RESUME,
    "load_from": "here it is --config.init_from",
    "amp": "here it is --config.model.dtype=bfloat16",
    "launcher": _PER_DEVICE,
    "local_rank": _PER_DEVICE,
    "gpus": _PER_DEVICE,
    "gpu_ids": _PER_DEVICE,
    "average_clips": "here it is --config.protocols.<name>.merge_views=logits or probabilities",
    "test_last": "the last state is evaluated at the end, by all protocols",
    "test_best": "evaluate it with --mode=eval --checkpoint=<workdir>@best",
}


def main(_):
    """Do what the flags say."""
    # Of a crash, the thread that crashed. absl shows all, in front of what `watchdog` has to say.
    faulthandler.enable(all_threads=False)
    if _MODE.value != "train":
        return _main(None)
    with StopSignals() as signals:  # before what takes long, such as importing JAX
        return _main(signals)


def _main(signals):
    # Imported late, so that a wrong flag is told at once.
    from trn_jax.data import memory

    memory.keep()  # before the others, which start threads
    from trn_jax.checkpoints import checkpoint
    from trn_jax.distributed.compilation_cache import keep_programs
    from trn_jax.evaluation.evaluate import evaluate
    from trn_jax.training.loop import train

    config = _loaded(_CONFIG.value, flags.FLAGS)
    if _SPLIT.value != "val" and _MODE.value != "eval":
        raise UserError(f"--split={_SPLIT.value} goes with --mode=eval")
    if _MODE.value == "train":
        if config is None:
            raise UserError("training needs a recipe: --config=trn_synthetic")
        if _DUMP.value:
            raise UserError("--dump goes with --mode=eval; training writes to its --workdir")
        profile_steps = _profile_steps(_PROFILE_STEPS.value)
        workdir = _WORKDIR.value or os.path.join("runs", _recipe_name())
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
    if not _CHECKPOINT.value:
        raise UserError("--mode=eval needs --checkpoint=<checkpoint or working directory>")
    _connect_processes()
    workdir = _WORKDIR.value or _workdir_of(checkpoint.find(_CHECKPOINT.value))
    keep_programs(workdir)
    num_unreadable = evaluate(
        config,
        _CHECKPOINT.value,
        workdir,
        protocols=_PROTOCOL.value,
        dump=_DUMP.value,
        ignore_class_names=_IGNORE_CLASS_NAMES.value,
        split=_SPLIT.value,
        as_json=_JSON.value,
    )
    return 1 if num_unreadable else 0


def _recipe_name():
    """Name of the recipe's file without its extension."""
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    return os.path.splitext(os.path.basename(path))[0]


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
        _COORDINATOR.value, _NUM_HOSTS.value, _HOST.value, timeout=_HOSTS_TIMEOUT.value
    )


def read_config(arguments):
    """Read a configuration from a command line, for commands that neither train nor evaluate.

    Args:
        arguments: `["--config=trn_sthv1", "--config.data_dir=data/sthv1", ...]`.

    Raises:
        UserError: there is no recipe among them, something else, or it cannot be loaded.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    _translating_errors(values, ["trn-jax", *arguments])
    if config.value is None:
        raise UserError("a recipe is needed: --config=<name or path>, such as --config=trn_sthv1")
    return _loaded(config.value, values)


def _loaded(config, values):
    """The configuration; ml_collections reports a missing recipe only on first access."""
    try:
        if config is not None:
            _ = config.is_locked
    except OSError as error:
        _check_recipe(error)
        path = config_flags.get_config_filename(values["config"])
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"cannot load the recipe {path}: {reason}") from None
    except AttributeError:
        raise UserError(
            f"get_config() of the recipe gives {config!r}; expected what trn_jax.config.base "
            "gives, see configs/trn_sthv1.py"
        ) from None
    return config


def _check_recipe(error):
    """Say that the file of the recipe is not there, if that is why it could not be loaded."""
    missing = re.search(r"\[Errno 2\].*: '(.+\.py)'", str(error))
    if missing:
        raise UserError(
            f"cannot load the recipe {missing[1]}: there is no such file in {os.getcwd()}; give "
            "the path of a recipe, or the name of one that comes with trn_jax, such as "
            "--config=trn_sthv1"
        )


def _workdir_of(directory):
    """The working directory that a checkpoint `<workdir>/checkpoints/<step>` lies in, or itself."""
    parent = directory.parent
    return str(parent.parent if parent.name == "checkpoints" else directory)


def _parse(arguments):
    return _translating_errors(flags.FLAGS, arguments, prepare=_use_stored_config)


def _translating_errors(values, arguments, prepare=lambda _: None):
    """Parse flags; what is wrong with them becomes a `UserError`."""
    try:
        arguments = [_addressable(argument) for argument in _with_recipe_files(arguments)]
        _check_foreign(arguments)
        sys.argv = list(arguments)  # where ml_collections looks for settings of a recipe
        prepare(arguments)
        return _without_arguments(values(arguments))
    except Exception as error:
        # Of what a recipe raises, ml_collections and absl make errors of their own.
        first: BaseException = error
        while first.__context__:
            first = first.__context__
        _check_recipe(error)
        if isinstance(error, UserError):
            raise
        if isinstance(first, UserError):
            raise first from None
        if place := _place_in_recipe(first):
            reason = f"{type(first).__name__}: {getattr(first, 'msg', first)}"
            raise UserError(f"cannot load the recipe: {place}: {reason}") from None
        if isinstance(error, flags.Error):
            raise UserError(f"{error}; --help tells of all flags") from None
        if isinstance(error, AttributeError | KeyError | TypeError | ValueError | OSError):
            raise UserError(_explain_flag(error, arguments)) from None
        raise


def _with_recipe_files(arguments):
    """The arguments with the files of recipes that are given by name, `--config=trn_sthv1`."""
    arguments = list(arguments)
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            if equals:
                arguments[i] = f"{flag}={_recipe_path(value)}"
            elif i + 1 < len(arguments):
                arguments[i + 1] = _recipe_path(arguments[i + 1])
    return arguments


def _recipe_path(value):
    """The path of a recipe.

    `configs/<name>.py`, which all documents have, is the file of the package where there is no
    such file in the current folder.
    """
    if not value or (value.endswith(".py") and os.path.exists(value)):
        return value
    name = re.fullmatch(r"(?:configs/)?([A-Za-z0-9_]+)\.py|([A-Za-z0-9_-]+)", value)
    if name and name[1] in recipe_names():
        print(f"{value} is not here; taking the recipe that comes with trn_jax", file=sys.stderr)
    elif name is None or name[1]:
        return value
    return str(recipe_file(name[1] or name[2]))


def _addressable(argument):
    """A setting of a protocol in the form that ml_collections parses, which reads names as Python.

    `--config.protocols.25x10.crop=ten` -> `--config.protocols['25x10'].crop=ten`.
    """
    found = re.match(r"(--?config\.protocols)\.([A-Za-z0-9_-]+)((?:\.|=|$).*)", argument, re.DOTALL)
    if found is None or found[2].isidentifier():
        return argument
    return f"{found[1]}[{found[2]!r}]{found[3]}"


def _check_foreign(arguments):
    """Answer flags of mmaction2 with the name that they have here."""
    for argument in arguments[1:]:
        name = argument.lstrip("-").partition("=")[0].replace("-", "_")
        if argument.startswith("-") and name in _FOREIGN_FLAGS:
            raise UserError(
                f"{argument.partition('=')[0]} is a flag of mmaction2; {_FOREIGN_FLAGS[name]}"
            )


def _without_arguments(rest):
    """What is left of the command line; words that belong to no flag are refused."""
    if len(rest) > 1:
        is_recipe = rest[1].endswith(".py")
        hint = f"a recipe is given as --config={rest[1]}" if is_recipe else "--help lists all flags"
        raise UserError(f"{rest[1]!r} belongs to no flag; {hint}")
    return rest


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
    if mode != "eval" or not path:
        raise UserError("settings need a recipe, --config=<recipe>, or a --checkpoint to evaluate")
    from trn_jax.checkpoints import checkpoint

    stored = from_dict(checkpoint.open_checkpoint(path).info["config"])
    delattr(flags.FLAGS, "config")
    config_flags.DEFINE_config_dict("config", stored)


def _place_in_recipe(error):
    """The file and line of a recipe that an error comes from, or ""."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    loaders = [i for i, frame in enumerate(frames) if frame.filename.startswith(_LOADER)]
    called = [f for f in frames[max(loaders, default=-1) + 1 :] if not f.filename.startswith("<")]
    inside = loaders and called and not called[0].filename.startswith(_LIBRARIES)
    return f"{called[0].filename}, line {called[0].lineno}" if inside else ""


def _explain_flag(error, arguments):
    """What ml_collections says about a wrong flag, without its call stack."""
    # A KeyError quotes its text, line breaks and all.
    text = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").split())
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):
        text = text[1:-1]
    if "has no attribute 'get_config'" in text:
        return "the recipe has no function get_config; configs/trn_sthv1.py shows how one looks"
    missing = re.match(r"(?:key )?[\"']?(\w+)[\"']?(?: does not exist| Did you mean|$)", text, re.I)
    for flag in arguments:
        if missing and f".{missing[1]}" in flag.partition("=")[0]:
            close = re.search(r'Did you mean "(\w+)"', text)
            instead = f"did you mean {close[1]}?" if close else "trn_jax/config.py lists them all"
            return f"{flag}: the recipe has no setting {missing[1]}; {instead}"
    return f"wrong flag or recipe: {text}"


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
    try:
        app.run(main, argv=arguments and list(arguments), flags_parser=_parse)
    except UserError as error:
        _fail(f"error: {error}", error.status)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except Exception:
        _fail(traceback.format_exc(), 1)


def _fail(message, status):
    """End with a message, on one host or on several."""
    if "trn_jax.distributed.processes" in sys.modules:
        from trn_jax.distributed import processes

        processes.fail(message, status)
    print(message, file=sys.stderr, flush=True)
    sys.exit(status)


if __name__ == "__main__":
    run()
