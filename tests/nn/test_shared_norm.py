"""Batch norms that share statistics against norms of the concatenated features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.nn.layers import BatchNorm, relu
from trn_jax.nn.shared_norm import Features

pytestmark = pytest.mark.thorough


def draw(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


def norms():
    """Norms of the first two pieces and of all three, with different guesses of the means."""
    for seed, channels in enumerate((5, 9)):
        norm = BatchNorm(channels, dtype=jnp.float64)
        values = draw(4, channels, seed=seed)
        norm.scale[...], norm.bias[...] = 1 + 0.3 * values[0], values[1]
        norm.mean[...], norm.var[...] = 2 + values[2], 1 + np.square(values[3])
        yield norm


def shared(two, three, x, y, z, **options):
    features = Features(x)
    features.append(y)
    first = features.norm_relu(two, **options)
    features.append(z)
    return first, features.norm_relu(three, **options), features.joined()


def apart(two, three, *xyz, **options):
    pair, all_three = (jnp.concatenate(xyz[:count], axis=-1) for count in (2, 3))
    return relu(two(pair, **options)), relu(three(all_three, **options)), all_three


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("train", [False, True])
def test_outputs_gradients_and_running_statistics_are_those_of_the_whole(train, num_groups):
    with jax.enable_x64(True):
        graph, params, stats = nnx.split(tuple(norms()), nnx.Param, nnx.BatchStat)
        params, stats = nnx.as_pure(params), nnx.as_pure(stats)
        x, y, z = (2 + 3 * draw(4, 3, 2, c, seed=c) for c in (2, 3, 4))
        weights = [draw(4, 3, 2, c, seed=10 + c) for c in (5, 9, 9)]

        def results(run):
            def loss(params, x, y, z):
                model = nnx.merge(graph, params, stats)
                outputs = run(*model, x, y, z, train=train, num_groups=num_groups)
                total = sum(jnp.sum(w * o) for w, o in zip(weights, outputs, strict=True))
                return total, (outputs, nnx.as_pure(nnx.state(model, nnx.BatchStat)))

            return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(params, x, y, z)

        found, expected = results(shared), results(apart)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), found, expected)
