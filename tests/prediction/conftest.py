"""Checkpoints of small models, for all tests of prediction."""

import pytest
from small_models import config_of, store


@pytest.fixture(scope="session")
def trn(tmp_path_factory):
    """A model whose backbone runs once per frame."""
    return store(tmp_path_factory.mktemp("trn") / "model", config_of("trn_resnet10"))


@pytest.fixture(scope="session")
def tsm(tmp_path_factory):
    """A model that sees clips."""
    return store(tmp_path_factory.mktemp("tsm") / "model", config_of("tsm_resnet10"))
