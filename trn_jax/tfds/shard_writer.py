"""Shard writer that resumes: finished shards are kept and reused."""

import contextlib
import glob
import os
import shutil

from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import file_adapters, writer
from tensorflow_datasets.proto import tf_example_pb2

from trn_jax.errors import UserError

_KEPT = ".unfinished-"
# JPEGs do not shrink; with one record per group each can be read alone.
_OPTIONS = "group_size:1,uncompressed"


class ShardWriter(writer.ExampleWriter):
    """Writes examples to files that are kept, until all are there, where TFDS does not see them.

    TFDS removes what it wrote when it is interrupted. The next build then finds the files that were
    complete. Other formats than ArrayRecord are left to TFDS.

    Args:
        file_format: of TFDS.
        folder: where a folder for unfinished files is made.
        digest: name of what is written; files of other contents are removed.
        progress: called with 1 after every record that was written or found; or `None`.
    """

    def __init__(self, file_format, folder, digest, progress=None):
        super().__init__(file_format)
        self._kept = os.path.join(folder, _KEPT + digest)
        self._progress = progress
        for other in glob.glob(os.path.join(glob.escape(folder), _KEPT + "*")):
            if other != self._kept:
                shutil.rmtree(other)

    def write(self, path, examples):
        """Write a file, or take the one that is there; see the base class."""
        if self.file_format is not file_adapters.FileFormat.ARRAY_RECORD:
            super().write(path, examples)
            return
        kept = os.path.join(self._kept, os.path.basename(path))
        with _explained(kept):
            os.makedirs(self._kept, exist_ok=True)
        if not os.path.exists(kept):
            self._write(f"{kept}.partial", examples)
            os.replace(f"{kept}.partial", kept)
        try:
            os.link(kept, path)
        except OSError:
            # Without links, only what is in the hands of TFDS is lost when that is interrupted.
            os.replace(kept, path)

    def _write(self, path, examples):
        with _explained(path):
            file = ArrayRecordWriter(path, _OPTIONS)
        try:
            for _, example in examples:
                # The order of features would be another one in every process.
                message = tf_example_pb2.Example.FromString(example)
                with _explained(path):
                    file.write(message.SerializeToString(deterministic=True))
                if self._progress is not None:
                    self._progress(1)
        finally:
            with _explained(path):
                file.close()


def forget_unfinished(folder):
    """Remove the files that a `ShardWriter` keeps in a folder."""
    for unfinished in glob.glob(os.path.join(glob.escape(folder), _KEPT + "*")):
        shutil.rmtree(unfinished)


@contextlib.contextmanager
def _explained(path):
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot write {path}: {error}; make room or choose another place, and run the same "
            "command again"
        ) from None
