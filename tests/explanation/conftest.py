"""The small checkpoints of the tests of prediction, and a video for them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent.parent / "prediction"))

from example_explanation import example
from small_models import config_of, store, write_films

from trn_jax import load_model
from trn_jax.explanation import rearranged


@pytest.fixture(scope="session", autouse=True)
def small_steps():
    """Score as few heads per step as these tests need: the others would only fill it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rearranged, "_HEADS_PER_STEP", 16)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Function that makes a small model of a kind, as if loaded from a checkpoint, once."""
    made = {}

    def model(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("model") / "model"
            config = config_of(name)
            config.model.update(options)
            made[key] = load_model(store(folder, config))
        return made[key]

    return model


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """A video of 20 frames."""
    return write_films(tmp_path_factory.mktemp("films"), [20])[0]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def explanation(rng):
    """One whose numbers are known, with hostile names."""
    return example(rng)
