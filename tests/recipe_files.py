"""The recipes of the package."""

from trn_jax import config

NAMES = config.recipe_names()


def load(name):
    return config.recipe(name).get_config()
