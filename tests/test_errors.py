"""The ends of errors on unknown names."""

import pytest

from trn_jax.errors import did_you_mean


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["open", "close"], "; did you mean 'open'?"),
        (["run"], "; there is only 'run'"),
        (["run", "jump"], "; the classes are 'run' and 'jump'"),
        (["run", "jump", "sit"], "; the classes are 'run', 'jump' and 'sit'"),
        (
            ["run", "jump", "sit", "stand", "lie"],
            "; the classes are 'run', 'jump', 'sit' and 2 more",
        ),
        ([], "."),
    ],
)
def test_the_similar_name_or_the_first_ones_are_listed(known, expected):
    assert did_you_mean("opne", known, all_of="classes", most=3) == expected
    assert did_you_mean("opne", known) == (expected if "open" in known else ".")
