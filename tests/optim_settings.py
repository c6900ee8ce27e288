"""The section `optim` of a configuration, on its own."""

from trn_jax.config import base


def optim_keys(**changes):
    """The defaults of all recipes, with changes; a locked `ConfigDict`."""
    keys = base(dataset="frames", model="trn_resnet50").optim
    keys.update(changes)
    return keys
