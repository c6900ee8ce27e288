"""Arguments shared by several commands."""

import argparse

from trn_jax.errors import UserError


def positive(text):
    """Parse a positive integer, for `argparse`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def add_recipe(parser):
    """Add a recipe, by name or as `--config`, see `read_recipe`."""
    parser.add_argument("recipe", nargs="?", help="name, see `trn-jax recipes`, or path of a file")
    parser.add_argument("--config", metavar="RECIPE", help="the same")
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


def add_json(parser):
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
