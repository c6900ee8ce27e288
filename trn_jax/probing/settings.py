"""The configuration of a probe: the checkpoint's model and views, other data, another head."""

import os

from trn_jax.checkpoints import hub
from trn_jax.config import base, recipe_names
from trn_jax.data import datasets
from trn_jax.errors import UserError, did_you_mean
from trn_jax.recipe_flags import may_be_recipe, read_config, with_settings
from trn_jax.settings import from_dict

HEADS = {"trn": "trn_multiscale", "tsn": "tsn"}
_OF_HEADS = ("dropout_rate", "embedding_channels", "eval_relations", "init_std", "max_relations")
# Of the head alone, on features that hardly change: steps cost little, so there are many.
_TRAIN = dict(batch=32, epochs=100.0, log_every=20, eval_every=1.0)
_OPTIM = dict(lr=0.01, base_batch=32, clip_norm=20.0, schedule="cosine", weight_decay=5e-4)


def probe_config(stored, head, *, checkpoint, data=None, recipe=None, settings=()):
    """The configuration of a probe.

    Args:
        stored: the configuration of the checkpoint, a dict.
        head: one of `HEADS`.
        checkpoint: its path, which becomes `init_from`.
        data: folder that `trn-jax prepare` wrote; or a recipe.
        recipe: name or file of the recipe that has data, views and settings of the training; by
            default, views are those of the checkpoint.
        settings: arguments such as `--config.optim.lr=0.1`.

    Returns:
        The configuration; `model.num_classes` is that of the data.

    Raises:
        UserError: there is no such head, recipe or folder, or settings are wrong.
    """
    if head not in HEADS:
        raise UserError(
            f"head={head!r} is not one of {', '.join(HEADS)}{did_you_mean(head, HEADS)}"
        )
    is_folder = data is not None and os.path.isdir(data)
    if not is_folder and data is not None:
        if recipe is not None:
            raise UserError(f"{data} is no folder, and there is a recipe, --config={recipe}")
        recipe = data
        if not may_be_recipe(data):
            hint = did_you_mean(data, recipe_names())
            raise UserError(f"{data} is neither a folder nor a recipe of `trn-jax recipes`{hint}")
    config = _of_checkpoint(stored) if recipe is None else read_config([f"--config={recipe}"])
    if is_folder:
        dataset = datasets.detect(data)
        if dataset is None:
            raise UserError(
                f"{data} has no list of training videos; run `trn-jax prepare {data} "
                "--to=data/mine`, then `trn-jax probe data/mine`"
            )
        config.data_dir = data
        if recipe is None or config.data.dataset == "frames":
            config.data.dataset = dataset
    num_segments = config.model.num_segments if recipe else None
    config.model.update(from_dict(stored).model.to_dict())
    config.model.update(dict.fromkeys(_OF_HEADS), num_classes=None, head=HEADS[head])
    if num_segments:
        config.model.num_segments = num_segments
    if not hub.is_address(checkpoint):
        checkpoint = os.path.abspath(checkpoint)
    config.update(init_from=checkpoint, init_head=False, init_url=None)
    return with_settings(config, settings)


def _of_checkpoint(stored):
    """The checkpoint's views, and otherwise the defaults of a probe."""
    found = from_dict(stored)
    config = base(dataset="frames", model=found.model.name)
    config.update(seed=found.seed, size=found.size, short_side=found.short_side)
    config.eval.update(found.eval.to_dict())
    for name in ("train", "val"):
        config.data[name].update(found.data[name].to_dict())
        config.data[name].flip_pairs = ()  # they name classes of the checkpoint
    del config.protocols["efficient"]
    for name, view in found.protocols.items():
        config.protocols[name] = view
    config.train.update(_TRAIN)
    config.optim.update(_OPTIM)
    return config
