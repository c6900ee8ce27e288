"""How descriptions of what made a file differ."""

import pytest

from trn_jax.files import differences

_BEFORE = {"step": 3, "checksum": "1f", "contract": {"view": {"crop": "center", "size": 28}}}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (_BEFORE, ""),
        (
            _BEFORE | {"contract": {"view": {"crop": "ten", "size": 28}}},
            "contract.view.crop: 'center' -> 'ten'",
        ),
        (_BEFORE | {"every": 0.5}, "every: None -> 0.5"),
        (_BEFORE | {"contract": None}, "contract.view.crop: 'center' -> None; contract.view.size"),
    ],
)
def test_only_what_differs_is_named(now, expected):
    found = differences(_BEFORE, now)
    assert found == expected or (expected.endswith("size") and found.startswith(expected))


def test_another_checkpoint_is_named_once():
    found = differences(_BEFORE, _BEFORE | {"checksum": "2e", "step": 4})
    assert "another checkpoint" in found and "checksum" in found
    assert "step" not in found and "2e" not in found


def test_many_differences_are_counted():
    found = differences({}, {f"key{n}": n for n in range(9)})
    assert "key4" in found and "key5" not in found and found.endswith("4 more")
