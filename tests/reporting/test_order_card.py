"""The order card of a data set."""

import json

import pytest

from trn_jax.errors import UserError
from trn_jax.pages.markup import join
from trn_jax.reporting.order_card import OrderCard, order_section, origin_note, read_order_card
from trn_jax.reporting.runs import Result

CARD = {
    "classes": ["Opening <b>", "打开", "none"],
    "forward": [1.0, 0.5, None],
    "reversed": [0.0, 0.5, None],
    "shuffled": [0.25, 0.5, None],
    "frozen": [0.1, 0.5, None],
    "num_videos": [30, 10, 0],
    "protocol": "efficient",
    "chance": 0.5,
}


def test_the_means_are_over_videos(tmp_path):
    (tmp_path / "order.json").write_text(json.dumps(CARD | {"more": 1}))
    card = read_order_card(tmp_path / "order.json")
    assert card.mean("forward") == pytest.approx(35 / 40)
    text = join(order_section(card))
    assert "87.5 %" in text and "Opening &lt;b&gt;" in text and "75.0" in text
    assert text.count("<tr>") == 4


@pytest.mark.parametrize(
    ("checkpoint", "step", "is_other"),
    [
        ("runs/a/checkpoints/6", 6, False),
        ("../a/checkpoints/6", 6, False),
        ("./checkpoints/6", 6, False),
        ("runs\\a\\checkpoints\\6", 6, False),
        ("", None, False),  # of another program's scores
        ("runs/a/checkpoints/3", 3, True),
        ("runs/b/checkpoints/6", 6, True),
        ("hf:user/a", 9, True),
        ("", 9, True),
    ],
)
def test_a_card_of_another_checkpoint_is_named(checkpoint, step, is_other):
    card = OrderCard(**CARD, checkpoint="runs/a/checkpoints/6", step=6)
    entries = {"checkpoint": checkpoint, "step": step}
    text = str(origin_note(card, Result("efficient", "efficient.json", entries, None)))
    assert "runs/a/checkpoints/6" in text and "(step 6)" in text
    assert ("another checkpoint" in text) == is_other
    if is_other:
        assert checkpoint in text and f"(step {step})" in text and "explain --dataset" in text


def test_cards_without_a_checkpoint_have_no_note():
    result = Result("efficient", "efficient.json", {"checkpoint": "runs/a", "step": 6}, None)
    assert origin_note(OrderCard(**CARD), result) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("forward", [1.0]),
        ("frozen", [1.0, 2.0, None]),
        ("shuffled", [1.0, float("nan"), None]),
        ("num_videos", [1, -1, 0]),
        ("classes", []),
        ("classes", [1, 2, 3]),
        ("chance", None),
        ("protocol", 5),
        ("checkpoint", 5),
        ("step", -1),
    ],
)
def test_malformed_cards_are_refused(tmp_path, key, value):
    (tmp_path / "order.json").write_text(json.dumps(CARD | {key: value}))
    with pytest.raises(UserError, match=key if key != "classes" or value else "forward|classes"):
        read_order_card(tmp_path / "order.json")
    if key in CARD:
        (tmp_path / "order.json").write_text(
            json.dumps({k: v for k, v in CARD.items() if k != key})
        )
        with pytest.raises(UserError, match=key):
            read_order_card(tmp_path / "order.json")
    (tmp_path / "order.json").write_text("[]")
    with pytest.raises(UserError, match=r"order\.json"):
        read_order_card(tmp_path / "order.json")
