"""The page of an order card."""

from trn_jax.explanation.order import ORDERS
from trn_jax.pages import charts
from trn_jax.pages.markup import tag
from trn_jax.pages.page import facts, page, section
from trn_jax.reporting.order_card import order_section


def order_page(found):
    """The page of a `MeasuredCard`: a table of the classes, and a chart."""
    card = found.card
    means = [100 * card.mean(order) for order in ORDERS]
    chart = charts.column_chart(
        "Accuracy by the order of the frames",
        means,
        list(ORDERS),
        y="accuracy, %",
        description=", ".join(f"{o} {m:.1f} %" for o, m in zip(ORDERS, means, strict=True)),
        marked=(0,),
    )
    verdict = (
        f"The model recognises {means[0]:.0f} % of the videos, and {means[1]:.0f} % if their "
        "frames are in reverse."
    )
    origin = facts([*_origin(found.about), ("random orders", f"{found.num_shuffles} per video")])
    return page(
        "Does this data set need time?",
        section("order", "By class", tag("p", verdict), chart, *order_section(card)),
        section("about", "About", origin),
    )


def _origin(about):
    keys = ("checkpoint", "step", "model", "list", "list_sha256", "trn_jax", "jax", "time")
    return [(key.replace("_", " "), about.get(key)) for key in keys]
