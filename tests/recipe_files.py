"""The recipes of the package."""

from trn_jax import config

NAMES = config.recipe_names()


def load(name):
    """A recipe; with two classes if it takes their number from the data."""
    found = config.recipe(name).get_config()
    found.model.num_classes = found.model.num_classes or 2
    return found
