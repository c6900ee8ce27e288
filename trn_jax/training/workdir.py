"""The working directory: which run it belongs to, and the records that a run keeps in it."""

import hashlib
import json
import os
import pathlib
import platform

import jax
import numpy as np

from trn_jax import __version__
from trn_jax.checkpoints import integrity
from trn_jax.checks import differing_names
from trn_jax.errors import UserError, listed
from trn_jax.files import write_bytes, write_text
from trn_jax.nn.precision import AUTO, compute_dtype
from trn_jax.settings import flat, from_dict, resolved, to_json

# Parts of the configuration that a resumed run may change: they do not touch the parameters of a
# healthy run, except for rounding.
_FREE_KEYS = (
    "data_dir",
    "data.max_pixels",
    "data.num_threads",
    "data.num_workers",
    "data.on_error",
    "data.val",
    "eval",
    "init_required",
    "model.remat",
    "protocols",
    "published",
    "short_side",  # of the views, which are compared, as is size
    "size",
    "train.checkpoint_every",
    "train.eval_every",
    "train.keep",
    "train.log_every",
    "train.on_nan",
    "train.shard_state",
    "train.step_timeout",
    "train.steps",
)


def check_config(config, checkpoints):
    """Check that a folder of checkpoints holds a run of the same configuration.

    A run that ended before its first checkpoint leaves nothing to resume, and no claim.

    Args:
        config: the configuration.
        checkpoints: the folder, which may be missing.

    Returns:
        Metadata of the newest intact checkpoint, see `Checkpoint.info`; empty if there is none.

    Raises:
        UserError: it is another configuration; what differs is named.
    """
    about = integrity.newest_about(pathlib.Path(checkpoints))
    if not about:
        return {}
    before = flat(json.loads(to_json(resolved(from_dict(about["config"])))))
    now = flat(json.loads(to_json(resolved(config))))
    before["model.dtype"] = about.get("dtype", before["model.dtype"])
    if now["model.dtype"] == AUTO:
        now["model.dtype"] = before["model.dtype"]
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not any(key == free or key.startswith(free + ".") for free in _FREE_KEYS)
    ]
    if changed:
        raise UserError(
            f"{checkpoints} belongs to a run of another configuration; choose another --workdir, "
            f"or go back to the old values:{listed(changed)}"
        )
    return about


def dtype_of_run(config, about, devices):
    """The dtype that a run computes in: that of its checkpoints, or what the configuration states.

    A run that moves to other devices, where "auto" is another dtype, remains the same run; so does
    one whose checkpoints are from before "auto".

    Args:
        config: the configuration.
        about: metadata of the newest checkpoint, see `check_config`.
        devices: those that it continues on.
    """
    stored = about.get("dtype") or about["config"]["model"]["dtype"] if about else AUTO
    return compute_dtype(stored if stored != AUTO else config.model.dtype, devices)


def check_data(lists, class_names, about, workdir, *, ignore_lists, ignore_class_names):
    """Check that a run resumes with the classes and the lists that it started with.

    Args:
        lists: see `list_texts`.
        class_names: in the order of the labels.
        about: metadata of the newest checkpoint.
        workdir: the working directory, which has copies of the lists.
        ignore_lists: accept other lists: batches from here on are those of the new one.
        ignore_class_names: accept other names for the same labels.

    Raises:
        UserError: they differ; the message lists what was added, removed and relabelled.
    """
    names = about.get("class_names")
    if names and names != class_names and not ignore_class_names:
        raise UserError(
            "the class names differ from those that this run started with:"
            f"{differing_names(names, class_names)}\nrestore them, or, if the classes were only "
            "renamed, add --ignore_class_names"
        )
    for split, before in about.get("lists", {}).items():
        text = lists[split]
        if _sha256(text) == before["sha256"] or ignore_lists:
            continue
        changes = _changes(os.path.join(workdir, "lists", f"{split}.txt"), before, text)
        raise UserError(
            f"the {split} list differs from the one that this run started with:{listed(changes)}\n"
            "restore it, choose another --workdir, or add --ignore_lists: batches then come from "
            "the new list, and the run can't be reproduced from its start"
        )


def list_texts(data):
    """The lists of a `Data` in one form, whatever they were read from.

    Returns:
        `{"train": text, "val": text}` of lines `<video><tab><number of frames><tab><labels>`.
    """
    texts = {}
    for split in ("train", "val"):
        lines = []
        for name, record in zip(*data.listed(split), strict=True):
            several = isinstance(record.label, tuple)
            label = ",".join(map(str, record.label)) if several else record.label
            lines.append(f"{name}\t{record.num_frames}\t{label}\n")
        texts[split] = "".join(lines)
    return texts


def describe_run(setting, data, lists, *, dtype):
    """The metadata that a run stores in its checkpoints, see `Checkpoint.info`.

    Args:
        setting: the configuration as it was given, a dict.
        data: its `Data`.
        lists: see `list_texts`.
        dtype: of the computation.
    """
    return {
        "config": setting,
        "dtype": dtype,
        "class_names": data.class_names,
        "lists": {
            split: {"videos": text.count("\n"), "sha256": _sha256(text)}
            for split, text in lists.items()
        },
        "sampling": data.sampling(),
    }


def _sha256(text):
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _changes(path, before, text):
    """How a list differs from the one that was there before, of which `path` has a copy."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            old_text = file.read()
    except OSError:
        old_text = ""
    if _sha256(old_text) != before["sha256"]:
        return [f"it had {before['videos']} videos, and has {text.count(chr(10))}, some changed"]
    old, new = (_by_video(content) for content in (old_text, text))
    changes = [f"removed: {name!r}" for name in old.keys() - new.keys()]
    changes += [f"added: {name!r}" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        (frames, label), (new_frames, new_label) = old[name], new[name]
        if label != new_label:
            changes.append(f"relabelled: {name!r}, {label} -> {new_label}")
        elif frames != new_frames:
            changes.append(f"another number of frames: {name!r}, {frames} -> {new_frames}")
    return sorted(changes) or ["the same videos in another order"]


def _by_video(text):
    rows = (line.rsplit("\t", 2) for line in text.split("\n") if line)
    return {name: (frames, label) for name, frames, label in rows}


def describe_workdir(workdir, about, lists):
    """Record the configuration, the data and the environment of a run.

    `config.json`, `environment.json`, `classes.txt`, and copies of the lists in `lists/`.

    Args:
        workdir: the working directory.
        about: see `describe_run`.
        lists: see `list_texts`.
    """
    if jax.process_index():
        return
    text = json.dumps(about["config"], indent=1, sort_keys=True)
    write_text(os.path.join(workdir, "config.json"), text + "\n")
    names = "".join(f"{name}\n" for name in about["class_names"])
    write_text(os.path.join(workdir, "classes.txt"), names)
    folder = os.path.join(workdir, "lists")
    os.makedirs(folder, exist_ok=True)
    for split, text in lists.items():
        content = text.encode(errors="surrogateescape")
        write_bytes(os.path.join(folder, f"{split}.txt"), content)
    environment = {
        "trn_jax": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "devices": [device.device_kind for device in jax.devices()],
        "dtype": about["dtype"],
        "processes": jax.process_count(),
    }
    path = os.path.join(workdir, "environment.json")
    write_text(path, json.dumps(environment, indent=1) + "\n")
