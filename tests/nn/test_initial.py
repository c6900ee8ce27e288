"""Initial values are those of `jax.random`, drawn in pieces."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.models import create_model
from trn_jax.nn import initial

SHAPES = [(5,), (3, 3, 4, 16), (2, initial.PIECE), (257, 263)]


@pytest.mark.smoke
@pytest.mark.parametrize("shape", SHAPES)
def test_the_numbers_are_those_of_jax(shape):
    key = jax.random.key(3)
    found = initial.normal(key, shape, jnp.float32, 0.3)
    expected = 0.3 * jax.random.normal(key, shape, jnp.float32)
    assert isinstance(found, jax.Array) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    found = initial.uniform(key, shape, jnp.float32, 0.2)
    expected = jax.random.uniform(key, shape, jnp.float32, -0.2, 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(found).max() <= np.float32(0.2)


@pytest.mark.parametrize("draw", [initial.normal, initial.uniform])
def test_keys_and_shapes_of_other_kinds_are_drawn_by_jax(draw):
    key = jax.random.key(1)
    traced = jax.jit(lambda key: draw(key, (4, 3), jnp.float32, 0.5))(key)
    np.testing.assert_allclose(traced, draw(key, (4, 3), jnp.float32, 0.5), rtol=1e-6, atol=1e-7)
    assert draw(jax.random.key(1, impl="rbg"), (4,), jnp.float32, 0.5).shape == (4,)
    assert draw(key, (0, 4), jnp.float32, 0.5).shape == (0, 4)
    with jax.enable_x64(True):
        assert draw(key, (4,), jnp.float64, 0.5).dtype == np.float64


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["trn_resnet10", "tpn_slowonly_resnet14"])
def test_models_start_from_the_same_numbers_within_jit(name):
    options = dict(num_classes=3, num_segments=4, width=4)
    if name.startswith("tpn"):
        options |= dict(num_segments=8, width=8)

    def leaves():
        return jax.tree.leaves(nnx.as_pure(nnx.state(create_model(name, **options))))

    for one, other in zip(leaves(), jax.jit(leaves)(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-7)


def test_a_draw_is_compiled_once():
    initial.normal(jax.random.key(0), (2, 2), jnp.float32)
    before = initial.normal_piece._cache_size()
    for size in (3, 100, initial.PIECE + 1):
        values = np.asarray(initial.normal(jax.random.key(size), (size,), jnp.float32, 2.0))
        assert abs(values.std() - 2) < 12 / math.sqrt(size)
    assert initial.normal_piece._cache_size() == before
