"""Finds checkpoints: in working directories, by step or as the best one, and on the hub."""

import os
import pathlib

from trn_jax.checkpoints import hub, hub_folder, integrity
from trn_jax.checkpoints.manager import Best
from trn_jax.errors import UserError


def find(path):
    """The folder of a checkpoint.

    Args:
        path: the folder itself; a working directory or its `checkpoints`, which stand for the
            newest one; or one of these with `@best` (by the metrics of its evaluation) or `@<step>`
            behind it; or `hf:<user>/<name>[@<revision>]`, which is downloaded. A corrupt one is
            never replaced by another one silently.

    Raises:
        UserError: there is none.
    """
    if hub.is_address(path):
        return hub.download(path)[0]
    path = os.path.abspath(path)
    directory, at, wanted = path.rpartition("@")
    if not at or os.path.exists(path):
        directory, wanted = path, ""
    if not wanted and _is_checkpoint(pathlib.Path(directory)):
        return pathlib.Path(directory)
    found = _stored_steps(pathlib.Path(directory))
    if not found:
        raise UserError(
            f"no checkpoint in {directory}; give a working directory of a training, one of the "
            "folders in its checkpoints/, a hub folder, or hf:<user>/<name>"
        )
    if not wanted:
        return found[max(found)]
    if wanted == "best":
        best = find_best(found[max(found)].parent)
        if best is None:
            raise UserError(
                f"no checkpoint in {directory} has been evaluated, so there is no @best; "
                f"available: {_listed_steps(found)}"
            )
        return found[best]
    if not wanted.isdecimal() or int(wanted) not in found:
        raise UserError(
            f"{directory} has no checkpoint @{wanted}; available: {_listed_steps(found)}"
            + (", @best" if find_best(found[max(found)].parent) is not None else "")
        )
    return found[int(wanted)]


def find_best(directory):
    """Step of the best checkpoint in `directory` by their evaluations, or `None`."""
    steps = integrity.steps(directory)
    for metric in ("map", "top1"):  # lists with several labels per video have no top-1
        best = Best(directory, metric).of(steps)
        if best is not None:
            return best
    return None


def is_stored(path):
    """Whether a path names checkpoints, perhaps with `@best` or `@<step>`, see `find`.

    A folder of another project with a `config.json` is none.
    """
    if hub.is_address(path):
        return True
    path = os.path.abspath(path)
    if not os.path.exists(path):
        path = path.rpartition("@")[0]
    folder = pathlib.Path(path)
    if hub_folder.is_one(folder):
        return not hub_folder.is_foreign(folder)
    return _is_checkpoint(folder) or bool(_stored_steps(folder))


def workdir_of(path):
    """The working directory of the checkpoint `<workdir>/checkpoints/<step>`; else its folder.

    For one on the hub, `runs/<user>_<name>`: what is in the cache stays as it is.
    """
    if hub.is_address(path):
        return os.path.join("runs", hub.parsed(path)[0].replace("/", "_"))
    directory = find(path)
    parent = directory.parent
    return str(parent.parent if parent.name == "checkpoints" else directory)


def _stored_steps(path):
    """The checkpoints of a working directory or of its `checkpoints`: `{step: folder}`."""
    for candidate in (path, path / "checkpoints"):
        found = {
            step: candidate / str(step)
            for step in integrity.steps(candidate)
            if candidate.name == "checkpoints" or _is_checkpoint(candidate / str(step))
        }
        if found:
            return found
    return {}


def _listed_steps(found):
    return ", ".join(f"@{step}" for step in sorted(found))


def _is_checkpoint(folder):
    """Whether a folder is a checkpoint, or what is left of one."""
    return integrity.is_one(folder) or hub_folder.is_one(folder)
