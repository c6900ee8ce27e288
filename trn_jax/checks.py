"""Checks of a configuration that need models, views or the number of devices."""

import functools
import itertools
import operator

import jax

from trn_jax.data.views import View, check_fixed_crops
from trn_jax.errors import UserError, listed
from trn_jax.settings import check_values, protocol_names, resolved_views


def check(config):
    """Check everything about a configuration that needs neither data nor devices.

    Raises:
        UserError: values are outside their ranges, or do not go together; the keys are named.
    """
    check_values(config)
    widest = jax.dtypes.canonicalize_dtype("float64")
    if config.model.dtype == "float64" and widest != "float64":
        raise UserError("model.dtype='float64' needs the environment variable JAX_ENABLE_X64=1")
    protocol_names(config, "all")  # there is one at least
    parsed = {}
    for name, section in resolved_views(config).items():
        try:
            parsed[name] = View(**section)
        except UserError as error:
            raise UserError(f"{name}: {error}{_inherited(config, name)}") from None
    _check_train_view(config, parsed.pop("data.train"))
    check_fixed_crops(parsed)
    if config.data.multi_label:
        _check_multi_label(config)


def _inherited(config, name):
    """What a view inherits of its size, for an error, or ""."""
    section = functools.reduce(operator.getitem, name.split(".", 1), config)
    keys = {"crop_size": "size", "short_side": "short_side"}
    found = [f"{key} comes from {top}" for key, top in keys.items() if section[key] is None]
    return f" ({', '.join(found)} of the configuration)" if found else ""


def _check_train_view(config, view):
    if view.num_segments != config.model.num_segments:
        raise UserError(
            f"data.train.num_segments={view.num_segments} differs from "
            f"model.num_segments={config.model.num_segments}"
        )
    if view.num_views != 1:
        raise UserError(
            f"data.train gives {view.num_views} views of a video (sampling={view.sampling!r}, "
            f"num_clips={view.num_clips}, crop={view.crop!r}), but a training step takes one; use "
            "a sampling that draws one clip, num_clips=1 and a random crop"
        )


def _check_multi_label(config):
    """Refuse what is only defined for one label per video."""
    single = {
        "data.balanced": config.data.balanced,
        "train.label_smoothing": config.train.label_smoothing,
        "train.class_weights": config.train.class_weights != "equal",
    }
    chosen = [key for key, used in single.items() if used]
    if chosen:
        raise UserError(
            f"{', '.join(chosen)}: for one label per video only; not with data.multi_label=True"
        )


def check_start(config):
    """Check that there are weights to start from, if the recipe needs some.

    Raises:
        UserError: `init_required` is set, and `init_from` isn't.
    """
    if config.init_required and not config.init_from:
        raise UserError(
            "init_from isn't set, and this recipe fine-tunes weights: add "
            "--config.init_from=<file of weights, run or checkpoint>. To train from scratch, take "
            "the recipe `small` with the same data: trn-jax train small; "
            f"--config.init_required=False trains {config.model.name} from scratch all the same"
        )


def check_num_classes(config):
    """Check that the number of classes is known without the label map of the data.

    Raises:
        UserError: `model.num_classes` isn't set.
    """
    if config.model.num_classes is None:
        raise UserError(
            "the recipe doesn't set model.num_classes; add --config.model.num_classes=<number>"
        )


def check_batch(config, num_devices, num_processes=1):
    """Check that the batch divides evenly among devices, accumulation steps and norm groups.

    Args:
        config: the configuration.
        num_devices: number of all devices of all processes.
        num_processes: number of processes, with as many devices each.

    Raises:
        UserError: it cannot; the message names the keys.
    """
    batch, accumulation = config.train.batch, config.train.accumulation
    group = config.model.norm_group
    devices = f"{num_devices} devices"
    if num_processes > 1:
        devices += f" ({num_processes} processes x {num_devices // num_processes})"
    if batch % (num_devices * accumulation):
        raise UserError(
            f"train.batch={batch} can't be divided evenly among {devices} x "
            f"train.accumulation={accumulation}; take a multiple of {num_devices * accumulation}"
        )
    if group and batch % group:
        raise UserError(
            f"train.batch={batch} is not a multiple of model.norm_group={group}, the clips that "
            "share batch statistics; change one of them (norm_group=0: the full batch)"
        )
    part = batch // (num_devices * accumulation)
    if accumulation > 1 and (not group or part % group):
        raise UserError(
            f"with train.accumulation={accumulation}, each of {devices} computes {part} clips at a "
            f"time, but model.norm_group={group}; expected a divisor of {part}"
        )


def check_model(config, checkpoint_config, directory):
    """Check that a configuration describes the model of a checkpoint.

    Raises:
        UserError: it describes another one.
    """
    # No parameter depends on these.
    free = {"drop_path_rate", "dropout_rate", "dtype", "eval_relations", "frozen_stages"}
    free |= {"init_std", "max_relations", "norm_group", "partial_bn", "remat"}
    stored, wanted = checkpoint_config["model"], config.model.to_dict()
    if wanted["deploy"]:  # loading fuses the branches
        free.add("deploy")
    changed = [
        f"model.{key}: {stored.get(key)!r} in the checkpoint, {wanted.get(key)!r} requested"
        for key in sorted(stored.keys() | wanted.keys())
        if key not in free and stored.get(key) != wanted.get(key)
    ]
    if changed:
        raise UserError(f"{directory} holds another model:{listed(changed)}")


def differing_names(before, now):
    """The classes whose names differ, as lines of a message."""
    pairs = itertools.zip_longest(before, now)
    return listed(
        [
            f"class {label}: {old!r} -> {new!r}"
            for label, (old, new) in enumerate(pairs)
            if old != new
        ]
    )
