"""ArrayRecord files as one sequence of records, read at random."""

import bisect
import contextlib
import importlib.util
import itertools
import os
import threading
from functools import partial

from trn_jax.data.decode import FrameError
from trn_jax.errors import UserError

INFO_FILE = "dataset_info.json"
ADVICE = "build the records again"
# No readahead, as the next clip is elsewhere, and no threads for single records.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_READER_BUFFER = 16 << 10  # bytes; larger buffers read more than a frame from cold disks


def check_library():
    """Check that array-record is installed; there is none for Windows.

    Raises:
        UserError: it isn't.
    """
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "records need the package array-record, which is not installed; where there is none, "
            "as on Windows, train on folders of frames or on videos (data.source=frames or videos)"
        )


class Shards:
    """The records of a split, numbered through all of its files, which are opened when needed.

    Args:
        paths: the files.
        lengths: number of records in each.

    Raises:
        FrameError: in methods; a file is missing, corrupt, or of another build.
    """

    def __init__(self, paths, lengths):
        self.num_records = sum(lengths)
        self._paths = paths
        self._lengths = lengths
        self._ends = list(itertools.accumulate(lengths))
        self._readers = {}
        self._lock = threading.Lock()

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._lock = threading.Lock()

    def path(self, number):
        """The file of a record."""
        return self._paths[bisect.bisect_right(self._ends, number)]

    def read(self, numbers):
        """Read the records of ascending numbers: a list of `bytes`."""
        found = []
        for shard, group in itertools.groupby(numbers, partial(bisect.bisect_right, self._ends)):
            first = self._ends[shard] - self._lengths[shard]
            found += self._read(shard, [number - first for number in group])
        return found

    def _read(self, shard, positions):
        """Read records of one file at once, in half the time of one by one."""
        reader = self._readers.get(shard) or self._open(shard)
        try:
            return reader.read(positions)
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            if len(positions) == 1:
                raise _corrupt(self._paths[shard], f"record {positions[0]}: {error}") from None
            # One by one, to name the corrupt one.
            return [data for position in positions for data in self._read(shard, [position])]

    def read_all(self):
        """Read all records in order, one file at a time."""
        for shard, length in enumerate(self._lengths):
            reader = self._readers.get(shard) or self._open(shard)
            try:
                records = reader.read(0, length)
            except (RuntimeError, ValueError, IndexError, OSError) as error:
                raise _corrupt(self._paths[shard], error) from None
            yield from records

    def _open(self, shard):
        path = self._paths[shard]
        with self._lock:
            if shard in self._readers:
                return self._readers[shard]
            if not os.path.exists(path):
                raise FrameError(f"{path} is missing; copy all files of the records, or {ADVICE}")
            try:
                reader = _open_reader(path)
                found = reader.num_records()
            except (RuntimeError, ValueError, OSError) as error:
                raise _corrupt(path, error) from None
            if not found:
                raise _corrupt(path, "no index at its end")
            if found != self._lengths[shard]:
                raise FrameError(
                    f"{path} has {found} records, but {INFO_FILE} beside it says "
                    f"{self._lengths[shard]}: they are of different builds; {ADVICE}"
                )
            self._readers[shard] = reader
            return reader


def _open_reader(path):
    # Imported here, as it takes a while.
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(
        path, options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
    )
    # The system reads ahead after two consecutive reads, a header and a frame, which on a cold disk
    # takes longer than the frame. The reader has no option for that, so find its descriptor.
    status = os.stat(path)
    for descriptor in _descriptors():
        with contextlib.suppress(OSError):  # another thread has closed it
            if os.path.samestat(os.fstat(descriptor), status):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    return reader


def _descriptors():
    """Open file descriptors of this process; none where there is no `posix_fadvise` (macOS)."""
    if not hasattr(os, "posix_fadvise") or not os.path.isdir("/proc/self/fd"):
        return []
    return list(map(int, os.listdir("/proc/self/fd")))


def _corrupt(path, error):
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FrameError(f"{path} is corrupt ({reason}); copy it again, or {ADVICE}")
