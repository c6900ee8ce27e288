"""Calibrates a checkpoint: evaluates it, and stores temperature and thresholds in it."""

import json
import os

import jax

from trn_jax.checkpoints import calibration_file, finding
from trn_jax.errors import UserError
from trn_jax.evaluation import calibration
from trn_jax.evaluation.evaluate import cheapest_protocol, evaluating, list_hash
from trn_jax.settings import protocol_names, resolved_views


def calibrate(
    config,
    path,
    workdir,
    *,
    protocol="all",
    split="val",
    ignore_class_names=False,
    as_json=False,
    dtype=None,
):
    """Evaluate a checkpoint by one protocol, and store the calibration of its scores.

    Args:
        config: see `evaluate`.
        path: see `evaluate`.
        workdir: belongs to one run at a time.
        protocol: name of a protocol; "all": the one with the fewest views, as `predict` takes it.
        split: "val", "test" or "train".
        ignore_class_names: see `evaluate`.
        as_json: print the calibration as JSON.
        dtype: see `evaluate`.

    Returns:
        Number of unreadable videos, which don't count.

    Raises:
        UserError: see `evaluate`; or the checkpoint can't be written to.
        PassingError: another run holds `workdir`.
    """
    directory = finding.find(path)
    if not os.access(directory, os.W_OK):
        raise UserError(
            f"can't write to {directory}, which receives {calibration_file.NAME}; copy the "
            "checkpoint to a folder that can be written to, and calibrate the copy"
        )
    options = dict(split=split, ignore_class_names=ignore_class_names, dtype=dtype)
    with evaluating(
        config, path, workdir, choose=lambda each: _one_protocol(each, protocol), **options
    ) as done:
        if jax.process_index() == 0:
            names, order = done.opened.class_names, done.class_order
            names = names if order is None else [names[output] for output in order]
            found = calibration_of(done.results[0]["scores"], done.data, class_names=names)
            calibration_file.write(directory, found)
            print(json.dumps(found.to_dict(), indent=1) if as_json else table(found), flush=True)
    return done.num_unreadable


def _one_protocol(config, names):
    chosen = [cheapest_protocol(config)] if names == "all" else protocol_names(config, names)
    if len(chosen) > 1:
        raise UserError(f"--protocol={names}: a checkpoint is calibrated by one protocol")
    return chosen


def calibration_of(scores, data, **origin):
    """The `Calibration` of scores of `data`.

    Args:
        scores: the `Scores`.
        data: the `Data`.
        **origin: `class_names` and `protocol`, see `calibration.fit`.
    """
    try:
        digest = list_hash(data)
    except OSError:  # removed while a training ran, which needs it no more
        digest = ""
    return calibration.fit(scores, split=data.split, list_sha256=digest, **origin)


def table(found):
    """A `Calibration` for people."""
    before, after = found.before, found.after
    return (
        f"{found}\n"
        f"expected calibration error {100 * before['ece']:.2f} % -> {100 * after['ece']:.2f} %, "
        f"negative log likelihood {before['nll']:.4f} -> {after['nll']:.4f}, both on the videos "
        "that it was fitted to"
    )


def validation_protocol(config):
    """The protocol that `data.val` equals, if it is the cheapest one; else `data.val`."""
    name, views = cheapest_protocol(config), resolved_views(config)
    same = views["data.val"].to_dict() == views[f"protocols.{name}"].to_dict()
    return name if same else "data.val"
