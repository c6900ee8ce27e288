"""Checkpoint metadata and integrity: finds corrupt checkpoints and renames them."""

import json

import jax
import orbax.checkpoint as ocp

from trn_jax import __version__
from trn_jax.checkpoints import checksums
from trn_jax.distributed import processes
from trn_jax.errors import UserError, first_line, listed
from trn_jax.files import reading, write_text

ITEMS = ("about", "model", "optimizer")
ORBAX_METADATA = "_CHECKPOINT_METADATA"  # unused here, and rewritten after the checksums
_METRICS = "metrics.json"  # written when the others are complete, with a checksum of its own


def is_one(folder):
    """Whether a folder (a `pathlib.Path`) is a checkpoint, or what is left of one."""
    return any((folder / name).exists() for name in ("about", checksums.NAME, ORBAX_METADATA))


def origin():
    """Metadata of all new checkpoints: the version and the name of the checksum file."""
    return {"version": __version__, "checksums": checksums.NAME}


def problem(directory, items=ITEMS):
    """Problems of the files of a checkpoint, or "".

    Args:
        directory: folder of the checkpoint.
        items: items to check besides `about`.
    """
    items = dict.fromkeys(("about", *items))
    if (directory / checksums.NAME).exists():
        found = checksums.problems(directory, items)
    else:
        found = [f"{item} is missing" for item in items if not (directory / item).is_dir()]
    if not found:
        try:
            expected = read_json(directory).get("checksums")
        except Exception as error:
            return f"about cannot be read ({first_line(error)})"
        if expected and not (directory / expected).exists():
            found = [f"{expected} is missing"]
    more = f" and {len(found) - 2} more" if len(found) > 3 else ""
    return ", ".join(found[: 2 if more else 3]) + more


def set_aside(directory):
    """Rename corrupt checkpoints until the newest one is intact.

    Process 0 renames; the others wait, then check the newest one themselves.

    Returns:
        A message about each renamed checkpoint.

    Raises:
        UserError: no checkpoint is intact; raised on every process.
    """
    try:
        return _rename_corrupt(directory) if jax.process_index() == 0 else []
    finally:
        processes.barrier()
        if jax.process_index() and steps(directory):
            require_intact(directory / str(max(steps(directory))))


def _rename_corrupt(directory):
    corrupt, intact = {}, None
    for step in sorted(steps(directory), reverse=True):
        found = problem(directory / str(step))
        if not found:
            intact = step
            break
        corrupt[step] = found
    if corrupt and intact is None:
        problems = listed([f"{step}: {found}" for step, found in corrupt.items()])
        raise UserError(
            f"no checkpoint in {directory} is intact:{problems}\nRestore one from a copy, or "
            "choose another --workdir to start again"
        )
    return [
        f"the checkpoint of step {step} is corrupt: {found}; renamed it to "
        f"{_rename(directory / str(step)).name}, resuming from step {intact}"
        for step, found in corrupt.items()
    ]


def _rename(folder):
    """Give a corrupt checkpoint a name that no longer counts as a checkpoint."""
    name, number = folder.with_name(f"{folder.name}.damaged"), 1
    while name.exists():
        number += 1
        name = folder.with_name(f"{folder.name}.damaged-{number}")
    try:
        return folder.rename(name)
    except OSError as error:
        raise UserError(
            f"the checkpoint {folder} is corrupt and can't be renamed to {name.name}: "
            f"{error.strerror}; move it elsewhere to resume from the previous one"
        ) from None


def steps(directory):
    """The steps of the checkpoints in `directory`, whose names are numbers."""
    if not directory.is_dir():
        return []
    return [int(entry.name) for entry in directory.iterdir() if _is_step(entry)]


def _is_step(folder):
    return folder.name.isdecimal() and folder.name == str(int(folder.name)) and folder.is_dir()


def require_intact(directory, items=ITEMS):
    """Raise `UserError` if the files of a checkpoint are corrupt, see `problem`."""
    found = problem(directory, items)
    if not found:
        return
    older = []
    if _is_step(directory):
        older = [step for step in steps(directory.parent) if step < int(directory.name)]
    other = f"{directory.parent / str(max(older))}" if older else "a copy of it"
    raise UserError(f"the checkpoint {directory} is corrupt: {found}; use {other} instead")


def read_json(directory):
    """The metadata of a checkpoint, a dict, with the `metrics` of its later evaluation.

    Raises:
        UserError: it is missing, or no such dict.
    """
    with reading(directory / "about", "the metadata of a checkpoint"):
        # With a `Checkpointer` around the handler, processes would wait for each other.
        about = ocp.JsonCheckpointHandler().restore(directory / "about")
        if not isinstance(about["config"], dict) or not isinstance(about["class_names"], list):
            raise UserError("config isn't an object, or class_names isn't a list")
        # Earlier versions stored the metrics in `about`.
        return about | {"metrics": about.get("metrics") or _read_metrics(directory)}


def newest_about(directory):
    """Metadata of the newest readable checkpoint in `directory`; empty if there is none."""
    for step in sorted(steps(directory), reverse=True):
        if not problem(directory / str(step), ()):
            return read_json(directory / str(step))
    return {}


def write_metrics(directory, metrics):
    """Write the metrics of a checkpoint beside its items."""
    content = {"metrics": metrics, "crc32": checksums.crc32_of(metrics)}
    write_text(directory / _METRICS, json.dumps(content) + "\n")


def _read_metrics(directory):
    """The metrics of a checkpoint; empty if they are corrupt, since it can be evaluated again."""
    try:
        content = json.loads((directory / _METRICS).read_text())
        if content["crc32"] == checksums.crc32_of(content["metrics"]):
            return content["metrics"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}
