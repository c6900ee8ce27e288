"""The page of a run: everything that a report has, in one file that can be mailed."""

import functools
import os

from trn_jax.errors import UserError, escaped
from trn_jax.evaluation import metrics
from trn_jax.files import reading
from trn_jax.pages.markup import join, middle_cut, name
from trn_jax.pages.page import MAX_BYTES, contents, note, page, section
from trn_jax.reporting import runs
from trn_jax.reporting.confusion_section import confusion_section
from trn_jax.reporting.difference import compare
from trn_jax.reporting.difference_section import difference_section
from trn_jax.reporting.evaluated_videos import open_videos
from trn_jax.reporting.matching import aligned
from trn_jax.reporting.order_card import order_section, origin_note
from trn_jax.reporting.pair_section import pair_section
from trn_jax.reporting.run_sections import (
    class_section,
    early_section,
    headline,
    training_section,
)
from trn_jax.reporting.score_sections import reliability_section, threshold_section

_LIMITS = (1000, 200, 40)  # rows of tables: the first with which the page is small enough
_SCRIPTS = ("sorting", "thresholds")


def run_page(run, *, against=None, difference=None, protocol=None, top_k=(1, 5)):
    """Make the page of a run.

    Args:
        run: a `runs.Run`.
        against: a second one, or `None`.
        difference: to that one, see `compared`.
        protocol: name of the one that is shown in detail; by default the first with frames in
            order.
        top_k: which top-k accuracies.

    Returns:
        The HTML, of at most 10 MB.

    Raises:
        UserError: a result is malformed, or there is no such protocol.
    """
    result = run.result(protocol)
    if result is None:
        title, sections = f"Report on {_title(run)}", _training(run)
        return page(title, contents(_links(sections)), _bodies(sections))
    # Opened once, and only for sections that show frames.
    videos = functools.cache(functools.partial(open_videos, result, run.workdir))
    with reading(result.path, "the result of an evaluation"):
        for limit in _LIMITS:
            text = _page(run, result, (difference, against), videos, top_k, limit)
            if len(text.encode()) <= MAX_BYTES:
                break
    return text


def compared(run, against, protocol=None):
    """The `Difference` of two runs by one protocol, or by the only result that they have.

    Raises:
        UserError: scores are missing, or the runs can't be compared.
    """
    first = run.result(protocol)
    if first is None:
        raise UserError(f"{run.path} has no results to compare")
    second = _matching(first, against)
    for each in (first, second):
        if each.scores is None:
            raise UserError(
                f"{each.path} has no scores beside it, {each.name}.npz, to compare video by video"
            )
    try:
        return compare(first.scores, second.scores)
    except UserError as error:
        raise UserError(f"can't compare {run.path} with {against.path}: {error}") from None


def _matching(first, against):
    """The `runs.Result` of a second run by the protocol of a first one, or the only one it has.

    Raises:
        UserError: there is none.
    """
    names = {first.name, first.protocol}
    matching = [each for each in against.results if {each.name, each.protocol} & names]
    if not matching and len(against.results) == 1:
        matching = against.results
    if not matching:
        known = ", ".join(each.name for each in against.results) or "none"
        raise UserError(
            f"{against.path} has no result of protocol {first.protocol!r}, only {known}; choose "
            "one that both have with --protocol"
        )
    return matching[0]


def _page(run, result, difference, videos, top_k, limit):
    sections = _sections(run, result, difference, videos, limit)
    model = [name(result.text("model")), " · "] if result.text("model") else []
    lead = join([*model, "protocol ", name(result.protocol)])
    top = headline(run, result, top_k)
    title = f"Report on {_title(run)}"
    links = contents(_links(sections))
    return page(title, top, links, _bodies(sections), scripts=_SCRIPTS, lead=lead)


def _sections(run, result, difference, videos, limit):
    """Triples of key, heading and content; `videos` is a function that opens them."""
    found = result.scores
    sections = [("classes", "Classes", class_section(run, result, limit))]
    changes, against = difference
    if found and found.reversed_class and not found.multi_label:
        titles, scores = [_title(run)], [found]
        if changes:
            titles.append(_title(against))
            scores = aligned(found, _matching(result, against).scores)
        content = pair_section(list(zip(titles, scores, strict=True)), videos)
        sections.append(("pairs", "Classes that are each other backwards", content))
    if changes:
        content = difference_section(changes, _title(run), _title(against), limit)
        sections.append(("difference", "Difference to another run", content))
    if found is None:
        text = "Confusions, calibration and thresholds need the file of scores beside the result."
        sections.append(("scores", "Scores", note(text)))
    else:
        sections += _score_sections(result, videos)
    if run.order:
        content = [*order_section(run.order), origin_note(run.order, result)]
        sections.append(("order", "Does the order of the frames matter?", content))
    sections.append(("early", "Early recognition", early_section(run)))
    sections += _training(run)
    return [each for each in sections if each[2]]


def _score_sections(result, videos):
    found = result.scores
    sections = []
    if not found.multi_label:
        content = confusion_section(found, videos)
        sections.append(("confusions", "Confusions", content))
    read = found.scores[~found.is_missing]
    if not metrics.are_probabilities(read):
        text = "These scores are no probabilities, so they have no calibration and no thresholds."
        return [*sections, ("scores", "Scores", note(text))]
    temperature = result.reliability.get("temperature")
    after = None if temperature is None else runs.before_and_after(found, temperature)[1]
    content = reliability_section(found, after, temperature)
    sections.append(("reliability", "Are scores probabilities?", content))
    heading = "Answers above a threshold"
    if temperature is not None:
        heading += " of calibrated scores"
    content = threshold_section(found, read if after is None else after)
    sections.append(("thresholds", heading, content))
    return sections


def _training(run):
    found = training_section(run)
    return [("training", "Training", found)] if found else []


def _links(sections):
    return [(key, heading) for key, heading, _ in sections]


def _bodies(sections):
    return [section(*each) for each in sections]


def _title(run):
    """What a run is called: the last parts of its path."""
    parts = [part for part in os.path.normpath(run.path).split(os.sep) if part not in ("", "..")]
    shown = "/".join(parts[-2:]) if parts else "."
    return middle_cut(escaped(shown if shown != "." else os.path.basename(run.workdir)), 120)
