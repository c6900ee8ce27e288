"""BN-Inception: the published table, its pools, and what its options change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from trn_jax.backbones.bninception import BLOCKS, BNInception, average_3x3
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.models.cost import measure
from trn_jax.nn.layers import Frozen
from trn_jax.nn.pooling import max_pool

pytestmark = pytest.mark.thorough

# A strided block and a projected max pool.
FEW_BLOCKS = (BLOCKS[2], BLOCKS[9])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(blocks=BLOCKS, **options):
    return lambda: BNInception(blocks, rngs=nnx.Rngs(0), **options)


def tiny(**options):
    return make(FEW_BLOCKS, width=4, **options)


run = nnx.jit(lambda model, x: model(x))


def test_features_at_the_published_size():
    model = nnx.eval_shape(make())
    frames = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), model, frames)
    assert [f.shape for f in features] == [(2, 28, 28, 320), (2, 14, 14, 608), (2, 7, 7, 1024)]
    assert model.stage_channels == (320, 608, 1024)
    assert model.out_channels == 1024
    widths = [getattr(model, name).out_channels for name in model.block_names]
    assert widths == [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]


def test_published_parameters_and_cost():
    model = nnx.eval_shape(make())
    cost = measure(model, 1, 224, 224, 3)
    assert cost.parameters == 10_270_240
    assert cost.products == pytest.approx(2.03e9, rel=5e-3)


def test_every_convolution_has_a_bias_and_a_norm():
    paths = variables(nnx.eval_shape(make()))
    units = {path.removesuffix("/conv/kernel") for path in paths if path.endswith("/kernel")}
    assert len(units) == 69
    leaves = ("conv/kernel", "conv/bias", "bn/scale", "bn/bias", "bn/mean", "bn/var")
    assert set(paths) == {f"{unit}/{leaf}" for unit in units for leaf in leaves}


def test_a_block_puts_its_branches_side_by_side(filled):
    model, x = filled(make((BLOCKS[0], BLOCKS[2]), width=4)), draw(2, 8, 8, 12)

    @nnx.jit
    def both(block, x):
        convs = block.convs
        branches = [
            convs["1x1"](x),
            convs["3x3"](convs["3x3_reduce"](x)),
            convs["double_3x3_2"](convs["double_3x3_1"](convs["double_3x3_reduce"](x))),
            convs["pool_proj"](average_3x3(x)),
        ]
        return block(x), jnp.concatenate(branches, axis=-1)

    found, expected = both(model.inception_3a, x)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # The strided block hands its pooled input on.
    x = draw(2, 8, 8, 16)
    found = run(model.inception_3c, x)
    np.testing.assert_array_equal(found[..., -16:], max_pool(x, 3, stride=2, ceil_mode=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 4, 3), (1, 7, 7, 2)])
def test_average_counts_the_zeros_of_the_border(shape):
    x, upstream = draw(*shape), draw(*shape, seed=1)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.zeros_like(x)
    for row in range(shape[1]):
        for column in range(shape[2]):
            window = padded[:, row : row + 3, column : column + 3]
            expected[:, row, column] = window.sum((1, 2)) / 9

    def reduced(x):
        borders = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), borders) / 9

    found, transpose = jax.vjp(average_3x3, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        transpose(upstream)[0], jax.vjp(reduced, x)[1](upstream)[0], atol=1e-6
    )
    assert average_3x3(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_partial_bn_leaves_only_the_first_norm_alive(filled):
    model = filled(tiny(partial_bn=True))
    frozen = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, Frozen))}
    norms = {path.rpartition("/")[0] for path in variables(model) if path.endswith("/mean")}
    norms -= {"conv1_7x7_s2/bn"}
    assert frozen == {f"{norm}/{leaf}" for norm in norms for leaf in ("scale", "bias")}


@pytest.mark.slow
def test_training_has_finite_gradients(filled, gradients):
    found = gradients(filled(tiny()), draw(4, 32, 32, 3))
    assert all(np.isfinite(value).all() for value in found.values())
    assert all(np.any(value) for path, value in found.items() if path.endswith("kernel"))


@pytest.mark.slow
def test_training_normalises_in_groups(filled):
    model, x = filled(tiny()), draw(4, 32, 32, 3)
    train = nnx.jit(lambda model, x: model(x, train=True, num_groups=2)[-1])
    before = train(model, x)
    x[2:] *= x[2:]
    after = train(model, x)
    # Not bit by bit: the running statistics, which have moved, enter the rounding.
    np.testing.assert_allclose(after[:2], before[:2], atol=1e-3)
    assert np.abs(after[2:] - before[2:]).max() > 1e-2


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(filled):
    x = draw(2, 32, 32, 3)
    exact = run(filled(tiny()), x)
    rough = run(filled(tiny(dtype=jnp.bfloat16)), x)
    for found, expected in zip(rough, exact, strict=True):
        assert found.dtype == jnp.bfloat16
        scale = float(jnp.abs(expected).max())
        assert np.abs(found.astype(np.float32) - expected).max() < 3e-2 * scale


def test_sizes_that_do_not_fit_are_explained():
    model = nnx.eval_shape(tiny())
    frames = jax.ShapeDtypeStruct((1, 40, 64, 3), jnp.float32)
    with pytest.raises(UserError, match=r"map of 5x8 pixels; .* multiples of 32"):
        nnx.eval_shape(lambda model, x: model(x), model, frames)
    with pytest.raises(UserError, match="width=3 "):
        BNInception(BLOCKS, width=3, rngs=nnx.Rngs(0))
