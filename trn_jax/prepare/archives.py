"""Unpacking archives: nothing outside of the target, and on from where an interruption came.

Two kinds are known. `SplitTar` is a tar file, gzipped or not, that was cut into parts `name-00`,
`name-01`, ..., of which each may lie in a zip file of its own; they are read as one stream, so the
disk needs no room for a joined copy. `Zip` is a zip file.

Files get their names when they are complete, so a second attempt can tell what is done.
`unpacked.json` in the target tells which archives were unpacked wholly.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import os
import pathlib
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from trn_jax.errors import UserError
from trn_jax.files import write_text
from trn_jax.prepare.progress import Progress

_RECORD = "unpacked.json"
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20  # bytes
# What the libraries raise on archives that are cut off, damaged or of unknown kinds.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)
# Headers of tar files that extend the one behind them.
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MAX_EXTENSION = 1 << 20  # bytes
_DOWNLOAD = "download it again"


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: its path there, with "/"; never one that leads elsewhere.
        size: bytes.
        chunks: gives the content; archives skip what is not asked for.
    """

    name: str
    size: int
    chunks: Iterator[bytes]


def unpack(to, name, find, place, *, tree):
    """Unpack an archive, unless that was done before.

    Args:
        to: target folder.
        name: what `unpacked.json` calls the archive.
        find: gives a `SplitTar` or `Zip`, or `None` if there is none; not called if all is done.
        place: for the name of a member, its path below `to`; `None` leaves the member out.
        tree: folder below `to` that the archive fills. If it exists without an entry in
            `unpacked.json`, and there is no archive, somebody has unpacked it by hand.

    Returns:
        Whether anything was unpacked.

    Raises:
        UserError: archives are missing, damaged or dangerous, an interrupted unpacking began with
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
        interrupted = "; unpacking them was interrupted" if before else ""
        raise UserError(f"no archives of {name} found{interrupted}; give their folder: --archives")
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
    """The number of files that the archive has for us, after they were written."""
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
    partial = f"{path}.partial"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(partial, "wb") as file:
            for chunk in member.chunks:
                file.write(chunk)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; mend that (make room, if the disk is "
            "full) and run the same command again, which goes on from here"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(partial)


def _read_record(to):
    path = os.path.join(to, _RECORD)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path}, which tells what was unpacked ({error}); remove it, and what is "
            "there already is compared with the archives again"
        ) from None


def _write_record(to, record):
    write_text(os.path.join(to, _RECORD), json.dumps(record, indent=1, sort_keys=True) + "\n")


def _sizes(sizes):
    return f"{len(sizes)} files of {sum(sizes.values()):,} bytes"


def _safe(archive, name):
    """The name of a member, without "./"; refuses those that lead out of a folder."""
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or re.search(r"[\\\0]", name):
        raise UserError(
            f"{archive} has a member {name!r}, a path that may lead out of the target folder, as "
            "the archives of this data set have none; it was not written. Get the archives from "
            "their official place"
        )
    return str(path)


def _refuse_kind(archive, name, kind):
    return UserError(
        f"{archive} has a member {name!r} that is a {kind}, and not a file or a folder, as all "
        "are in the archives of this data set; it was not written. Get the archives from their "
        "official place"
    )


# Zip files


@contextlib.contextmanager
def _open_zip(path):
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is incomplete or no zip file ({error}); {_DOWNLOAD}") from None
    with archive:
        yield archive


@dataclasses.dataclass(frozen=True)
class Zip:
    """A zip file, by its path."""

    path: str

    @property
    def title(self):
        """Its name for people."""
        return os.path.basename(self.path)

    @property
    def sizes(self):
        """The bytes of its file, by name."""
        return {self.title: os.path.getsize(self.path)}

    @property
    def num_bytes(self):
        """Bytes that `members` reports as progress."""
        with _open_zip(self.path) as archive:
            return sum(info.file_size for info in archive.infolist())

    def members(self, progress=None):
        """Its files; those with dangerous names or of other kinds are refused before the first."""
        with _open_zip(self.path) as archive:
            files = [info for info in archive.infolist() if self._is_file(info)]
            for info in files:
                name = _safe(self.path, info.filename)
                yield Member(name, info.file_size, self._chunks(archive, info))
                if progress:
                    progress.add(info.file_size)

    def _is_file(self, info):
        _safe(self.path, info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 in archives that were not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refuse_kind(self.path, info.filename, "link or device")
        return not info.is_dir()

    def _chunks(self, archive, info):
        try:
            with archive.open(info) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except _DAMAGE as error:
            raise UserError(
                f"{self.path} is damaged at {info.filename!r} ({error}); {_DOWNLOAD}"
            ) from None


def find_zip(folder, name):
    """A `Zip` of the file `name` in the folder of the archives, or `None` if there is none."""
    return Zip(os.path.join(folder, name)) if name in _list_folder(folder) else None


# Split tar files


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
        """The part as a binary file."""
        if not self.member:
            return open(self.path, "rb", buffering=0)
        with zipfile.ZipFile(self.path) as archive:
            return archive.open(self.member)  # stays open without the archive


def find_split_tar(folder, stem, *, num_parts=None):
    """Find the parts `<stem>-00`, `<stem>-01`, ..., each as it is or in a zip file.

    Args:
        folder: where to look.
        stem: what their names begin with.
        num_parts: how many there are, where that is known.

    Returns:
        A `SplitTar`, or `None` if there is no part at all.

    Raises:
        UserError: parts are missing or incomplete; all of them are named.
    """
    pattern = re.compile(re.escape(stem) + r"-(\d\d)(\.zip)?")
    names = _list_folder(folder)
    found: dict[int, str] = {}
    for name in names:  # in order, so that a part comes before the zip file with the same part
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
    """Find a tar file that is not split, `<stem>.tar` or `<stem>.tar.gz`; as `find_split_tar`."""
    names = _list_folder(folder)
    name = next((name for name in (f"{stem}.tar", f"{stem}.tar.gz") if name in names), None)
    if name is None:
        return None
    return SplitTar(name, (_part(os.path.join(folder, name)),))


def _list_folder(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(
            f"cannot read the folder of the archives {folder}: {error.strerror}; correct --archives"
        ) from None


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
    with _open_zip(path) as archive:
        for info in archive.infolist():
            if pathlib.PurePosixPath(info.filename).name == stem:
                return Part(path, info.filename, info.file_size)
        raise UserError(
            f"{path} does not hold {stem}, but {', '.join(archive.namelist()[:5]) or 'nothing'}; "
            f"{_DOWNLOAD}"
        )


def _check_sizes(parts):
    """Parts are cut to one size, so all but the last that are smaller are incomplete."""
    largest = max(part.size for part in parts)
    cut = [part for part in parts[:-1] if part.size < largest]
    cut += [part for part in parts[-1:] if part.size == 0]
    if cut:
        raise UserError(
            f"parts are incomplete: {', '.join(f'{p.path} ({p.size:,} bytes)' for p in cut)}; all "
            f"but the last should have {largest:,} bytes; download them again"
        )


@dataclasses.dataclass(frozen=True)
class SplitTar:
    """A tar file in parts.

    Attributes:
        title: its name for people.
        parts: its parts, in order.
    """

    title: str
    parts: tuple[Part, ...]

    @property
    def sizes(self):
        """The bytes of its parts, by the names of their files."""
        return {os.path.basename(part.path): part.size for part in self.parts}

    @property
    def num_bytes(self):
        """Bytes that `members` reports as progress."""
        return sum(part.size for part in self.parts)

    def _is_gzipped(self):
        with self.parts[0].open() as file:
            return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC

    def members(self, progress=None):
        """Its files, in their order; members of other kinds and dangerous names are refused."""
        stream = _Joined(self.parts, progress)
        file: io.BufferedIOBase = io.BufferedReader(stream, _CHUNK)
        archive: Any
        with _naming_damage(stream):
            if self._is_gzipped():
                file = gzip.GzipFile(fileobj=file)
            with tarfile.open(fileobj=file, mode="r|", tarinfo=_CheckedHeader) as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # millions of them would fill the memory
                    name = _safe(self.title, info.name)
                    if info.isdir():
                        continue
                    if not info.isreg():
                        raise _refuse_kind(self.title, name, "link or device")
                    yield Member(name, info.size, _chunks(archive.extractfile(info), stream))
            while file.read(_CHUNK):
                pass  # gzip's checksum stands at the very end


def _chunks(file, stream):
    with _naming_damage(stream):
        while chunk := file.read(_CHUNK):
            yield chunk


@contextlib.contextmanager
def _naming_damage(stream):
    """Turn what libraries raise on a damaged archive into an error that names the part."""
    try:
        yield
    except _DAMAGE as error:
        part = stream.part.path if stream.part else "the archive"
        if isinstance(error, EOFError) or "unexpected end" in str(error):
            raise UserError(
                f"the archive ends too early ({error}): {part} is incomplete, or parts behind it "
                "are missing; download them again"
            ) from None
        raise UserError(
            f"{part} is damaged, or the part before it, or it is no part of a tar file ({error}); "
            "download them again"
        ) from None


class _CheckedHeader(tarfile.TarInfo):
    """A header of a tar file whose damage is told.

    `tarfile` takes a damaged header behind the first one, or none at all, for the end of the file,
    and reads headers that extend others, such as by a long name, at once, however long they are.
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


class _Joined(io.RawIOBase):
    """The parts of an archive as one file; `part` is the one that is being read."""

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
