"""Arrays of checkpoints by their names in the model, such as `backbone.layer1.0.conv1.kernel`."""

import contextlib
import logging

import jax
import orbax.checkpoint as ocp

from trn_jax.errors import UserError, first_line, listed


def named(tree):
    """A pytree as a flat dict of its leaves, `{"backbone.conv1.kernel": array, ...}`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        name_of(path): leaf
        for path, leaf in leaves
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    }


def name_of(path):
    """The name of the leaf at a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def merged(states):
    """The leaves of several pytrees, as `named` gives them."""
    return {name: leaf for state in states for name, leaf in named(state).items()}


def filled(tree, values):
    """A pytree with `{name: array}` for its leaves."""
    return jax.tree_util.tree_map_with_path(lambda path, _: values[name_of(path)], tree)


def read(item, directory, target):
    """Read one item of a checkpoint.

    Args:
        item: "model" or "optimizer".
        directory: the checkpoint, a `pathlib.Path`.
        target: `{name: array or its shape, with a sharding}`, exactly those that are there.

    Raises:
        UserError: the checkpoint is that of another model, or can't be read.
    """
    handler = ocp.StandardCheckpointHandler()
    with _without_warnings(), ocp.Checkpointer(handler) as checkpointer:
        try:
            stored = checkpointer.metadata(directory / item).item_metadata.tree
        except Exception as error:
            raise UserError(
                f"{directory} is not a checkpoint of trn_jax: {first_line(error)}"
            ) from None
        check(directory, {name: tuple(array.shape) for name, array in stored.items()}, target)
        try:
            return checkpointer.restore(directory / item, args=ocp.args.StandardRestore(target))
        except Exception as error:
            raise UserError(
                f"the checkpoint {directory} can't be read: {first_line(error)}; it may be "
                "corrupt. Move it elsewhere and use the previous one"
            ) from error


def check(directory, shapes, target):
    """Check that a checkpoint has the arrays of a model.

    Args:
        directory: the checkpoint.
        shapes: `{name: shape}` of its arrays.
        target: `{name: array or its shape}` of the model.

    Raises:
        UserError: arrays are missing, unexpected or of another shape; all are named.
    """
    problems = [f"missing {name}" for name in target if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in target]
    problems += [
        f"{name} has shape {shapes[name]}, expected {tuple(leaf.shape)}"
        for name, leaf in target.items()
        if name in shapes and shapes[name] != tuple(leaf.shape)
    ]
    if problems:
        raise UserError(
            f"the checkpoint {directory} is that of another model, {len(problems)} problems:"
            f"{listed(problems)}"
        )


@contextlib.contextmanager
def _without_warnings():
    """Keep Orbax from warning that items have no metadata of their own; those of a step serve."""
    logger = logging.getLogger("absl")

    def is_news(record):
        return "Metadata file does not exist" not in record.getMessage()

    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)
