"""Tar archives, split into parts or not, gzipped or not.

Parts are `name-00`, `name-01`, ..., and each may be in a zip file of its own. They are read as one
stream, so no joined copy takes space on the disk.
"""

import contextlib
import dataclasses
import gzip
import io
import os
import pathlib
import re
import tarfile
import zipfile
from typing import Any

from trn_jax.errors import UserError
from trn_jax.prepare.archives import (
    CHUNK_SIZE,
    CORRUPT,
    DOWNLOAD,
    Member,
    list_archives,
    open_zip,
    refuse_kind,
    safe_name,
)

_GZIP_MAGIC = b"\x1f\x8b"
# Headers that extend the one behind them.
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MAX_EXTENSION = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a split archive: a file, or a member of a zip file.

    Attributes:
        path: the file.
        member: name in the zip file; "" if `path` is the part itself.
        size: bytes of the part.
    """

    path: str
    member: str
    size: int

    def open(self):
        """Open the part as a binary file."""
        if not self.member:
            return open(self.path, "rb", buffering=0)
        with zipfile.ZipFile(self.path) as archive:
            return archive.open(self.member)  # stays open without the archive


@dataclasses.dataclass(frozen=True)
class SplitTar:
    """A tar archive in parts.

    Attributes:
        title: its name, for messages.
        parts: its parts, in order.
    """

    title: str
    parts: tuple[Part, ...]

    @property
    def sizes(self):
        """`{file name of a part: bytes}`."""
        return {os.path.basename(part.path): part.size for part in self.parts}

    @property
    def num_bytes(self):
        """Total of what `members` adds to a progress."""
        return sum(part.size for part in self.parts)

    def members(self, progress=None):
        """Yield the files as `Member`s, in order; an unsafe name or type raises `UserError`."""
        stream = _JoinedParts(self.parts, progress)
        file: io.BufferedIOBase = io.BufferedReader(stream, CHUNK_SIZE)
        archive: Any
        with _naming_corrupt_part(stream):
            if self._is_gzipped():
                file = gzip.GzipFile(fileobj=file)
            with tarfile.open(fileobj=file, mode="r|", tarinfo=_CheckedHeader) as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # millions of them would fill the memory
                    name = safe_name(self.title, info.name)
                    if info.isdir():
                        continue
                    if not info.isreg():
                        raise refuse_kind(self.title, name)
                    yield Member(name, info.size, _chunks(archive.extractfile(info), stream))
            while file.read(CHUNK_SIZE):
                pass  # up to the checksum of gzip, at the very end

    def _is_gzipped(self):
        with self.parts[0].open() as file:
            return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _chunks(file, stream):
    with _naming_corrupt_part(stream):
        while chunk := file.read(CHUNK_SIZE):
            yield chunk


@contextlib.contextmanager
def _naming_corrupt_part(stream):
    """Turn the errors of libraries on a corrupt archive into a `UserError` that names the part."""
    try:
        yield
    except CORRUPT as error:
        part = stream.part.path if stream.part else "the archive"
        if isinstance(error, EOFError) or "unexpected end" in str(error):
            raise UserError(
                f"the archive ends too early ({error}): {part} is incomplete, or parts behind it "
                "are missing; download them again"
            ) from None
        raise UserError(
            f"{part} or the part before it is corrupt, or is not part of a tar file ({error}); "
            "download them again"
        ) from None


class _CheckedHeader(tarfile.TarInfo):
    """A header of a tar file that raises if it is corrupt.

    `tarfile` takes a corrupt or missing header, other than the first, for the end of the file, and
    reads headers that extend others, such as by a long name, at once, whatever their length.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            header = super().frombuf(buf, encoding, errors)
            if header.type in _EXTENSIONS and header.size > _MAX_EXTENSION:
                raise tarfile.ReadError(f"a header of {header.size:,} bytes")
            return header
        except tarfile.HeaderError as error:
            if len(buf) < tarfile.BLOCKSIZE:
                raise EOFError(f"{error} where a file should begin") from None
            if any(buf):
                raise tarfile.ReadError(f"{error} where a file should begin") from None
            raise  # zeros mark the end


class _JoinedParts(io.RawIOBase):
    """The parts of an archive as one file; `part` is the current one."""

    def __init__(self, parts, progress=None):
        self._waiting = list(reversed(parts))
        self._file = io.BytesIO()
        self._progress = progress
        self.part = None

    def readable(self):
        return True

    def readinto(self, buffer):
        while not (count := self._file.readinto(buffer)):
            self._file.close()
            if not self._waiting:
                self._file = io.BytesIO()
                return 0
            self.part = self._waiting.pop()
            self._file = self.part.open()
        if self._progress:
            self._progress.add(count)
        return count


def find_split_tar(folder, stem, *, num_parts=None):
    """Find the parts `<stem>-00`, `<stem>-01`, ..., each as it is or in a zip file.

    Returns:
        A `SplitTar`, or `None` if there is no part at all.

    Raises:
        UserError: of `num_parts`, or up to the last one found, some are missing or incomplete; all
            of them are named.
    """
    pattern = re.compile(re.escape(stem) + r"-(\d\d)(\.zip)?")
    names = list_archives(folder)
    found: dict[int, str] = {}
    for name in names:  # sorted, so that a part comes before the zip file of the same part
        if match := pattern.fullmatch(name):
            found.setdefault(int(match[1]), name)
    if not found:
        return None
    expected = max(num_parts or 0, max(found) + 1)
    missing = [f"{stem}-{number:02d}" for number in range(expected) if number not in found]
    if missing:
        downloads = [name for name in names if name.startswith(tuple(missing))]
        raise UserError(
            f"{len(missing)} of {expected} parts are missing in {folder}: {', '.join(missing)}"
            + (f" (there are {', '.join(downloads)})" if downloads else "")
            + "; download them, too"
        )
    parts = _parts([os.path.join(folder, found[number]) for number in range(expected)])
    _check_sizes(parts)
    return SplitTar(stem, tuple(parts))


def find_tar(folder, stem):
    """Find `<stem>.tar` or `<stem>.tar.gz`: a `SplitTar` of one part, or `None`."""
    names = list_archives(folder)
    name = next((name for name in (f"{stem}.tar", f"{stem}.tar.gz") if name in names), None)
    return None if name is None else SplitTar(name, (_part(os.path.join(folder, name)),))


def _parts(paths):
    parts, problems = [], []
    for path in paths:
        try:
            parts.append(_part(path))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return parts


def _part(path):
    if not path.endswith(".zip"):
        return Part(path, "", os.path.getsize(path))
    stem = os.path.basename(path).removesuffix(".zip")
    with open_zip(path) as archive:
        for info in archive.infolist():
            if pathlib.PurePosixPath(info.filename).name == stem:
                return Part(path, info.filename, info.file_size)
        raise UserError(
            f"{path} does not hold {stem}, but {', '.join(archive.namelist()[:5]) or 'nothing'}; "
            f"{DOWNLOAD}"
        )


def _check_sizes(parts):
    """Check that all parts but the last have one size; smaller ones are incomplete."""
    largest = max(part.size for part in parts)
    cut = [part for part in parts[:-1] if part.size < largest]
    cut += [part for part in parts[-1:] if part.size == 0]
    if cut:
        raise UserError(
            f"parts are incomplete: {', '.join(f'{p.path} ({p.size:,} bytes)' for p in cut)}; all "
            f"but the last should have {largest:,} bytes; download them again"
        )
