"""DenseNet: the published sizes, its dense connections, and the ReLU that is not there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.backbones.densenet import DenseNet, average_2x2
from trn_jax.convert import variables
from trn_jax.models.cost import measure
from trn_jax.nn.layers import Frozen
from trn_jax.nn.shared_norm import Features

pytestmark = pytest.mark.thorough


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tiny(**options):
    return lambda: DenseNet((2, 3), growth=4, width=8, rngs=nnx.Rngs(0), **options)


@pytest.fixture(scope="module")
def densenet161():
    return nnx.eval_shape(lambda: BACKBONES["densenet161"](rngs=nnx.Rngs(0)))


run = nnx.jit(lambda model, x: model(x))


def test_published_sizes_and_cost(densenet161):
    frames = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), densenet161, frames)
    assert [f.shape for f in features] == [
        (2, 56, 56, 384),
        (2, 28, 28, 768),
        (2, 14, 14, 2112),
        (2, 7, 7, 2208),
    ]
    assert densenet161.stage_channels == (384, 768, 2112, 2208)
    assert densenet161.out_channels == 2208
    cost = measure(densenet161, 1, 224, 224, 3)
    assert cost.parameters == 26_472_000
    assert cost.products == pytest.approx(7.7257e9, rel=1e-4)
    assert cost.normalised == pytest.approx(29.414e6, rel=1e-4)


def test_a_layer_sees_everything_before_it(filled):
    block, x = filled(tiny()).denseblock1, draw(2, 4, 4, 8)

    @nnx.jit
    def both(block, x):
        first = block.denselayer1(Features(x))
        second = block.denselayer2(Features(jnp.concatenate([x, first], axis=-1)))
        return block(x), jnp.concatenate([x, first, second], axis=-1)

    found, expected = both(block, x)
    assert found.shape == (2, 4, 4, 8 + 2 * 4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_last_features_are_normalised_and_signed(filled):
    model, x = filled(tiny()), draw(2, 32, 32, 3)

    @nnx.jit
    def both(model, x):
        x = model.transition1(model.denseblock1(model.stem(x)))
        return model.norm5(model.denseblock2(x))

    features = run(model, x)
    np.testing.assert_allclose(features[-1], both(model, x), rtol=1e-5, atol=1e-5)
    assert [f.shape for f in features] == [(2, 8, 8, 16), (2, 4, 4, 20)]
    assert (np.asarray(features[-1]) < 0).mean() > 0.1


def test_transitions_average_whole_2x2_cells():
    x = draw(2, 5, 6, 3)
    expected = (x[:, :4:2, ::2] + x[:, 1:4:2, ::2] + x[:, :4:2, 1::2] + x[:, 1:4:2, 1::2]) / 4
    np.testing.assert_allclose(average_2x2(x), expected, atol=1e-6)
    assert average_2x2(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_kernels_are_drawn_for_their_inputs():
    model = nnx.jit(lambda: DenseNet((), growth=4, width=512, rngs=nnx.Rngs(0)))()
    kernel = model.conv0.kernel[...]  # 7x7 over 3 channels
    assert float(kernel.std()) == pytest.approx((2 / (49 * 3)) ** 0.5, rel=0.02)


def test_partial_bn_leaves_only_the_first_norm_alive():
    model = nnx.eval_shape(tiny(partial_bn=True))
    frozen = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, Frozen))}
    norms = {path.rpartition("/")[0] for path in variables(model) if path.endswith("/mean")}
    norms -= {"norm0"}
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
