"""What a run leaves behind: results, scores, the log of the training, the order card."""

import contextlib
import dataclasses
import functools
import json
import math
import os
from typing import Any

from trn_jax.checkpoints.calibration_file import TEMPERATURES
from trn_jax.errors import UserError
from trn_jax.evaluation import calibration, metrics, score_files, tables
from trn_jax.evaluation.events import EXTENSIONS
from trn_jax.evaluation.scores import Scores
from trn_jax.files import read_json_lines, reading
from trn_jax.reporting import order_card

_MAX_STEP = 1e12
# What training curves show: the panel, and the highest value that is none of a corrupt line.
_CURVES = dict.fromkeys(("top1", "top5", "mean_class", "map"), ("curves", 1.0))
_CURVES |= {"loss": ("losses", 1e9), "lr": ("rates", 1e9)}


@dataclasses.dataclass(frozen=True)
class Result:
    """A result of an evaluation: what its file holds, its scores, or both.

    Attributes:
        name: of the file, without its extension.
        path: the file.
        entries: of a result file, see `evaluate.run_protocols`; empty for a file of scores.
        scores: the `Scores`; `None` if they are not there.
    """

    name: str
    path: str
    entries: dict[str, Any]
    scores: Scores | None

    @property
    def protocol(self):
        """Name of the protocol."""
        return self.text("protocol") or self.name

    @property
    def about(self):
        """Origin of the result: `{name: text or number}`."""
        found = self.scores.about if self.scores else {}
        return found | {k: v for k, v in self.entries.items() if isinstance(v, str | int | float)}

    def text(self, key):
        """An entry about the origin that is text, or ""."""
        value = self.about.get(key)
        if key == "protocol" and self.scores and self.scores.protocol:
            value = self.scores.protocol
        return value if isinstance(value, str) else ""

    @property
    def num_videos(self):
        """Number of videos."""
        return len(self.scores.scores) if self.scores else self.entries["num_videos"]

    def metrics(self, top_k=(1, 5)):
        """`{name: fraction}`."""
        if self.scores is None:
            return self.entries["metrics"]
        key = tuple(top_k)
        if key not in self._measured:
            self._measured[key] = self.scores.metrics(top_k)
        return self._measured[key]

    @functools.cached_property
    def _measured(self):
        return {}

    @functools.cached_property
    def per_class(self):
        """See `Scores.per_class`."""
        return self.scores.per_class() if self.scores else self.entries["per_class"]

    @functools.cached_property
    def reliability(self):
        """`temperature` and `reliability` of a calibrated checkpoint's scores; else empty.

        `reliability` has `before` and `after`, each with `ece` and `nll`.
        """
        return _reliability(self.scores) if self.scores else {}


@dataclasses.dataclass(frozen=True)
class Run:
    """The results of a run, or of one evaluation.

    Attributes:
        path: what was read: a working directory, a folder of results, or a file.
        workdir: the working directory that it belongs to, if its folders have the usual names.
        results: the `Result`s, by the names of their files.
        log: path of `metrics.jsonl`, or `None`.
        order: the `OrderCard`, or `None`.
    """

    path: str
    workdir: str
    results: list[Result]
    log: str | None
    order: order_card.OrderCard | None

    def result(self, protocol=None):
        """The result of a protocol; by default the first with frames in order.

        Returns:
            A `Result`; `None` if the run has none.

        Raises:
            UserError: there is no such protocol.
        """
        if protocol is None:
            in_order = [each for each in self.results if _frame_order(each) == "forward"]
            return next(iter([*in_order, *self.results]), None)
        for each in self.results:
            if protocol in (each.name, each.protocol):
                return each
        known = ", ".join(each.name for each in self.results) or "none"
        raise UserError(f"{self.path} has no result of protocol {protocol!r}; it has: {known}")

    def curves(self):
        """Training curves: `{"curves", "losses", "rates": {name: (steps, values)}}`."""
        return read_curves(self.log) if self.log else {}


def read_run(path):
    """Read the results of a run.

    Args:
        path: a working directory, a folder of results, a result file, or a score file.

    Returns:
        A `Run`.

    Raises:
        UserError: there are no results, or a file is corrupt.
    """
    sources, log = _sources(path)
    folder = os.path.dirname(sources[0][1]) if sources else _results_folder(path)
    card = os.path.join(folder, order_card.FILE)
    return Run(
        path=path,
        workdir=_workdir(folder),
        results=[_read(*source) for source in sources],
        log=log,
        order=order_card.read_order_card(card) if os.path.isfile(card) else None,
    )


def _frame_order(result):
    view = result.entries.get("view")
    return view.get("frame_order", "forward") if isinstance(view, dict) else "forward"


def _workdir(folder):
    """`runs/trn` for `runs/trn/results/test`."""
    path = os.path.abspath(folder)
    for name in (("test", "train"), ("results",)):
        path = os.path.dirname(path) if os.path.basename(path) in name else path
    return path


def _sources(path):
    """Pairs `(name, result or score file)`, and the log of the training or `None`."""
    if path.lower().endswith(EXTENSIONS):
        raise UserError(f"{path} is a table of events; add the true ones, --truth=TABLE")
    if os.path.isfile(path):
        return [(os.path.splitext(os.path.basename(path))[0], path)], None
    if not os.path.isdir(path):
        raise UserError(f"{path} doesn't exist; expected a working directory or a result file")
    results = _results_folder(path)
    files = {
        os.path.splitext(name)[0]: os.path.join(results, name)
        for name in sorted(os.listdir(results))
        if name.endswith(".json") and "per_class" in _read_json(os.path.join(results, name))
    }
    log = os.path.join(path, "metrics.jsonl")
    if not files and not os.path.isfile(log):
        raise UserError(
            f"no results or metrics.jsonl in {path}; expected the working directory of a training "
            "or an evaluation, or a score file"
        )
    return list(files.items()), log if os.path.isfile(log) else None


def _results_folder(path):
    results = os.path.join(path, "results")
    return results if os.path.isdir(results) else path


def _read(name, path):
    """The `Result` of a file, with the scores or the result beside it."""
    if not path.endswith(".json"):
        found = score_files.read(path)
        beside = f"{os.path.splitext(path)[0]}.json"
        entries: dict[str, Any] = {}
        with contextlib.suppress(UserError):  # the scores are complete without it
            entries = _read_json(beside) if os.path.exists(beside) else {}
        entries = entries if _is_of(entries, found) else {}
        return Result(name, path, {k: entries[k] for k in _OF_SCORES if k in entries}, found)
    entries = _read_json(path)
    if "per_class" not in entries:
        return Result(name, path, {}, score_files.read(path))
    with reading(path, "the result of an evaluation"):
        _check(entries)
    beside = f"{os.path.splitext(path)[0]}.npz"
    scores = score_files.read(beside) if os.path.exists(beside) else None
    if scores:
        _check_origin(path, entries, scores)
    return Result(name, path, entries, scores)


# What scores have from the result beside them.
_OF_SCORES = ("config", "view", "split", "num_views", "num_draws", "spread")
_ORIGIN = ("checkpoint", "step", "config_sha256", "list_sha256", "time")


def _is_of(entries, scores):
    return all(key in entries and entries[key] == scores.about.get(key) for key in _ORIGIN)


def _check_origin(path, entries, scores):
    """Check that a result and the scores beside it are of one evaluation, as far as both know."""
    counts = entries["num_videos"], len(scores.scores)
    pairs = {"num_videos": counts} | {
        key: (entries[key], scores.about[key])
        for key in _ORIGIN
        if key in entries and key in scores.about
    }
    for key, (found, expected) in pairs.items():
        if found != expected:
            raise UserError(
                f"{path} is not of the same evaluation as the scores beside it: {key} is "
                f"{found!r:.80} and {expected!r:.80}; evaluate again, or move one of them away"
            )


def _check(entries):
    """Check what tables need of the entries of a result."""
    measured, rows = entries.get("metrics"), entries["per_class"]
    if not isinstance(measured, dict) or not all(map(_is_value, measured.values())):
        raise UserError(f"metrics={measured!r:.80}: expected a number for each name")
    if not is_count(entries.get("num_videos")):
        raise UserError(f"num_videos={entries.get('num_videos')!r:.80}: expected a number")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"per_class={rows!r:.80}: expected a list of classes")
    first = rows[0] if isinstance(rows[0], dict) else {}
    kind = "accuracy" if "accuracy" in first else "average_precision"
    for row in rows:
        if not (
            isinstance(row, dict)
            and is_count(row.get("label"))
            and is_count(row.get("videos"))
            and isinstance(row.get("name"), str)
            and kind in row
            and (row[kind] is None or is_fraction(row[kind]))
        ):
            raise UserError(
                f"per_class has {row!r:.80}; expected label, name, videos, and accuracy or "
                "average_precision in 0..1"
            )


def is_count(value):
    """Whether a value of a foreign file is a number of things."""
    return type(value) is int and value >= 0


def is_fraction(value):
    """Whether a value of a foreign file is a number in 0..1."""
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _is_value(value):
    return value is None or type(value) in (int, float)


def _read_json(path):
    with reading(path, "JSON"), open(path, encoding="utf-8") as file:
        found = json.load(file)
    return found if isinstance(found, dict) else {}


def _reliability(found):
    """`temperature` and `reliability` of the scores of a calibrated checkpoint; else empty."""
    temperature = found.about.get("temperature")
    read = ~found.is_missing
    if not TEMPERATURES.allows(temperature) or not metrics.are_probabilities(found.scores[read]):
        return {}
    before, after = (
        calibration.reliability(scores, found.labels[read])
        for scores in before_and_after(found, temperature)
    )
    return {"temperature": temperature, "reliability": {"before": before, "after": after}}


def before_and_after(found, temperature):
    """The scores of readable videos, and the calibrated ones."""
    scores = found.scores[~found.is_missing]
    return scores, calibration.calibrated(scores, temperature, multi_label=found.multi_label)


def read_curves(path):
    """Training curves from a log: the arguments of `plots.training_plot`.

    Raises:
        UserError: the file can't be read.
    """
    panels: dict[str, dict[str, tuple[list, list]]] = {"curves": {}, "losses": {}, "rates": {}}
    with reading(path, "the log of a training"):
        entries, _ = read_json_lines(path, step=int, group=str)
    for entry in entries:
        for name, (panel, highest) in _CURVES.items():
            if _is_number(entry["step"], _MAX_STEP) and _is_number(entry.get(name), highest):
                title = f"{entry['group']} {tables.title_of(name)}"
                steps, values = panels[panel].setdefault(title, ([], []))
                steps.append(entry["step"])
                values.append(entry[name])
    return panels


def _is_number(value, highest):
    return type(value) in (int, float) and 0 <= value <= highest
