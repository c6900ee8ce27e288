"""The picture of a training's first batch."""

import os
import threading

from trn_jax.errors import first_line
from trn_jax.evaluation.clip_sheet import Sheet, batch_rows, describe, picture
from trn_jax.evaluation.drawing import encode_png
from trn_jax.files import write_bytes

FILE = "first_batch.png"
_MOST = 16  # clips


def drawn(batches, data, workdir, log):
    """Pass batches on, and write the first one as `<workdir>/first_batch.png` meanwhile.

    A thread draws, from the memory of the batch, while the first step compiles. A failure is
    logged.

    Args:
        batches: an iterator with a method `close`.
        data: the `Data` that they are of.
        workdir: the working directory.
        log: logs a line.

    Yields:
        The batches.
    """
    thread = None
    try:
        for batch in batches:
            if thread is None:
                path = os.path.join(workdir, FILE)
                thread = threading.Thread(target=_write, args=(batch, data, path, log))
                thread.start()
            yield batch
    finally:
        batches.close()
        if thread is not None:
            thread.join()


def _write(batch, data, path, log):
    try:
        rows = batch_rows(batch, data, most=_MOST)
        size = len(batch["clip"])
        which = f"{len(rows)} of the {size} clips" if len(rows) < size else f"The {size} clips"
        title = f"{which} of the first batch, as the network receives them"
        sheet = Sheet(title, describe(rows), data.class_names, rows)
        write_bytes(path, encode_png(picture(sheet)))
    except Exception as error:  # the picture is not worth a training
        log(f"warning: {path} was not written: {first_line(error)}")
