"""Training logs: console, `metrics.jsonl` and TensorBoard."""

import contextlib
import dataclasses
import errno
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import tqdm

from trn_jax.distributed.processes import log_here
from trn_jax.errors import UserError, escaped
from trn_jax.files import read_json_lines, write_text


@dataclasses.dataclass
class _Interval:
    steps: list
    start: float


class StepMeter:
    """Collects the scalars of each step, and how long the devices waited for data.

    A thread of its own waits for every step to finish, so the training loop never does. The
    devices wait for data between the end of a step and the arrival of the next batch.

    Args:
        batch: clips per step.
        finished: called by that thread whenever a step has finished.

    Attributes:
        skipped_in_row: steps that changed nothing, up to the last one that has finished.
    """

    def __init__(self, batch, *, finished=lambda: None):
        self.skipped_in_row = 0
        self._batch = batch
        self._finished = finished
        self._fetcher = ThreadPoolExecutor(1, "fetch-scalars")
        self._spent: list[np.ndarray] = []  # steps, seconds computing and waiting: at first, later
        self.restart()

    def restart(self):
        """Begin a new interval now."""
        self._interval = _Interval([], time.perf_counter())

    def add(self, requested, arrived, scalars):
        """Record a step: when its batch was requested and arrived, and its (unfinished) scalars."""
        finished = self._fetcher.submit(self._fetch, scalars)
        self._interval.steps.append((requested, arrived, finished))

    def summary(self):
        """Means over the steps since the last call, waiting for them to finish.

        Returns:
            A dict of the steps' scalars, `clips_per_second` and `data_wait`, the share of the time
            in which the devices were idle because the next batch had not arrived. If the steps have
            `skipped`, it is their number, and means are over the others.

            A list of the scalars of each step.
        """
        interval = self._interval
        waited, free = 0.0, interval.start
        fetched = []
        for requested, arrived, finished in interval.steps:
            waited += max(0.0, arrived - max(requested, free))
            free, scalars = finished.result()
            fetched.append(scalars)
        elapsed = free - interval.start
        self._interval = _Interval([], free)
        spent = np.array([len(fetched), elapsed - waited, waited])
        if len(self._spent) < 2:
            self._spent.append(spent)
        else:
            self._spent[1] += spent
        summary = _means(fetched) | {
            "lr": float(fetched[-1]["lr"]),
            "clips_per_second": self._batch * len(fetched) / elapsed,
            "data_wait": waited / elapsed,
        }
        return summary, fetched

    def times(self, seconds):
        """How a run of `seconds` spent its time.

        Returns:
            A dict of the number of `steps`; of the `seconds_per_step`, without the first interval,
            in which the step compiles, if there are others; and of the shares of the time in which
            the devices computed, `devices_busy`, and waited for data, `data_wait`. The rest are
            evaluations, saves and the start.
        """
        steps, busy, waited = np.sum(self._spent, axis=0)
        later_steps, *later = self._spent[-1]
        return {
            "steps": int(steps),
            "seconds_per_step": float(sum(later) / later_steps),
            "devices_busy": float(busy / seconds),
            "data_wait": float(waited / seconds),
        }

    def _fetch(self, scalars):
        values = jax.device_get(scalars)
        self.skipped_in_row = self.skipped_in_row + 1 if values.get("skipped") else 0
        self._finished()
        return time.perf_counter(), values

    def close(self):
        """Stop the thread."""
        self._fetcher.shutdown()


def _means(scalars):
    taken = [step for step in scalars if not step.get("skipped")] or scalars
    means = {name: float(np.mean([step[name] for step in taken])) for name in scalars[0]}
    if "skipped" in means:
        means["skipped"] = sum(int(step["skipped"]) for step in scalars)
    return means


class Reporter:
    """Writes progress for people (standard error) and for programs (the working directory).

    If only the log can't be written (disk full), training continues after one warning.

    Args:
        workdir: where `metrics.jsonl` and the TensorBoard events go.
        first_step: the step that the run begins with; later entries of an interrupted run, which
            are going to be computed again, are dropped.
        again: groups whose entries of that step are, too.
        last_step: the step that the run ends with.
        active: whether to write at all (process 0).

    Raises:
        UserError: nothing can be written from the start.
    """

    def __init__(self, workdir, *, first_step, last_step, active, again=()):
        self._active = active
        if not active:
            return
        self._path = os.path.join(workdir, "metrics.jsonl")
        self._warned = False  # that something could not be written
        dropped = _drop_after(self._path, first_step, again)
        try:
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
            self._events = _Events(os.path.join(workdir, "events"), first_step + 1)
        except OSError as error:
            raise UserError(
                f"cannot write the log of the training to {workdir}: {error.strerror or error}; "
                "make room or choose another --workdir"
            ) from None
        self._bar = tqdm.tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        if dropped:
            self.log(dropped)

    def step(self):
        """Move the progress bar by one step."""
        if self._active:
            self._bar.update()

    def log(self, text):
        """Print a line, above the progress bar if there is one."""
        if self._active:
            self._bar.write(escaped(text, keep="\n\t"), file=sys.stderr)
            sys.stderr.flush()

    def write(self, step, group, values):
        """Record `values` (a dict of floats) of a `group` such as "train".

        Those that are not finite are left out: JSON has no word for them.
        """
        if not self._active:
            return
        values = {name: value for name, value in values.items() if np.isfinite(value)}
        try:
            self._append(json.dumps({"step": step, "group": group, **values}) + "\n")
            self._events.write(step, {f"{group}/{name}": value for name, value in values.items()})
        except OSError as error:
            if not self._warned:
                self.log(
                    f"cannot write to {self._path} or the events beside it: "
                    f"{error.strerror or error}; free some space. The training continues, but its "
                    f"log lacks lines from step {step} on"
                )
            self._warned = True

    def _append(self, line):
        """Append a complete line or nothing: readers of the file would stumble over half a line."""
        size = os.fstat(self._file.fileno()).st_size
        content = line.encode()
        try:
            if self._file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise

    def close(self):
        """Finish the files."""
        if self._active:
            self._bar.close()
            self._events.close()
            self._file.close()


class _Events:
    """The TensorBoard events of one run.

    The `SummaryWriter` of tensorboardX has a thread that writes. When that has met a full disk, it
    is gone, and the training would wait for it for ever.

    Args:
        folder: where they go.
        first_step: readers ignore what earlier runs wrote of this step and later ones.
    """

    def __init__(self, folder, first_step):
        os.makedirs(folder, exist_ok=True)
        self._folder = folder
        self._first_step = first_step
        self._writer = None

    def write(self, step, values):
        """Write `{name: value}`."""
        # Late: where PyTorch is installed, tensorboardX imports it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            self._writer = EventsWriter(os.path.join(self._folder, "events"))
            start = SessionLog(status=SessionLog.START)
            first = Event(wall_time=time.time(), step=self._first_step, session_log=start)
            self._writer.write_event(first)
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        self._writer.write_event(event)
        self._writer.flush()

    def close(self):
        """Finish the file, if there is one."""
        if self._writer is None:
            return
        with contextlib.suppress(OSError):  # there was a warning before
            self._writer.close()


_TITLES = {
    "skipped": "videos could not be read and were replaced",
    "incomplete": "videos have lost frames",
    "unreadable": "validation videos could not be read, so are wrong",
}


class VideoMessages:
    """Messages about videos: each logged once when it comes, and all of them at the end.

    Args:
        log: logs a line on process 0.
    """

    def __init__(self, log):
        self._log = log
        self._known: dict[str, set[str]] = {kind: set() for kind in _TITLES}

    def add(self, kind, messages):
        """Log the new ones of some messages.

        Args:
            kind: "skipped" (replaced in training), "incomplete" (lost frames) or "unreadable"
                (counts as wrong in validation).
            messages: any number of them.
        """
        for message in sorted(set(messages) - self._known[kind]):
            (log_here if jax.process_index() else self._log)(f"{kind}: {message}")
        self._known[kind].update(messages)

    def log_all(self):
        """Log everything again, by kind."""
        for kind, title in _TITLES.items():
            if known := sorted(self._known[kind]):
                log_here("\n".join([f"{len(known)} {title}:", *(f"  {each}" for each in known)]))


def _drop_after(path, step, again):
    """Drop the entries that are going to be computed again, and lines that are no entries.

    Returns:
        A message about the latter, or "".
    """
    if not os.path.exists(path):
        return ""
    try:
        entries, num_bad = read_json_lines(path, step=int, group=str)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; move it elsewhere") from None
    kept = [
        json.dumps(entry) + "\n"
        for entry in entries
        if entry["step"] < step or (entry["step"] == step and entry["group"] not in again)
    ]
    write_text(path, "".join(kept))
    if not num_bad:
        return ""
    return f"dropped {num_bad} corrupt lines of {path}; the checkpoints are not affected"


def duration(seconds):
    """`3725` -> `"1:02:05"`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
