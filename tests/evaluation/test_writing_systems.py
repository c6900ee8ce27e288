"""Arabic letters join, and lines of two directions are put in order."""

import pytest

from trn_jax.evaluation.writing_systems import (
    in_visual_order,
    is_invisible,
    joined,
    needs_shaping,
    runs,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ب", "\ufe8f"),
        ("بب", "\ufe91\ufe90"),
        ("ببب", "\ufe91\ufe92\ufe90"),
        ("دب", "\ufea9\ufe8f"),  # dal doesn't join what follows
        ("لا", "\ufefb"),
        ("بلا", "\ufe91\ufefc"),
        ("ب ب", "\ufe8f \ufe8f"),
        ("بَب", "\ufe91\u064e\ufe90"),
        ("ب\u200cب", "\ufe8f\u200c\ufe8f"),
        ("بـ", "\ufe91\u0640"),
        ("abc", "abc"),
        ("", ""),
    ],
)
def test_arabic_letters_take_the_form_of_their_place(text, expected):
    assert joined(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", [("abc", False)]),
        ("אב", [("אב", True)]),
        ("abc אב גד", [("abc ", False), ("אב גד", True)]),
        ("אב abc", [("abc", False), ("אב ", True)]),
        ("אב 12", [("12", False), ("אב ", True)]),
        ("(אב)", [("(אב)", True)]),
        ("12", [("12", False)]),
        ("e\u0301", [("e\u0301", False)]),
        ("", []),
    ],
)
def test_runs_are_in_the_order_in_which_they_are_seen(text, expected):
    assert runs(text) == expected


def test_right_to_left_runs_are_turned():
    assert in_visual_order("(אב)") == "(בא)"
    assert in_visual_order("א\u05b8ב") == "ב\u05b8א"


def test_kinds_of_characters():
    assert needs_shaping("चलना") and needs_shaping("a ക") and not needs_shaping("挥手 مرحبا")
    assert is_invisible("\u200d") and is_invisible("\ufe0f") and not is_invisible("a")
