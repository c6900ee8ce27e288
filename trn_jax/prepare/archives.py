"""Zip archives, and the checks that all archives share."""

import contextlib
import dataclasses
import os
import pathlib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from trn_jax.errors import UserError

CHUNK_SIZE = 1 << 20  # bytes
DOWNLOAD = "download it again"
# What the libraries raise for truncated, corrupt or unsupported archives.
CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: path in the archive, with "/", below the target folder.
        size: bytes.
        chunks: iterates over the content; unread content is skipped.
    """

    name: str
    size: int
    chunks: Iterator[bytes]


def safe_name(archive, name):
    """The name of a member without "./".

    Raises:
        UserError: it leads out of the target folder.
    """
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or re.search(r"[\\\0]", name):
        raise UserError(
            f"{archive} has a member {name!r}, which may lead out of the target folder; nothing "
            "of it was written. Download the archives from their official site"
        )
    return str(path)


def refuse_kind(archive, name):
    """The error for a member that is neither a file nor a folder."""
    return UserError(
        f"{archive} has a member {name!r} that is a link or device, expected files and folders; "
        "it was not written. Download the archives from their official site"
    )


@dataclasses.dataclass(frozen=True)
class Zip:
    """A zip file.

    Attributes:
        path: the file.
    """

    path: str

    @property
    def title(self):
        """Name of the file."""
        return os.path.basename(self.path)

    @property
    def sizes(self):
        """`{name of the file: bytes}`."""
        return {self.title: os.path.getsize(self.path)}

    @property
    def num_bytes(self):
        """Total of what `members` adds to a progress."""
        with open_zip(self.path) as archive:
            return sum(info.file_size for info in archive.infolist())

    def members(self, progress=None):
        """Yield the files as `Member`s, after a check of all names and types."""
        with open_zip(self.path) as archive:
            files = [info for info in archive.infolist() if self._is_file(info)]
            for info in files:
                name = safe_name(self.path, info.filename)
                yield Member(name, info.file_size, self._chunks(archive, info))
                if progress:
                    progress.add(info.file_size)

    def _is_file(self, info):
        safe_name(self.path, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in archives that were not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse_kind(self.path, info.filename)
        return not info.is_dir()

    def _chunks(self, archive, info):
        try:
            with archive.open(info) as file:
                while chunk := file.read(CHUNK_SIZE):
                    yield chunk
        except CORRUPT as error:
            raise UserError(
                f"{self.path} is corrupt at {info.filename!r} ({error}); {DOWNLOAD}"
            ) from None


@contextlib.contextmanager
def open_zip(path):
    """Open a `zipfile.ZipFile` to read.

    Raises:
        UserError: it is truncated or not a zip file.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is truncated or not a zip file ({error}); {DOWNLOAD}") from None
    with archive:
        yield archive


def find_zip(folder, name):
    """The `Zip` of this name in the folder of the archives, or `None`."""
    return Zip(os.path.join(folder, name)) if name in list_archives(folder) else None


def list_archives(folder):
    """Sorted names in the folder of the archives."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"cannot read the folder of the archives {folder}: {error.strerror}; correct --archives"
        ) from None
