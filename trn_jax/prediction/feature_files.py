"""Files of features, `.npz` or Parquet, written in parts so that an interrupted command resumes."""

import dataclasses
import functools
import io
import json
import os
import shutil
import time
import zipfile
import zlib

import numpy as np

from trn_jax.errors import UserError
from trn_jax.files import as_text, differences, from_text, open_atomic, reading, write_bytes
from trn_jax.npz import read_npz
from trn_jax.prediction.contract import EARLIER

_KINDS = (".npz", ".parquet")
_PART_BYTES = 64 << 20  # of vectors, that are in memory until a part is written
_PART_SECONDS = 30.0  # of work that an interruption may cost


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Features of some videos: a name, a time and a vector per row."""

    videos: np.ndarray
    times: np.ndarray
    vectors: np.ndarray


class FeatureFile:
    """A file of features, which a command continues when it is run again; use it in a `with`.

    A row has the name of a `video`, a `time` in seconds and a `vector`. `.npz` has these three as
    arrays, and `about`, JSON with what made them; Parquet has three columns, with names as of
    `files.as_text`, and `about` in the metadata of its schema. Until all videos are done, the rows
    are in parts, in `<path>.parts`.
    Videos that an earlier run wrote stay; new ones follow.

    Args:
        path: the file, `.npz` or `.parquet`.
        about: what makes the features (checkpoint, sampling contract), a dict that JSON can hold.

    Attributes:
        done: names of the videos whose features are there.

    Raises:
        UserError: the file has another extension, pyarrow is missing, or there are features of
            another model or other settings.
    """

    def __init__(self, path, about):
        self.path = os.fspath(path)
        self._kind = kind_of(path)
        self._about = json.loads(json.dumps(about))
        self._folder = f"{self.path}.parts"
        self._files: list[str] = []
        self.done: set[str] = set()
        for file in [self.path, *self._listed_parts()]:
            # Parts may have survived the file that was made of them.
            if os.path.exists(file) and (names := self._names(file)) - self.done:
                self._files.append(file)
                self.done |= names
        self._waiting: list = []
        self._next_write = time.monotonic() + _PART_SECONDS

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._write_part()

    def add(self, features):
        """Add the `VideoFeatures` of a readable video."""
        self._waiting.append(features)
        self.done.add(features.video)
        size = sum(each.vectors.nbytes for each in self._waiting)
        if size >= _PART_BYTES or time.monotonic() >= self._next_write:
            self._write_part()

    def finish(self):
        """Write the file from all parts, and remove these; without any rows, write nothing.

        Returns:
            The number of rows.

        Raises:
            UserError: the disk is full.
        """
        self._write_part()
        if not self._files:
            return 0
        if self._files != [self.path]:
            write = _write_npz if self._kind == ".npz" else _write_parquet
            parts = [functools.partial(self._read, file) for file in self._files]
            write(self.path, parts, json.dumps(self._about))
            self._files = [self.path]
        shutil.rmtree(self._folder, ignore_errors=True)
        return len(self._read(self.path).times)

    def _names(self, file):
        return set(map(str, self._read(file).videos))

    def _listed_parts(self):
        names = os.listdir(self._folder) if os.path.isdir(self._folder) else []
        return [os.path.join(self._folder, n) for n in sorted(names) if n.endswith(".npz")]

    def _write_part(self):
        self._next_write = time.monotonic() + _PART_SECONDS
        if not self._waiting:
            return
        rows, self._waiting = self._waiting, []
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, f"{len(self._files):06d}.npz")
        part = io.BytesIO()
        np.savez(
            part,
            allow_pickle=False,
            video=np.repeat([each.video for each in rows], [len(each.times) for each in rows]),
            time=np.concatenate([each.times for each in rows]),
            vector=np.concatenate([each.vectors for each in rows]),
            about=np.array(json.dumps(self._about)),
        )
        write_bytes(path, part.getbuffer())
        self._files.append(path)

    def _read(self, path):
        part, about = read_features(path)
        before = {key: about.get(key, EARLIER.get(key)) for key in self._about}
        differing = differences(before, self._about)
        if differing:
            raise UserError(
                f"{path} was made otherwise: {differing}; choose another file with --to, or remove "
                "this one"
            )
        return part


def kind_of(path):
    """The kind of a file of features by its name, ".npz" or ".parquet".

    Raises:
        UserError: it is neither, or can't be written because pyarrow is missing.
    """
    kind = os.path.splitext(os.fspath(path))[1].lower()
    if kind not in _KINDS:
        raise UserError(f"--to={path}: expected a name that ends in {' or '.join(_KINDS)}")
    if kind == ".parquet":
        _parquet(path)
    return kind


def read_features(path):
    """Read a file of features, or a part of one.

    Returns:
        The rows, with `videos`, `times` and `vectors`, and a dict of what made them.

    Raises:
        UserError: it can't be read.
    """
    with reading(path, "features of `trn-jax features`"):
        if path.lower().endswith(".parquet"):
            table = _parquet(path).read_table(path)
            about = json.loads((table.schema.metadata or {})[b"trn_jax"])
            vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            part = _Part(
                np.array([from_text(name) for name in table["video"].to_pylist()], str),
                table["time"].to_numpy(),
                vectors.reshape(table.num_rows, -1),
            )
        else:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    with zipfile.ZipFile(file) as archive:
                        arrays = read_npz(archive, size)
                except (EOFError, zipfile.BadZipFile, zlib.error) as error:
                    raise UserError(f"it is corrupt ({error}); remove it") from None
            about = json.loads(str(arrays["about"]))
            part = _Part(arrays["video"], arrays["time"], arrays["vector"])
        if not (len(part.videos) == len(part.times) == len(part.vectors) and part.vectors.ndim > 1):
            raise UserError(
                f"it has {len(part.videos)} videos, {len(part.times)} times and vectors of shape "
                f"{list(part.vectors.shape)}"
            )
        return part, about


def _write_npz(path, parts, about):
    """Write `.npz` from functions that read a part each, with one part in memory at a time."""
    videos, times = [], []
    for read in parts:
        part = read()
        videos.append(part.videos)
        times.append(part.times)
    shape = sum(map(len, times)), part.vectors.shape[1]
    with open_atomic(path) as file, zipfile.ZipFile(file, "w") as archive:

        def entry(name):
            # The same content gives the same bytes: no time of writing.
            return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)

        arrays = dict(video=np.concatenate(videos), time=np.concatenate(times))
        for name, array in (arrays | dict(about=np.array(about))).items():
            with entry(name) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        with entry("vector") as member:
            header = dict(descr="<f4", fortran_order=False, shape=shape)
            np.lib.format.write_array_header_1_0(member, header)
            for read in parts:
                member.write(np.ascontiguousarray(read().vectors, "<f4").data)


def _write_parquet(path, parts, about):
    """Write Parquet, as `_write_npz`."""
    parquet = _parquet(path)
    import pyarrow

    channels = parts[0]().vectors.shape[1]
    schema = pyarrow.schema(
        [
            ("video", pyarrow.string()),
            ("time", pyarrow.float64()),
            ("vector", pyarrow.list_(pyarrow.float32(), channels)),
        ],
        metadata={"trn_jax": about},
    )
    with open_atomic(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for read in parts:
            part = read()
            flat = pyarrow.array(np.ascontiguousarray(part.vectors).ravel(), pyarrow.float32())
            columns = [
                pyarrow.array(list(map(as_text, part.videos.tolist())), pyarrow.string()),
                pyarrow.array(part.times, pyarrow.float64()),
                pyarrow.FixedSizeListArray.from_arrays(flat, channels),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _parquet(path):
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"{path}: Parquet needs pyarrow; pip install 'trn_jax[parquet]', or take a name that "
            "ends in .npz"
        ) from None
    return parquet
