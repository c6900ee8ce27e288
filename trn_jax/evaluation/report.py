"""The report of a training or an evaluation."""

import json
import os

from trn_jax.checkpoints.calibration_file import TEMPERATURES
from trn_jax.errors import UserError
from trn_jax.evaluation import calibration, drawing, metrics, plots, score_files, tables
from trn_jax.evaluation.events import EXTENSIONS
from trn_jax.files import read_json_lines, reading, write_bytes, write_text

MAX_DRAWN = 1000  # classes of a confusion matrix, of at least 4 pixels each
_MAX_STEP = 1e12
# What training curves show: the panel, and the highest value that is none of a corrupt line.
_CURVES = dict.fromkeys(("top1", "top5", "mean_class", "map"), ("curves", 1.0))
_CURVES |= {"loss": ("losses", 1e9), "lr": ("rates", 1e9)}


def write_report(path, folder=None, *, top_k=(1, 5)):
    """Write per-class accuracy, confusion matrix and training curves.

    The files are `<name>.txt`, `<name>_confusion.png` and, of a calibrated checkpoint,
    `<name>_reliability.png` per result, and `training.png`.

    Args:
        path: a working directory, a folder of results, a result file, or a score file.
        folder: of the files, created if missing; by default `report` in the working directory, or
            beside the file.
        top_k: which top-k accuracies.

    Returns:
        The text of all tables, and the list of the files.

    Raises:
        UserError: there are no results, or a file is corrupt.
    """
    sources, log = _sources(path)
    # Everything is read and drawn before anything is written.
    contents: dict[str, str | bytes] = {}
    texts = []
    for name, source in sources:
        result, found = _read(source)
        with reading(source, "the result of an evaluation"):
            text, drawn = _describe(name, result, found, top_k)
        texts.append(text)
        contents[f"{name}.txt"] = text + "\n"
        for kind, image in drawn.items():
            contents[f"{name}_{kind}.png"] = drawing.encode_png(image)
    curves = _read_curves(log) if log else {}
    if any(curves.values()):
        contents["training.png"] = drawing.encode_png(plots.training_plot(**curves))
    return "\n\n\n".join(texts), write_files(path, folder, contents)


def write_files(path, folder, contents):
    """Write the files of the report on `path`.

    Args:
        path: the file or folder that the report is on.
        folder: of the files, created if missing; `None`: `report`, in or beside `path`.
        contents: `{name: text or bytes}`.

    Returns:
        A list of their paths.

    Raises:
        UserError: they can't be written.
    """
    if folder is None:
        folder = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "report")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't make the folder {folder}: {error.strerror}") from None
    files = [os.path.join(folder, name) for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        (write_text if isinstance(content, str) else write_bytes)(file, content)
    return files


def read_results(path, *, top_k=(1, 5)):
    """The numbers of `write_report`: `{name: {"videos", "metrics", "per_class"}}`.

    Scores of a calibrated checkpoint have `temperature` and `reliability`, too: `before` and
    `after`, each with `ece` and `nll`.
    """
    results = {}
    for name, source in _sources(path)[0]:
        result, found = _read(source)
        with reading(source, "the result of an evaluation"):
            if found is None:
                num_videos, measured = result["num_videos"], result["metrics"]
                rows = result["per_class"]
            else:
                num_videos, measured = len(found.scores), found.metrics(top_k)
                rows = found.per_class()
            reliability = _reliability(found) if found else {}
        results[name] = dict(videos=num_videos, metrics=measured, per_class=rows) | reliability
    return results


def _sources(path):
    """Pairs `(name, result or score file)`, and the log of the training or `None`."""
    if path.lower().endswith(EXTENSIONS):
        raise UserError(f"{path} is a table of events; add the true ones, --truth=TABLE")
    if os.path.isfile(path):
        return [(os.path.splitext(os.path.basename(path))[0], path)], None
    if not os.path.isdir(path):
        raise UserError(f"{path} doesn't exist; expected a working directory or a result file")
    results = os.path.join(path, "results")
    results = results if os.path.isdir(results) else path
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


def _read(path):
    """The result (see `Evaluator.run`) or `None`, and the `Scores` or `None`."""
    if not path.endswith(".json"):
        return None, score_files.read(path)
    found = _read_json(path)
    if "per_class" not in found:
        return None, score_files.read(path)
    beside = f"{os.path.splitext(path)[0]}.npz"
    return found, score_files.read(beside) if os.path.exists(beside) else None


def _read_json(path):
    with reading(path, "JSON"), open(path, encoding="utf-8") as file:
        found = json.load(file)
    return found if isinstance(found, dict) else {}


def _describe(name, result, found, top_k):
    """The tables of a result, and its plots, `{"confusion": image, "reliability": image}`."""
    if found is None:
        head = tables.metric_table(
            ["protocol", "videos"], [([name, str(result["num_videos"])], result["metrics"])]
        )
        note = "a confusion matrix needs the score file beside the result"
        return "\n\n".join([head, tables.class_table(result["per_class"]), note]), {}
    head = tables.metric_table(
        ["protocol", "videos"],
        [([found.protocol or name, str(len(found.scores))], found.metrics(top_k))],
    )
    parts = [head, tables.class_table(found.per_class())]
    drawn = {}
    if reliability := _reliability(found):
        parts.insert(1, _reliability_table(**reliability))
        bins = [
            metrics.reliability_bins(scores, found.labels[~found.is_missing])
            for scores in _before_and_after(found, reliability["temperature"])
        ]
        drawn["reliability"] = plots.reliability_plot(*bins)
    if found.multi_label:
        return "\n\n".join(parts), drawn
    read = ~found.is_missing
    if not read.all():
        parts[0] += f"\n{int((~read).sum())} videos are unreadable and count as wrong"
    if metrics.are_probabilities(found.scores[read]):
        error = metrics.calibration_error(found.scores[read], found.labels[read])
        parts[0] += (
            f"\nmean confidence {100 * found.scores[read].max(axis=1).mean():.2f} %, expected "
            f"calibration error {100 * error:.2f} %"
        )
    parts.append(tables.confused_pairs(found) or "no confusions")
    if found.scores.shape[1] > MAX_DRAWN:
        parts.append(f"confusion matrices of more than {MAX_DRAWN} classes are not drawn")
        return "\n\n".join(parts), drawn
    names = [found.class_name(label) for label in range(found.scores.shape[1])]
    drawn["confusion"] = plots.confusion_plot(found.confusion(), names)
    return "\n\n".join(parts), drawn


def _reliability(found):
    """`temperature` and `reliability` of the scores of a calibrated checkpoint; else empty."""
    temperature = found.about.get("temperature")
    read = ~found.is_missing
    if not TEMPERATURES.allows(temperature) or not metrics.are_probabilities(found.scores[read]):
        return {}
    before, after = (
        calibration.reliability(scores, found.labels[read])
        for scores in _before_and_after(found, temperature)
    )
    return {"temperature": temperature, "reliability": {"before": before, "after": after}}


def _before_and_after(found, temperature):
    """The scores of readable videos, and the calibrated ones."""
    scores = found.scores[~found.is_missing]
    return scores, calibration.calibrated(scores, temperature, multi_label=found.multi_label)


def _reliability_table(temperature, reliability):
    rows = [
        [title, f"{tables.percent(found['ece'])} %", f"{found['nll']:.4f}"]
        for title, found in zip(
            ("scores", f"at temperature {temperature:.3g}"), reliability.values(), strict=True
        )
    ]
    header = ["reliability", "expected calibration error", "negative log likelihood"]
    return tables.aligned([header, *rows], "lrr")


def _read_curves(path):
    """Training curves from a log: the arguments of `plots.training_plot`."""
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
