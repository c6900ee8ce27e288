"""Weights in several files, with an index or numbers, as Hugging Face stores large networks.

An index, such as `model.safetensors.index.json`, has a `weight_map` from each tensor to its file in
the same folder. Without one, names such as `model-00002-of-00005.safetensors` give the number.
"""

import json
import os
import re

from trn_jax.errors import UserError, escaped, listed
from trn_jax.files import reading

_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_MAX_INDEX = 64 << 20  # bytes; that of 100,000 tensors has less than 16 MiB


def resolve(path):
    """The files that hold the weights at `path`.

    Args:
        path: a file of weights, an index, one of the numbered files, or the folder of these.

    Returns:
        `{file: names}`: the names of the tensors to read from each file, or `None` for all.

    Raises:
        UserError: a file is missing, the index is malformed or names files elsewhere, or a folder
            has no weights.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        path = _in_folder(path)
    if path.endswith(_INDEX):
        with reading(path, "an index of weights"):
            return _by_index(path)
    folder, name = os.path.split(path)
    shard = _SHARD.fullmatch(name)
    if shard is None:
        return {path: None}
    stem, _, count, extension = shard.groups()
    index = os.path.join(folder, f"{stem}{extension}{_INDEX}")
    if os.path.exists(index):
        return resolve(index)
    if not 0 < int(count) <= 9999:
        raise UserError(f"{path}: {count} files of one network; expected 1 to 9999")
    names = [f"{stem}-{number:05d}-of-{count}{extension}" for number in range(1, int(count) + 1)]
    return dict.fromkeys(_existing(folder, names))


def _in_folder(folder):
    found = sorted(os.listdir(folder))
    indexes = [name for name in found if name.endswith(_INDEX)]
    # The same weights often exist in both formats.
    for candidates in (
        [name for name in _WHOLE if name in found],
        [name for name in indexes if ".safetensors" in name],
        indexes,
        [name for name in found if _SHARD.fullmatch(name)][:1],
    ):
        if candidates:
            return os.path.join(folder, candidates[0])
    raise UserError(
        f"cannot read {folder}: the folder has none of {', '.join(_WHOLE)}, *{_INDEX}; give the "
        "file of weights"
    )


def _by_index(path):
    if os.path.getsize(path) > _MAX_INDEX:
        raise UserError(f"{os.path.getsize(path):,} bytes; an index has at most {_MAX_INDEX:,}")
    with open(path, "rb") as file:
        content = json.load(file)
    entries = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not entries:
        raise UserError('no "weight_map" from tensors to files')
    files: dict[str, list] = {}
    for tensor, name in entries.items():
        if not isinstance(name, str) or not name or re.search(r"[/\\\0]|^\.+$", name):
            raise UserError(
                f"the file of {tensor!r} is {name!r}; expected a name in the same folder"
            )
        files.setdefault(name, []).append(tensor)
    paths = _existing(os.path.dirname(path), sorted(files))
    return dict(zip(paths, (files[name] for name in sorted(files)), strict=True))


def _existing(folder, names):
    paths = [os.path.join(folder, name) for name in names]
    missing = [os.path.basename(p) for p in paths if not os.path.exists(p)]
    if missing:
        where = folder or "."
        raise UserError(
            f"{len(missing)} of the {len(names)} files of the weights are missing in {where}; "
            f"download them:{listed([escaped(name) for name in missing])}"
        )
    return paths
