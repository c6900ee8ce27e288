"""An explanation with hostile names, made without a model."""

import numpy as np

from trn_jax.explanation.explanation import Explanation
from trn_jax.explanation.frames import FrameValues, ScaleRelations
from trn_jax.explanation.page import ExplanationPage

HOSTILE = "<script>alert(1)</script>"
NAMES = (HOSTILE, "开门", "closing")


class Explainer:
    """The parts of an `Explainer` that a page shows."""

    game = "relations"

    class contract:
        protocol = "efficient"

        class view:
            num_segments = 4
            crop_size = 16


def explanation_page(explanations, about=()):
    """The HTML of the page of several `Explanation`s."""
    page = ExplanationPage(Explainer(), about=about)
    for each in explanations:
        page.add(each)
    return page.html()


def example(rng):
    """An `Explanation` whose numbers are known: the last frames decide, in order."""
    values = np.array([[0.5, -1.0, 2.0, 3.0], [0.0, 0.1, 0.2, 0.3]])
    order = {
        "forward": np.array([0.9, 0.06, 0.04]),
        "reversed": np.array([0.1, 0.8, 0.1]),
        "shuffled": np.array([0.4, 0.3, 0.3]),
        "frozen": np.array([0.3, 0.3, 0.4]),
    }
    early = np.linspace([0.1, 0.8, 0.1], [0.9, 0.06, 0.04], 10)
    scale = ScaleRelations(2, np.array([4.0, 1.0]), np.array([[2, 3], [0, 1]]), np.ones(2))
    return Explanation(
        video=f"films/{HOSTILE}.mp4",
        class_names=NAMES,
        scores=order["forward"],
        classes=np.array([0, 1]),
        frames=np.array([2, 7, 12, 17]),
        times=np.array([0.08, 0.28, 0.48, 0.68]),
        pixels=rng.integers(0, 256, (4, 16, 16, 3), np.uint8),
        values=FrameValues(values, 0 * values + 0.1, np.ones(2), 1 + values.sum(axis=1), "sampled"),
        scales=[scale],
        order=order,
        early=early,
        maps=rng.random((2, 4, 4, 4)).astype(np.float32),
        features=rng.normal(size=(4, 8)),
    )
