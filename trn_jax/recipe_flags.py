"""Reads a recipe and its settings from a command line, and explains what is wrong with them."""

import os
import re
import sys
import textwrap
import traceback

from absl import app, flags
from ml_collections import config_flags

from trn_jax.config import recipe_file, recipe_names
from trn_jax.errors import UserError
from trn_jax.settings import REMOVED

_LOADER = os.path.dirname(config_flags.__file__)  # what runs a recipe
_LIBRARIES = (os.path.dirname(_LOADER), os.path.dirname(app.__file__))

# Flags of the training and test scripts of mmaction2, and what does the same here.
_SETTING = "settings are given one by one, such as --config.optim.lr=0.01"
_RESUME = "the same command on the same --workdir resumes"
_PER_DEVICE = (
    "all devices of this machine are used; several machines: --coordinator_address, --num_processes"
)
_FOREIGN_FLAGS = {
    "work_dir": "here it is --workdir",
    "validate": "validation is on: --config.train.eval_every=<epochs> sets the interval",
    "no_validate": "here it is --config.train.eval_every=0, which validates at the end only",
    "seed": "here it is --config.seed",
    "deterministic": "runs are deterministic (on GPUs: see docs/training.md on XLA_FLAGS)",
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
    "amp": "leave it out: model.dtype=auto takes bfloat16 where devices have it",
    "launcher": _PER_DEVICE,
    "local_rank": _PER_DEVICE,
    "gpus": _PER_DEVICE,
    "gpu_ids": _PER_DEVICE,
    "average_clips": "here it is --config.protocols.<name>.merge_views=logits or probabilities",
    "test_last": "the last state is evaluated at the end, by all protocols",
    "test_best": "evaluate it with --mode=eval --checkpoint=<workdir>@best",
}


def read_config(arguments):
    """Read a configuration from a command line, for commands that neither train nor evaluate.

    Args:
        arguments: `["--config=trn_sthv1", "--config.data_dir=data/sthv1", ...]`.

    Raises:
        UserError: there is no recipe among them, something else, or it cannot be loaded.
    """
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    parse(values, ["trn-jax", *arguments])
    if config.value is None:
        raise UserError("a recipe is needed: --config=<name or path>, such as --config=trn_sthv1")
    return loaded(config.value, values)


def with_settings(config, arguments):
    """Change settings of a configuration.

    Args:
        config: the configuration; may be changed.
        arguments: `["--config.optim.lr=0.1", ...]`.

    Raises:
        UserError: one is no setting of it.
    """
    values = flags.FlagValues()

    def define(_):  # when ml_collections can read the settings
        config_flags.DEFINE_config_dict("config", config, flag_values=values)

    parse(values, ["trn-jax", *arguments], prepare=define)
    return values["config"].value


def may_be_recipe(text):
    """Whether a text is the name of a recipe that comes with the package, or of a recipe's file."""
    return text.endswith(".py") or text in recipe_names()


def recipe_name(values):
    """The name of a recipe that was read from flags: that of its file without extension."""
    path = config_flags.get_config_filename(values["config"])
    return os.path.splitext(os.path.basename(path))[0]


def loaded(config, values):
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


def parse(values, arguments, prepare=lambda _: None):
    """Parse flags; what is wrong with them becomes a `UserError`."""
    try:
        arguments = [_addressable(argument) for argument in _with_recipe_files(arguments)]
        _check_foreign(arguments)
        sys.argv = list(arguments)  # where ml_collections reads settings of a recipe
        prepare(arguments)
        return _without_arguments(values(arguments))
    except Exception as error:
        # ml_collections and absl wrap what a recipe raises in their own errors.
        chain: list[BaseException] = [error]
        while chain[0].__context__:
            chain.insert(0, chain[0].__context__)
        _check_recipe(error)
        if isinstance(error, UserError):
            raise
        if isinstance(chain[0], UserError):
            raise chain[0] from None
        for each in chain:
            if place := _place_in_recipe(each):
                raise UserError(f"cannot load the recipe: {place}: {_reason(each)}") from None
        if isinstance(error, flags.Error):
            raise UserError(f"{error}; --help lists all flags") from None
        if isinstance(error, AttributeError | KeyError | TypeError | ValueError | OSError):
            raise UserError(_explain_flag(error, arguments)) from None
        raise


def exit_with_help(arguments, text):
    """Print a text and the flags of the program, and exit with 0, if `--help` is given.

    absl's own help exits with 1.

    Args:
        arguments: the program and its arguments.
        text: the docstring of the program.
    """
    if not any(re.fullmatch(r"--?(help(short)?|h|\?)", word) for word in arguments[1:]):
        return
    shown = [text.strip(), "", "flags:"]
    for flag in sorted(flags.FLAGS.get_key_flags_for_module(arguments[0]), key=lambda f: f.name):
        if flag.help.startswith("Alias for"):
            continue
        about = " ".join(re.sub(r";\s+repeat this option.*", "", flag.help).split())
        if flag.default not in (None, False, "", []):
            default = flag.default
            about += f" (default: {','.join(default) if isinstance(default, list) else default})"
        shown.append(f"  --{flag.name}")
        shown.append(textwrap.fill(about, 88, initial_indent=" " * 8, subsequent_indent=" " * 8))
    print("\n".join(shown))
    sys.exit(0)


def _reason(error):
    """What is wrong in a recipe, in a line."""
    text = str(getattr(error, "msg", error)).replace("\\n", " ")
    key = re.search(r"[Kk]ey [\"']?(\w+)[\"']? does not exist", text)
    if key is None:
        return f"{type(error).__name__}: {text}"
    return f"{key[1]}: {_instead(key[1], text)}"


def _instead(key, text):
    """What to do about an unknown setting, from the error of ml_collections."""
    if any(name.rpartition(".")[2] == key for name in REMOVED):
        return "this setting was removed; leave it out"
    close = re.search(r'Did you mean "(\w+)"', text)
    hint = f"did you mean {close[1]}?" if close else "trn_jax/config.py lists them all"
    return f"the recipe has no setting {key}; {hint}"


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
    """Explain a wrong flag from the error of ml_collections, without its call stack."""
    # A KeyError quotes its text, line breaks and all.
    text = " ".join(str(error).replace("\\n", " ").replace("\\'", "'").split())
    if text[:1] == text[-1:] and text[:1] in ("'", '"'):
        text = text[1:-1]
    if "has no attribute 'get_config'" in text:
        return "the recipe has no function get_config; see configs/trn_sthv1.py"
    missing = re.match(r"(?:key )?[\"']?(\w+)[\"']?(?: does not exist| Did you mean|$)", text, re.I)
    for flag in arguments:
        if missing and f".{missing[1]}" in flag.partition("=")[0]:
            return f"{flag}: {_instead(missing[1], text)}"
    return f"wrong flag or recipe: {text}"
