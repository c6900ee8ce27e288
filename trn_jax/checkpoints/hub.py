"""Checkpoints on the Hugging Face hub: `hf:<user>/<name>[@<revision>]`.

A revision is a branch, a tag or a commit. What is downloaded stays in the cache of the hub, see
`HF_HOME`; without a connection, and with `HF_HUB_OFFLINE=1`, it is taken from there.
"""

import contextlib
import os
import pathlib
import re

from trn_jax.checkpoints import calibration_file, checksums, hub_folder
from trn_jax.distributed.processes import log
from trn_jax.errors import UserError, first_line

PREFIX = "hf:"
_NEEDED = (hub_folder.CONFIG, hub_folder.WEIGHTS, checksums.NAME)
_WANTED = [*_NEEDED, calibration_file.NAME]
_TIMEOUT = 10  # seconds to wait for an answer before the cache is used
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"hf:({_NAME}/{_NAME})(?:@([A-Za-z0-9._/-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_address(path):
    """Whether a path is an address on the hub; a folder of such a name is `./hf:...`."""
    return os.fspath(path).startswith(PREFIX)


def parsed(address):
    """`"hf:user/name@revision"` -> `("user/name", "revision")`; the revision may be `None`.

    Raises:
        UserError: it has another form.
    """
    found = _ADDRESS.fullmatch(os.fspath(address))
    if found is None:
        raise UserError(
            f"{address}: expected hf:<user>/<name> or hf:<user>/<name>@<revision>, such as "
            "hf:user/trn_jester@main"
        )
    return found[1], found[2]


def check_target(address):
    """Check that something can be uploaded to an address; returns `<user>/<name>`.

    Raises:
        UserError: it is no address, names a revision, or `huggingface_hub` isn't installed.
    """
    name, revision = parsed(address)
    if revision is not None:
        raise UserError(f"{address}: leave @{revision} out; an upload makes a new revision")
    client()
    return name


def client():
    """The package `huggingface_hub`.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            "checkpoints on the Hugging Face hub need the package huggingface_hub: "
            "pip install 'trn_jax[hub]'"
        ) from None
    return huggingface_hub


def pinned(path):
    """A path that stays the same checkpoint: an address gets its commit, others stay."""
    return download(path)[1] if is_address(path) else path


def download(address):
    """Download a checkpoint, unless it is in the cache of the hub.

    Args:
        address: `hf:<user>/<name>[@<revision>]`.

    Returns:
        Its folder, and its address with the commit.

    Raises:
        UserError: it is wrong, is not there, is of another project, or can't be downloaded.
    """
    name, revision = parsed(address)
    client()
    is_commit = revision is not None and _COMMIT.fullmatch(revision)
    if is_commit and (folder := _cached(name, revision)):
        return folder, os.fspath(address)
    try:
        files = _files(address)
        _check_files(address, files)
        return _downloaded(address, files)
    except ConnectionError as error:
        folder = _cached(name, revision)
        if folder is None:
            raise UserError(
                f"{address} can't be downloaded ({error}), and it is not in the cache of the hub"
            ) from error
        if not client().constants.HF_HUB_OFFLINE:
            log(f"the hub can't be reached ({error}); taking {folder.name} from its cache")
        return folder, f"{PREFIX}{name}@{folder.name}"


def _files(address):
    """The files at an address, `{name: bytes}`."""
    name, revision = parsed(address)
    with explained(address):
        options = dict(files_metadata=True, timeout=_TIMEOUT)
        info = client().HfApi().model_info(name, revision=revision, **options)
    return {each.rfilename: each.size or 0 for each in info.siblings or ()}


def _check_files(address, files):
    """Check that there is a hub folder, before anything is downloaded."""
    if hub_folder.CONFIG not in files:
        raise UserError(
            f"{address} has no {hub_folder.CONFIG}, so it is no checkpoint of trn_jax; `trn-jax "
            "push` uploads one"
        )
    if files[hub_folder.CONFIG] > hub_folder.MAX_BYTES:
        raise UserError(
            f"{address}: {hub_folder.CONFIG} has {files[hub_folder.CONFIG]:,} bytes, more than "
            f"{hub_folder.MAX_BYTES:,}"
        )


def _downloaded(address, files):
    """The folder with the files at an address, and the address with its commit."""
    name, revision = parsed(address)
    # The revision, not the commit: the cache then has what the revision was.
    folder = _snapshot(address, name, revision, [hub_folder.CONFIG], quiet=True)
    try:
        hub_folder.read_config(folder)  # before gigabytes of another project come
    except UserError as error:
        raise UserError(f"{address}: {error}") from None
    commit = f"{PREFIX}{name}@{folder.name}"
    missing = [each for each in _NEEDED if not (folder / each).exists()]
    if missing:
        log(f"downloading {commit} ({sum(files.get(each, 0) for each in missing) / 1e6:,.1f} MB)")
    _snapshot(address, name, folder.name, _WANTED, quiet=not missing)
    return folder, commit


def _cached(name, revision):
    """The folder of a revision in the cache, or `None`."""
    with contextlib.suppress(ConnectionError):
        folder = _snapshot(name, name, revision, _WANTED, quiet=True, local_files_only=True)
        if all((folder / each).exists() for each in _NEEDED):
            return folder
    return None


def _snapshot(address, name, revision, patterns, *, quiet, **options):
    """The folder of a revision with the files that match patterns."""
    with explained(address):
        from huggingface_hub.utils import tqdm

        class Quiet(tqdm):
            def __init__(self, *args, **bar):
                super().__init__(*args, **bar | {"disable": True})

        options |= dict(tqdm_class=Quiet) if quiet else {}
        options |= dict(revision=revision, allow_patterns=patterns)
        return pathlib.Path(client().snapshot_download(name, **options))


@contextlib.contextmanager
def explained(address):
    """Turn errors of the client of the hub into others.

    Raises:
        UserError: the name is wrong, or access is refused.
        ConnectionError: the hub can't be reached, or fails; the message has the reason.
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(
            f"{address} is gated: request access on its page on the hub, and {_LOG_IN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{address}: there is no such model on the hub, or it is private; check the name, or "
            f"{_LOG_IN}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{address}: there is no such revision; expected a branch, a tag or a commit"
        ) from None
    except errors.HFValidationError as error:
        raise UserError(f"{address}: {first_line(error)}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UserError(
                f"{address}: the hub refuses access (status {status}); as a user who has it, "
                f"{_LOG_IN}"
            ) from None
        raise ConnectionError(f"status {status}") from error
    except Exception as error:
        raise ConnectionError(f"{type(error).__name__}: {first_line(error)}") from error
