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
# JPEGs do not compress; with one record per group, each can be read alone.
_OPTIONS = "group_size:1,uncompressed"


class ShardWriter(writer.ExampleWriter):
    """Writes shards to a folder of its own, from which an interrupted build resumes.

    TFDS removes its files when it is interrupted. Formats other than ArrayRecord are left to TFDS.

    Args:
        file_format: of TFDS.
        folder: parent of the folder for finished shards.
        digest: hash of the contents; shards of other contents are removed.
        progress: called with 1 after every record; or `None`.
    """

    def __init__(self, file_format, folder, digest, progress=None):
        super().__init__(file_format)
        self._kept = os.path.join(folder, _KEPT + digest)
        self._progress = progress
        for other in glob.glob(os.path.join(glob.escape(folder), _KEPT + "*")):
            if other != self._kept:
                shutil.rmtree(other)

    def write(self, path, examples):
        """Write a shard, or reuse the finished one; see the base class."""
        if self.file_format is not file_adapters.FileFormat.ARRAY_RECORD:
            super().write(path, examples)
            return
        kept = os.path.join(self._kept, os.path.basename(path))
        with _naming_errors(kept):
            os.makedirs(self._kept, exist_ok=True)
        if not os.path.exists(kept):
            self._write(f"{kept}.partial", examples)
            os.replace(f"{kept}.partial", kept)
        try:
            os.link(kept, path)
        except OSError:
            # Without hard links, an interrupted build loses the shards that TFDS has.
            os.replace(kept, path)

    def _write(self, path, examples):
        with _naming_errors(path):
            file = ArrayRecordWriter(path, _OPTIONS)
        try:
            for _, example in examples:
                # Otherwise the order of features differs between processes.
                message = tf_example_pb2.Example.FromString(example)
                with _naming_errors(path):
                    file.write(message.SerializeToString(deterministic=True))
                if self._progress is not None:
                    self._progress(1)
        finally:
            with _naming_errors(path):
                file.close()


def forget_unfinished(folder):
    """Remove the shards that a `ShardWriter` keeps in a folder."""
    for unfinished in glob.glob(os.path.join(glob.escape(folder), _KEPT + "*")):
        shutil.rmtree(unfinished)


@contextlib.contextmanager
def _naming_errors(path):
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot write {path}: {error}; make room or choose another place, and run the same "
            "command again"
        ) from None
