"""Unpacking of archives that resumes and never writes outside of the target folder.

Files get their names when they are complete, so a second run skips them. `unpacked.json` in the
target lists the archives that were unpacked, and the one in progress.
"""

import json
import os

from trn_jax.errors import UserError
from trn_jax.files import open_atomic, read_text, write_text
from trn_jax.progress import Progress

_RECORD = "unpacked.json"


def unpack(to, name, find, place, *, tree):
    """Unpack an archive, unless `unpacked.json` has it.

    Args:
        to: target folder.
        name: key of the archive in `unpacked.json`.
        find: returns a `SplitTar` or `Zip`, or `None` if there is none; not called if all is done.
        place: maps the name of a member to its path below `to`; `None` skips the member.
        tree: folder below `to` that the archive fills. If there is no archive, but this folder,
            without an entry in `unpacked.json`, it was unpacked by other means.

    Returns:
        Whether anything was unpacked.

    Raises:
        UserError: archives are missing, corrupt or dangerous, an interrupted unpacking began with
            other archives, or the target cannot be written to.
    """
    record = _read_record(to)
    before = record.get(name)
    if before and before["files"] is not None:
        return False
    archive = find()
    if archive is None:
        if before is None and os.path.isdir(os.path.join(to, tree)):
            return False
        interrupted = " (unpacking them was interrupted)" if before else ""
        raise UserError(
            f"there are no archives of {name}{interrupted} in the folder of --archives; download "
            "them to it, or name another"
        )
    if before and before["archives"] != archive.sizes:
        raise UserError(
            f"unpacking {name} to {to} was interrupted, and began with other archives "
            f"({_sizes(before['archives'])}; found {_sizes(archive.sizes)}); give the same ones, "
            "or choose an empty folder"
        )
    record[name] = {"archives": archive.sizes, "files": None}
    _write_record(to, record)
    record[name] = {"archives": archive.sizes, "files": _unpack_all(archive, to, place)}
    _write_record(to, record)
    return True


def _unpack_all(archive, to, place):
    """Write the members that have a place, and return their number."""
    num_files = 0
    with Progress(f"Unpacking {archive.title}", archive.num_bytes, "B") as progress:
        for member in archive.members(progress):
            path = place(member.name)
            if path is not None:
                _write(os.path.join(to, path), member)
                num_files += 1
    return num_files


def _write(path, member):
    if os.path.isfile(path) and os.path.getsize(path) == member.size:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open_atomic(path, sync=False) as file:  # to sync millions of frames would take hours
        for chunk in member.chunks:
            file.write(chunk)


def _read_record(to):
    path = os.path.join(to, _RECORD)
    try:
        return json.loads(read_text(path)) if os.path.exists(path) else {}
    except ValueError as error:
        raise UserError(
            f"cannot read {path}, the list of unpacked archives ({error}); remove it, and the "
            "archives are compared with the files again"
        ) from None


def _write_record(to, record):
    write_text(os.path.join(to, _RECORD), json.dumps(record, indent=1, sort_keys=True) + "\n")


def _sizes(sizes):
    return f"{len(sizes)} files of {sum(sizes.values()):,} bytes"
