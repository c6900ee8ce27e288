"""The report on predicted events: metrics with times, per class, and confusions by time."""

import collections
import dataclasses
import os

import numpy as np

from trn_jax.errors import UserError, did_you_mean, listed
from trn_jax.evaluation import drawing, event_metrics, tables
from trn_jax.evaluation.events import NOTHING, read_events
from trn_jax.pages.page import write_page
from trn_jax.reporting import plots, report
from trn_jax.reporting.event_page import event_page

_FILE = "events.csv"  # in a folder of predictions


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The videos of predictions and of the truth, matched by their names.

    Attributes:
        predictions: events with the names that the truth has for their videos.
        by_end: `{predicted name: true name}` of videos matched by the ends of their paths.
        left_out: names of predicted videos that are not in the truth.
        without_predictions: names of true videos without predictions.
    """

    predictions: list
    by_end: dict[str, str]
    left_out: list[str]
    without_predictions: list[str]


def align_videos(truth, predictions):
    """Match the videos of predictions and truth by their names.

    Equal paths match. Of the others, two match if they have the same last parts, at least the file
    name, and neither has as many with another one: `/data/a/1.mp4` and `clips/a/1.mp4`, even if
    there is a `clips/b/1.mp4`.

    Returns:
        An `Alignment`.
    """
    true = list(dict.fromkeys(event.video for event in truth))
    predicted = list(dict.fromkeys(event.video for event in predictions))
    names = {name: name for name in set(true) & set(predicted)}
    others = [[name for name in each if name not in names] for each in (true, predicted)]
    by_end = _match_ends(*others)
    names |= by_end
    matched = set(names.values())
    return Alignment(
        [
            dataclasses.replace(event, video=names[event.video])
            for event in predictions
            if event.video in names
        ],
        by_end,
        [name for name in predicted if name not in names],
        [name for name in true if name not in matched],
    )


def _match_ends(true, predicted):
    """`{predicted name: true name}` of those that are each other's only longest match."""
    ends = _longest_matches(predicted, true)
    back = _longest_matches(true, predicted)
    return {name: found for name, found in ends.items() if back.get(found) == name}


def _longest_matches(names, others):
    """The one of `others` that has the longest end of its path in common with each of `names`."""
    owners: dict[tuple, set[str]] = collections.defaultdict(set)
    for other in others:
        for end in _ends(other):
            owners[end].add(other)
    found = {}
    for name in names:
        longest: set[str] = next((owners[end] for end in _ends(name) if end in owners), set())
        if len(longest) == 1:
            found[name] = min(longest)
    return found


def _ends(name):
    """The ends of a path as tuples of its parts, the whole path first."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return [tuple(parts[i:]) for i in range(len(parts))]


def evaluate_events(path, truth_path):
    """Compare a table of predicted events with one of true events.

    Args:
        path: the predictions, see `events.read_events`, or a folder with `events.csv`. Mean average
            precision needs scores; without any it is left out.
        truth_path: the truth. Its scores are ignored. Of videos that are not in it, nothing counts.

    Returns:
        A dict that JSON can hold: `videos`, `metrics` (fractions, as for scores), `thresholds`,
        `per_class` (dicts with `name`, `average_precision` (of each threshold, or `None`) and those
        of `event_metrics.event_f1`), `total` (the same over all classes), `seconds`, `confusion` (a
        list of `[true label, predicted label, seconds]`, see `event_metrics.frame_accuracy`), and,
        of `Alignment`, `by_end`, `left_out` and `without_predictions`.

    Raises:
        UserError: a file is malformed, the truth has no events, only some predictions have scores,
            or no video or no class is in both.
    """
    path = _predictions_file(path)
    predictions, truth = read_events(path), read_events(truth_path)
    aligned = align_videos(truth, predictions)
    _check_comparable(path, predictions, truth_path, truth, aligned)
    is_scored = not predictions or any(event.score is not None for event in predictions)
    average, precisions = _precisions(truth, aligned.predictions) if is_scored else ({}, {})
    f1 = event_metrics.event_f1(truth, aligned.predictions)
    per_class = f1.pop("per_class")
    by_time = event_metrics.frame_accuracy(truth, aligned.predictions)
    return {
        "videos": len({event.video for event in truth}),
        "metrics": {
            **average,
            "event_f1": f1["f1"],
            "precision": f1["precision"],
            "recall": f1["recall"],
            "frame_accuracy": by_time["accuracy"],
        },
        "thresholds": list(event_metrics.THRESHOLDS),
        "per_class": [
            {"name": label, "average_precision": precisions.get(label), **counts}
            for label, counts in per_class.items()
        ],
        "total": f1,
        "seconds": by_time["seconds"],
        "confusion": [[*labels, seconds] for labels, seconds in by_time["confusion"].items()],
        "by_end": aligned.by_end,
        "left_out": aligned.left_out,
        "without_predictions": aligned.without_predictions,
    }


def _precisions(truth, predictions):
    """Mean average precisions as metrics, and `{label: [average precision of each threshold]}`."""
    found = event_metrics.mean_average_precision(truth, predictions)
    at_thresholds = zip(found["thresholds"], found["map_at"], strict=True)
    means = {"map": found["map"]} | {f"map_at_{t:g}": value for t, value in at_thresholds}
    return means, found["per_class"]


def write_event_report(path, truth_path, folder=None):
    """Write the report on predicted events, `<name>.txt` and `<name>_confusion.png`.

    Args:
        path: see `evaluate_events`.
        truth_path: see `evaluate_events`.
        folder: of the files, see `report.write_files`.

    Returns:
        The result of `evaluate_events`, the text of the report, and the list of the files.

    Raises:
        UserError: see `evaluate_events`, or the files can't be written.
    """
    result = evaluate_events(path, truth_path)
    text, contents = _files(path, result)
    return result, text, report.write_files(path, folder, contents)


def make_event_report(path, truth_path, to=None):
    """Write the page on predicted events, and the files of `write_event_report`.

    Args:
        path: see `evaluate_events`.
        truth_path: see `evaluate_events`.
        to: a file `.html`, for the page alone; else the folder of the files and of `<name>.html`.

    Returns:
        The name of the predictions, the result of `evaluate_events`, the text of the report, the
        path of the page, and the list of the other files.

    Raises:
        UserError: see `write_event_report`.
    """
    if report.is_page(to):
        result = evaluate_events(path, truth_path)
        text, files = event_tables(_name(path), result), []
    else:
        result, text, files = write_event_report(path, truth_path, to)
    table, truth = _predictions_file(path), read_events(truth_path)
    aligned = align_videos(truth, read_events(table))
    content = event_page(_name(path), result, truth, aligned.predictions, _remarks(result))
    page = report.page_path(table, to)
    write_page(page, content)
    return _name(path), result, text, page, files


def _name(path):
    return os.path.splitext(os.path.basename(_predictions_file(path)))[0]


def _files(path, result):
    """The text of the report, and the content of every file, `{name: text or bytes}`."""
    name = _name(path)
    text = event_tables(name, result)
    contents: dict[str, str | bytes] = {f"{name}.txt": text + "\n"}
    labels = [*(row["name"] for row in result["per_class"]), NOTHING]
    if len(labels) <= report.MAX_DRAWN:
        confusion = np.zeros((len(labels), len(labels)))
        for true, taken, seconds in result["confusion"]:
            # The plot takes counts: milliseconds, as a row of less than one is drawn pale.
            confusion[labels.index(true), labels.index(taken)] = 1000 * seconds
        report.log_missing_letters(labels)
        plot = plots.confusion_plot(confusion, labels)
        contents[f"{name}_confusion.png"] = drawing.encode_png(plot)
    return text, contents


def event_tables(name, result):
    """The text of a report: all classes, each class (worst first), confusions, and remarks.

    Args:
        name: of the predictions.
        result: see `evaluate_events`.
    """
    total = result["total"]
    counts = [str(result["videos"]), *_counts(total)]
    head = tables.metric_table(
        ["events", "videos", "true", "predicted", "matched"], [([name, *counts], result["metrics"])]
    )
    confusions = _confusion_table(result["confusion"]) or "no confusions"
    parts = [head, _class_table(result), confusions, *_remarks(result)]
    return "\n\n".join(parts)


def _counts(row):
    return [str(row[name]) for name in ("num_true", "num_predicted", "num_matched")]


def _class_table(result):
    """Metrics of each class in per cent, those with the lowest F1 first."""
    thresholds = result["thresholds"] if "map" in result["metrics"] else []
    names = [*(f"AP@{threshold:g}" for threshold in thresholds), "F1", "precision", "recall"]
    lines = [["class", "true", "predicted", "matched", *names]]
    for row in sorted(result["per_class"], key=lambda row: (row["f1"], row["name"])):
        precisions = row["average_precision"] or [None] * len(thresholds)
        fractions = [*precisions, row["f1"], row["precision"], row["recall"]]
        lines.append([row["name"], *_counts(row), *map(tables.percent, fractions)])
    return tables.aligned(lines, "l" + "r" * (len(lines[0]) - 1))


def _confusion_table(confusion):
    """The longest confusions, or ""."""
    whole: collections.Counter[str] = collections.Counter()
    for true, _, seconds in confusion:
        whole[true] += seconds
    wrong = [each for each in confusion if each[0] != each[1]]
    longest = sorted(wrong, key=lambda each: -each[2])[: tables.NUM_PAIRS]
    rows = [
        (f"{seconds:.1f}", seconds / whole[true], true, taken) for true, taken, seconds in longest
    ]
    return tables.confusion_table("seconds", rows)


def _remarks(result):
    """Paragraphs on what didn't match."""
    true = [row["name"] for row in result["per_class"] if row["num_true"]]
    foreign = [row["name"] for row in result["per_class"] if not row["num_true"]]
    named = {
        "predicted videos that are not in the truth and don't count": result["left_out"],
        "videos without predictions, whose events are missed": result["without_predictions"],
        "videos that match by the ends of their paths": [
            f"{name} = {found}" for name, found in result["by_end"].items()
        ],
        "predicted classes that are not in the truth": [
            *(f"{name!r}{did_you_mean(name, true)}" for name in foreign[:10]),
            *foreign[10:],
        ],
    }
    remarks = [f"{what}: {len(each):,}{listed(each)}" for what, each in named.items() if each]
    if "map" not in result["metrics"]:
        remarks.append("the predictions have no scores, so there is no average precision")
    return remarks


def _check_comparable(path, predictions, truth_path, truth, aligned):
    """Refuse tables without a video or a class in common, such as names and numbers."""
    if not truth:
        raise UserError(f"{truth_path} has no events, only a header; expected the true ones")
    if predictions and not aligned.predictions:
        raise UserError(
            f"no video is both in {path} and in {truth_path}; the first ones are "
            f"{predictions[0].video!r} and {truth[0].video!r}, which match if the ends of their "
            "paths are equal"
        )
    classes = [{event.label for event in each} - {NOTHING} for each in (aligned.predictions, truth)]
    if all(classes) and not set.intersection(*classes):
        shown = [", ".join(map(repr, sorted(each)[:3])) for each in classes]
        raise UserError(
            f"no class is both in {path} ({shown[0]}) and in {truth_path} ({shown[1]}); expected "
            "the same names"
        )


def _predictions_file(path):
    if not os.path.isdir(path):
        return path
    file = os.path.join(path, _FILE)
    if not os.path.isfile(file):
        raise UserError(f"{path} has no {_FILE}; expected predictions, a table or its folder")
    return file
