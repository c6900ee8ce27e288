"""Checkpoints of small models, for all tests of prediction."""

import functools

import pytest
from small_models import config_of, store

from trn_jax import load_model


@pytest.fixture(scope="session")
def trn(tmp_path_factory):
    """A model whose backbone runs once per frame."""
    return store(tmp_path_factory.mktemp("trn") / "model", config_of("trn_resnet10"))


@pytest.fixture(scope="session")
def loaded():
    """Function that loads a model once, however often it is asked for."""
    return functools.cache(load_model)


@pytest.fixture
def loaded_once(monkeypatch, loaded):
    """Commands take models that were loaded before."""
    monkeypatch.setattr("trn_jax.prediction.contract.load_model", loaded)


@pytest.fixture(scope="session")
def tsm(tmp_path_factory):
    """A model that sees clips."""
    return store(tmp_path_factory.mktemp("tsm") / "model", config_of("tsm_resnet10"))
