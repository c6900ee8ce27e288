"""Devices that are named, not attached."""

import pytest

from trn_jax.errors import UserError
from trn_jax.planning.topology import find_devices


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v5e", "v5e:4x4"),
        ("v99:2x2", "v4, v5e, v5p, v6e"),
        ("cpu:none", "cpu:8"),
        ("cpu:0", "cpu:8"),
        ("gpu", "--topology=gpu"),
    ],
)
def test_unknown_topologies_are_explained(topology, message):
    with pytest.raises(UserError, match=message):
        find_devices(topology)
