"""Non-local blocks: by hand, where they are, and what training does with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import create_model
from trn_jax.backbones.non_local import MODES, NonLocal
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.nn.convolution import Conv
from trn_jax.nn.layers import BatchNorm, Frozen

CHANNELS, SEGMENTS = 4, 3


def make(mode, **options):
    def conv(*sizes, **geometry):
        return Conv(*sizes, **geometry, rngs=nnx.Rngs(0))

    options = dict(num_segments=SEGMENTS, conv=conv, norm=BatchNorm) | options
    return NonLocal(CHANNELS, mode=mode, **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pooled(x):
    """Maxima over 2x2 pixels, without the last row or column of odd sizes."""
    height, width = (size // 2 for size in x.shape[1:3])
    x = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1)
    return x.max((2, 4))


def by_hand(block, x, mode):
    """The block, one position of one clip after the other."""
    values = {path: np.asarray(leaf[...]) for path, leaf in variables(block).items()}

    def embed(name):
        return x @ values[f"{name}/kernel"][0, 0] + values[f"{name}/bias"]

    theta, phi = (x, x) if mode == "gaussian" else (embed("theta"), embed("phi"))
    phi, g = pooled(phi), pooled(embed("g"))
    y = np.empty((*x.shape[:-1], g.shape[-1]))
    for frame, row, column in np.ndindex(*x.shape[:-1]):
        first = frame // SEGMENTS * SEGMENTS
        clip = slice(first, first + SEGMENTS)
        products = phi[clip].reshape(-1, phi.shape[-1]) @ theta[frame, row, column]
        if mode == "dot_product":
            shares = products / len(products)
        else:
            shares = np.exp(products) / np.exp(products).sum()
        y[frame, row, column] = shares @ g[clip].reshape(-1, g.shape[-1])
    y = y @ values["conv/kernel"][0, 0]
    y = (y - values["bn/mean"]) / np.sqrt(values["bn/var"] + 1e-5)
    return x + y * values["bn/scale"] + values["bn/bias"]


run = nnx.jit(lambda block, x: block(x))


@pytest.mark.parametrize("mode", MODES)
def test_a_block_by_hand(filled, mode):
    block = filled(lambda: make(mode))
    x = draw(2 * SEGMENTS, 4, 5, CHANNELS)
    found, expected = run(block, x), by_hand(block, x, mode)
    assert np.abs(expected - x).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_new_block_changes_nothing(mode):
    x = draw(SEGMENTS, 2, 2, CHANNELS)
    block = make(mode)
    np.testing.assert_array_equal(run(block, x), x)
    embeddings = {p for p in variables(block) if p.endswith("bias") and not p.startswith("bn")}
    expected = {"g/bias"} if mode == "gaussian" else {"g/bias", "theta/bias", "phi/bias"}
    assert embeddings == expected


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("tsn_resnet10", ["layer2/0", "layer3/0"]),
        ("tsm_resnet50", ["layer2/0", "layer2/2", "layer3/0", "layer3/2", "layer3/4"]),
        ("tsn_resnet101", ["layer2/0", "layer2/2", "layer3/0", "layer3/2", "layer3/4"]),
    ],
)
def test_the_blocks_of_a_resnet(name, places):
    model = abstract(name)
    found = [p for p in variables(model) if p.endswith("non_local/g/kernel")]
    assert found == [f"backbone/{place}/non_local/g/kernel" for place in places]
    assert (model.num_segments, model.sees_frames) == (4, False)
    assert abstract("tsn_resnet10", non_local=None).sees_frames


def abstract(name, **options):
    options = dict(num_classes=5, num_segments=4, non_local="embedded_gaussian") | options
    return nnx.eval_shape(lambda: create_model(name, **options))


@pytest.mark.parametrize(
    ("mode", "parameters"),
    [("embedded_gaussian", 31_682_000), ("dot_product", 31_682_000), ("gaussian", 28_007_888)],
)
def test_parameter_counts_of_the_published_models(mode, parameters):
    model = abstract("tsm_resnet50", non_local=mode, num_classes=400)
    assert sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param))) == parameters


def test_frozen_stages_freeze_their_blocks_and_partial_bn_none():
    found = variables(abstract("tsn_resnet10", frozen_stages=2))
    frozen = {p for p, leaf in found.items() if "non_local" in p and type(leaf) is Frozen}
    assert frozen == {
        p for p in found if "layer2/0/non_local" in p and not p.endswith(("mean", "var"))
    }
    found = variables(abstract("tsn_resnet10", partial_bn=True))
    assert not any("non_local" in p and type(leaf) is Frozen for p, leaf in found.items())


@pytest.mark.thorough
def test_frames_meet_in_every_clip_alone(filled):
    options = dict(num_classes=5, num_segments=2, width=4, non_local="dot_product")
    model = filled(lambda: create_model("tsn_resnet10", **options))
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, 32, 32, 3), np.uint8)
    features = nnx.jit(lambda model, clips: model.features(clips))
    found = features(model, clips)
    other = np.array(clips)
    other[0, 1] = 255 - other[0, 1]
    changed = np.abs(np.asarray(features(model, other) - found)).max(-1)
    assert (changed[0] > 1e-4).all()
    np.testing.assert_allclose(changed[1], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mode="concatenation"), "non_local='concatenation'.* dot_product"),
        (dict(mode="gaussian", num_segments=None), "num_segments"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_small_maps_are_refused():
    block = nnx.eval_shape(lambda: make("gaussian"))
    x = jax.ShapeDtypeStruct((SEGMENTS, 1, 2, CHANNELS), jnp.float32)
    with pytest.raises(UserError, match="1x2"):
        nnx.eval_shape(lambda block, x: block(x), block, x)
