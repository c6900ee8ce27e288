"""Arguments shared by several commands."""

import argparse

from trn_jax.errors import UserError, escaped

# What every command takes for a checkpoint, for its help.
CHECKPOINT = (
    "working directory of a training, <directory>@best, <directory>@<step>, hub folder or "
    "hf:<user>/<name>"
)


class Parser(argparse.ArgumentParser):
    """A parser, and those of its commands, that reports a wrong argument in one line."""

    def error(self, message):
        """Exit with 2, as after a `UserError`."""
        self.exit(2, f"error: {escaped(message)}; see {self.prog} --help\n")


def positive(text):
    """Parse a positive integer, for `argparse`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def add_recipe(parser):
    """Add a recipe, by name or as `--config`, see `read_recipe`."""
    parser.add_argument("recipe", nargs="?", help="name, see `trn-jax recipes`, or path of a file")
    parser.add_argument("--config", metavar="RECIPE", help="the recipe, as a flag")
    parser.set_defaults(takes_settings=True)


def read_recipe(arguments):
    """Read the configuration of a recipe with its settings.

    Raises:
        UserError: there is no recipe, there are two, or it cannot be loaded.
    """
    from trn_jax.recipe_flags import read_config

    if arguments.recipe and arguments.config:
        raise UserError(f"two recipes: {arguments.recipe!r} and --config={arguments.config}")
    recipe = arguments.recipe or arguments.config
    return read_config([*([f"--config={recipe}"] if recipe else []), *arguments.settings])


def check_unused(arguments, names, reason):
    """Refuse flags that have no effect; `default_of` is `get_default` of the parser.

    Raises:
        UserError: one of the flags with these names is given; `reason` completes the sentence.
    """
    for name in names:
        if getattr(arguments, name) != arguments.default_of(name):
            raise UserError(f"--{name.replace('_', '-')} {reason}")


def add_license(parser):
    """Add `--license`."""
    text = "such as Apache-2.0; default: that of the checkpoint, if it has one"
    parser.add_argument("--license", type=_license, help=text)


def _license(text):
    if not text.strip() or escaped(text) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a license, such as Apache-2.0")
    return text.strip()


def add_json(parser):
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_dtype(parser):
    """Add `--dtype`."""
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float32"),
        help="dtype of the computation; auto: bfloat16 on TPUs and on GPUs that have it, else "
        "float32; default: model.dtype of the configuration (float32 for converted checkpoints)",
    )


_VIEW = ("num_segments", "crop", "short_side", "crop_size")  # keys of the view that are flags


def add_sampling(parser, *, seconds=True):
    """Add how a checkpoint samples videos, see `sampling_of`; with the length of windows."""
    add = parser.add_argument
    add("--protocol", help="protocol of the recipe; default: the one with the fewest views")
    if seconds:
        add("--seconds", type=float, help="length of a window; default: as training examples")
    rate = "frames per second of frame folders; default: as training examples"
    add("--frame-rate", type=float, help=rate)
    for key in _VIEW:
        kind = str if key == "crop" else int
        add(f"--{key.replace('_', '-')}", type=kind, help=f"replaces {key} of the view")
    threads = "decoding threads; default: one per core"
    add("--num-threads", type=positive, default=0, help=threads)


def sampling_of(arguments):
    """The flags of `add_sampling` as arguments of `prediction.api.Predictor`."""
    keys = ("protocol", "seconds", "frame_rate", "num_threads", *_VIEW)
    return {key: getattr(arguments, key) for key in keys if hasattr(arguments, key)}
