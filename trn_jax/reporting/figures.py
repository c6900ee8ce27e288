"""Figures for papers, drawn by Matplotlib: the extra `report`."""

import io
import warnings

import numpy as np

from trn_jax.errors import UserError, escaped, log
from trn_jax.evaluation import lettering, metrics
from trn_jax.evaluation.tables import title_of
from trn_jax.pages.markup import middle_cut
from trn_jax.reporting import runs
from trn_jax.reporting.order_card import ORDERS

_RESOLUTION = 300  # dots per inch
_WIDTH = 3.4  # inches, of a column
_MOST_CLASSES = 60  # of a matrix, or of bars
_MOST_NAMED = 40  # of a matrix with names
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # Okabe and Ito, 2008
_NAME = 40  # characters of the name of a class


def check_matplotlib():
    """Check that Matplotlib is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("--png needs Matplotlib: pip install 'trn_jax[report]'") from None


def draw_figures(run, result, difference=None):
    """Draw what a page shows as pictures of 300 dots per inch.

    Args:
        run: a `runs.Run`.
        result: the `runs.Result` that is shown in detail, or `None`.
        difference: a `difference.Difference`, or `None`.

    Returns:
        `{name: PNG}`: `confusion` and `difference` (of at most 60 classes), `reliability`,
        `training` and `order`, as far as there are data. Characters that no font has are logged.

    Raises:
        UserError: Matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib

    drawn = {}
    names = [row["name"] for row in result.per_class] if result else []
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False}):
        matplotlib.rcParams["font.family"] = _fonts(
            [*names, *(run.order.classes if run.order else [])]
        )
        found = result.scores if result else None
        if found is not None and not found.multi_label and len(names) <= _MOST_CLASSES:
            drawn["confusion"] = _confusion(found)
        if found is not None and metrics.are_probabilities(found.scores[~found.is_missing]):
            drawn["reliability"] = _reliability(result)
        if any(run.curves().values()):
            drawn["training"] = _training(run.curves())
        if run.order and len(run.order.classes) <= _MOST_CLASSES:
            drawn["order"] = _order(run.order)
        if difference and len(difference.classes) <= _MOST_CLASSES:
            drawn["difference"] = _difference(difference)
    return {f"{name}.png": content for name, content in drawn.items()}


def _fonts(names):
    """Names of fonts that together have the characters of the names of classes."""
    from matplotlib import font_manager

    def characters(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd fonts
            return {chr(code) for code in font_manager.get_font(path).get_charmap()}

    families = ["DejaVu Sans"]
    wanted = {c for name in names for c in _short(name) if not c.isspace()}
    wanted -= characters(font_manager.findfont("DejaVu Sans"))
    for entry in sorted(
        font_manager.fontManager.ttflist, key=lambda e: ("Sans" not in e.name, e.name)
    ):
        if not wanted:
            return families
        try:
            has = characters(entry.fname)
        except (OSError, RuntimeError, ValueError):  # no outlines, or unreadable
            continue
        if wanted & has:
            families.append(entry.name)
            wanted -= has
    if wanted:
        log(
            f"no font here has {' '.join(sorted(wanted))} ({lettering.names_of_scripts(wanted)}), "
            f"so figures show boxes instead; {lettering.ADVICE}"
        )
    return families


def _short(name):
    # Matplotlib takes what is between dollar signs for a formula.
    return middle_cut(escaped(name), _NAME).replace("$", r"\$")


def _png(figure):
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters without a font, which are logged
        figure.savefig(content, format="png", dpi=_RESOLUTION, bbox_inches="tight", metadata={})
    return content.getvalue()


def _axes(width=_WIDTH, height=2.6):
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    return figure, figure.add_subplot()


def _confusion(found):
    confusion = found.confusion()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    num_classes = len(confusion)
    side = max(_WIDTH, 0.19 * num_classes)
    figure, axes = _axes(side + 1.2, side + 1.2)
    # The square root makes rare confusions visible, too.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    labels = np.arange(num_classes)
    if num_classes <= _MOST_NAMED:
        names = [_short(found.class_name(label)) for label in labels]
        axes.set_xticks(labels, names, rotation=90, size=6)
        axes.set_yticks(labels, names, size=6)
    if num_classes <= 20:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            color = "white" if shares[row, column] > 0.3 else "black"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=color, size=6)
    axes.set(xlabel="prediction", ylabel="true class")
    axes.spines[:].set_visible(True)
    return _png(figure)


def _reliability(result):
    found = result.scores
    labels = found.labels[~found.is_missing]
    temperature = result.reliability.get("temperature")
    series = {"scores": found.scores[~found.is_missing]}
    if temperature is not None:
        calibrated = runs.before_and_after(found, temperature)[1]
        series[f"temperature {temperature:.3g}"] = calibrated
    figure, axes = _axes(height=3)
    axes.plot([0, 1], [0, 1], "--", color="gray", linewidth=0.8)
    for color, (title, scores) in zip(_COLORS[1::-1], series.items(), strict=False):
        counts, sums, right = metrics.reliability_bins(scores, labels)
        used = counts > 0
        x, y = sums[used] / counts[used], right[used] / counts[used]
        error = metrics.calibration_error(scores, labels)
        title = f"{title} (ECE {100 * error:.1f} %)"
        axes.plot(x, y, "o-", color=color, markersize=3, linewidth=1, label=title)
    axes.set(xlabel="mean score", ylabel="fraction that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return _png(figure)


def _training(curves):
    from matplotlib.figure import Figure

    panels = [(kind, lines) for kind, lines in curves.items() if lines]
    titles = {"curves": "accuracy", "losses": "loss", "rates": "learning rate"}
    figure = Figure((_WIDTH, 1.8 * len(panels)), layout="constrained")
    for number, (kind, lines) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        for place, (title, (steps, values)) in enumerate(lines.items()):
            color = _COLORS[place % len(_COLORS)]
            axes.plot(steps, values, color=color, linewidth=1, label=_short(title))
        axes.set(ylabel=titles[kind], ylim=(0, 1.02) if kind == "curves" else (0, None))
        axes.legend(frameon=False, fontsize=6)
    axes.set_xlabel("step")
    return _png(figure)


def _order(card):
    classes = np.arange(len(card.classes))
    figure, axes = _axes(_WIDTH + 2, 1 + 0.3 * len(classes))
    for number, order in enumerate(ORDERS):
        values = [100 * (value or 0) for value in getattr(card, order)]
        place = classes + 0.2 * (number - 1.5)
        axes.barh(place, values, 0.2, color=_COLORS[number], label=order)
    axes.axvline(100 * card.chance, color="gray", linestyle="--", linewidth=0.8)
    axes.set_yticks(classes, [_short(name) for name in card.classes])
    axes.set(xlabel="accuracy, per cent", xlim=(0, 100))
    axes.invert_yaxis()
    figure.legend(frameon=False, loc="outside upper center", ncols=4)
    return _png(figure)


def _difference(found):
    known = [each for each in found.classes if each.difference is not None]
    known.sort(key=lambda each: each.difference)
    places = np.arange(len(known))
    figure, axes = _axes(_WIDTH + 1, 1 + 0.17 * len(known))
    for place, each in zip(places, known, strict=True):
        is_sure = each.p_holm is not None and each.p_holm < 0.05
        color = _COLORS[2 if each.difference > 0 else 1] if is_sure else "gray"
        axes.plot(100 * each.difference, place, "o", color=color, markersize=3)
        if each.low is not None:
            axes.plot([100 * each.low, 100 * each.high], [place] * 2, color=color, linewidth=1)
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks(places, [_short(each.name) for each in known], size=6)
    kind = title_of("map") if found.multi_label else "accuracy"
    axes.set_xlabel(f"difference of {kind}, percentage points")
    return _png(figure)
