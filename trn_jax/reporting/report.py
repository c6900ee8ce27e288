"""The report of a training or an evaluation as text, plots and a page."""

import dataclasses
import os

from trn_jax.errors import escaped, log
from trn_jax.evaluation import drawing, lettering, metrics, tables
from trn_jax.files import make_folder, reading, write_bytes, write_text
from trn_jax.pages.page import write_page
from trn_jax.reporting import plots, runs
from trn_jax.reporting.difference_section import difference_table
from trn_jax.reporting.figures import check_matplotlib, draw_figures
from trn_jax.reporting.report_page import compared, run_page

MAX_DRAWN = 1000  # classes of a confusion matrix, of at least 4 pixels each


@dataclasses.dataclass(frozen=True)
class Report:
    """What a report has, and where it is.

    Attributes:
        text: all tables.
        page: path of the page.
        files: paths of the other files.
        results: see `read_results`.
        difference: to the second run, see `difference.Difference`; `None` without one.
    """

    text: str
    page: str
    files: list[str]
    results: dict
    difference: dict | None


def make_report(path, to=None, *, against=None, protocol=None, top_k=(1, 5), figures=False):
    """Write the page of a run, and the files of `write_report` unless only the page is wanted.

    Args:
        path: see `write_report`.
        to: a file `.html`, for the page alone; else the folder of the files, see `write_report`,
            with the page as `report.html`, or `<name>.html` of a file.
        against: path of a second run, to which the page shows the difference; or `None`.
        protocol: see `report_page.run_page`.
        top_k: which top-k accuracies.
        figures: also write those for papers, see `figures.draw_figures`, into a folder `figures`,
            or `<page>_figures` if only the page is wanted.

    Returns:
        A `Report`.

    Raises:
        UserError: there are no results, a file is corrupt, the runs can't be compared, or
            Matplotlib is missing.
    """
    if figures:
        check_matplotlib()
    run = runs.read_run(path)
    other = None if against is None else runs.read_run(against)
    found = compared(run, other, protocol) if other else None
    content = run_page(run, against=other, difference=found, protocol=protocol, top_k=top_k)
    results = read_results(run, top_k=top_k)
    difference = {"against": against} | dataclasses.asdict(found) if found else None
    drawn = draw_figures(run, run.result(protocol), found) if figures else {}
    page = page_path(path, to)
    if is_page(to):
        text, files, folder = _tables(run, top_k), [], f"{os.path.splitext(page)[0]}_figures"
    else:
        text, files = write_report(run, to, top_k=top_k)
        folder = os.path.join(os.path.dirname(page), "figures")
    text += f"\n\n\n{difference_table(found, against)}" if found else ""
    files += write_files(path, folder, drawn) if drawn else []
    write_page(page, content)
    return Report(text, page, files, results, difference)


def is_page(to):
    """Whether a path is that of a page, and not of a folder."""
    return to is not None and to.lower().endswith((".html", ".htm"))


def page_path(path, to=None):
    """Where the page of the report on `path` is, see `make_report`."""
    if is_page(to):
        return to
    name = os.path.splitext(os.path.basename(path))[0] if os.path.isfile(path) else "report"
    return os.path.join(default_folder(path) if to is None else to, f"{name}.html")


def write_report(path, folder=None, *, top_k=(1, 5)):
    """Write per-class accuracy, confusion matrix and training curves.

    The files are `<name>.txt`, `<name>_confusion.png` and, of a calibrated checkpoint,
    `<name>_reliability.png` per result, and `training.png`.

    Args:
        path: a working directory, a folder of results, a result file, a score file, or the
            `runs.Run` of one.
        folder: of the files, created if missing; by default `report` in the working directory, or
            beside the file.
        top_k: which top-k accuracies.

    Returns:
        The text of all tables, and the list of the files.

    Raises:
        UserError: there are no results, or a file is corrupt.
    """
    run = path if isinstance(path, runs.Run) else runs.read_run(path)
    # Everything is read and drawn before anything is written.
    contents: dict[str, str | bytes] = {}
    for result in run.results:
        with reading(result.path, "the result of an evaluation"):
            contents[f"{result.name}.txt"] = _describe(result, top_k) + "\n"
            for kind, image in _draw(result).items():
                contents[f"{result.name}_{kind}.png"] = drawing.encode_png(image)
    curves = run.curves()
    if any(curves.values()):
        contents["training.png"] = drawing.encode_png(plots.training_plot(**curves))
    return _tables(run, top_k), write_files(run.path, folder, contents)


def _tables(run, top_k):
    """The text of all tables."""
    texts = []
    for result in run.results:
        with reading(result.path, "the result of an evaluation"):
            texts.append(_describe(result, top_k))
    return "\n\n\n".join(texts)


def default_folder(path):
    """The folder of a report on a file or folder: `report`, in it or beside it."""
    return os.path.join(path if os.path.isdir(path) else os.path.dirname(path), "report")


def write_files(path, folder, contents):
    """Write the files of the report on `path`.

    Args:
        path: the file or folder that the report is on.
        folder: of the files, created if missing; `None`: `default_folder`.
        contents: `{name: text or bytes}`.

    Returns:
        A list of their paths.

    Raises:
        UserError: they can't be written.
    """
    folder = default_folder(path) if folder is None else folder
    make_folder(folder)
    files = [os.path.join(folder, name) for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        (write_text if isinstance(content, str) else write_bytes)(file, content)
    return files


def read_results(path, *, top_k=(1, 5)):
    """The numbers of `write_report`: `{name: {"videos", "metrics", "per_class"}}`.

    Scores of a calibrated checkpoint have `temperature` and `reliability`, too: `before` and
    `after`, each with `ece` and `nll`.

    Args:
        path: see `write_report`.
        top_k: see `write_report`.
    """
    run = path if isinstance(path, runs.Run) else runs.read_run(path)
    results = {}
    for found in run.results:
        with reading(found.path, "the result of an evaluation"):
            numbers = dict(
                videos=found.num_videos, metrics=found.metrics(top_k), per_class=found.per_class
            )
            results[found.name] = numbers | found.reliability
    return results


def _describe(result, top_k):
    """The tables of a result as text."""
    measured = [([result.protocol, str(result.num_videos)], result.metrics(top_k))]
    head = tables.metric_table(["protocol", "videos"], measured)
    parts = [head, tables.class_table(result.per_class)]
    found = result.scores
    if found is None:
        return "\n\n".join([*parts, "a confusion matrix needs the score file beside the result"])
    if result.reliability:
        parts.insert(1, _reliability_table(**result.reliability))
    if found.multi_label:
        return "\n\n".join(parts)
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
    return "\n\n".join(parts)


def _draw(result):
    """The plots of a result, `{"confusion": image, "reliability": image}`."""
    found, drawn = result.scores, {}
    if result.reliability:
        bins = [
            metrics.reliability_bins(scores, found.labels[~found.is_missing])
            for scores in runs.before_and_after(found, result.reliability["temperature"])
        ]
        drawn["reliability"] = plots.reliability_plot(*bins)
    if found is not None and not found.multi_label and found.scores.shape[1] <= MAX_DRAWN:
        names = [found.class_name(label) for label in range(found.scores.shape[1])]
        log_missing_letters(names)
        drawn["confusion"] = plots.confusion_plot(found.confusion(), names)
    return drawn


def log_missing_letters(names):
    """Log which characters of the names of classes no font has; a plot has "?" for them."""
    unknown = set().union(*(lettering.missing(escaped(name)) for name in names))
    if unknown:
        log(
            f"no font here has {' '.join(sorted(unknown))} "
            f"({lettering.names_of_scripts(unknown)}), so plots show ? and the number of the "
            f"class; the page has all names; {lettering.ADVICE}"
        )


def _reliability_table(temperature, reliability):
    rows = [
        [title, f"{tables.percent(found['ece'])} %", f"{found['nll']:.4f}"]
        for title, found in zip(
            ("scores", f"at temperature {temperature:.3g}"), reliability.values(), strict=True
        )
    ]
    header = ["reliability", "expected calibration error", "negative log likelihood"]
    return tables.aligned([header, *rows], "lrr")
