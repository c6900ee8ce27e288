"""ConvNeXt, EfficientNet, MobileNetV3, ViT and Inception-v3: sizes, options, and random choices.

Their numbers are compared with the packages in `test_package_names.py` and `tests/convert`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax.backbones import BACKBONES
from trn_jax.backbones.convnext import ConvNeXt
from trn_jax.backbones.efficientnet import EfficientNet
from trn_jax.backbones.inceptionv3 import InceptionV3
from trn_jax.backbones.mbconv import BlockShape
from trn_jax.backbones.mobilenetv3 import MobileNetV3
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.backbones.vit import ViT
from trn_jax.errors import UserError
from trn_jax.models.cost import measure

SHAPES = (
    BlockShape(3, 8, 8, 0, "relu", 1),
    BlockShape(5, 16, 8, 8, "hard_swish", 2),
    BlockShape(3, 16, 8, 8, "hard_swish", 1),
)
STAGES = (
    (("Mixed_5b", (4, (("branch1x1", 4, 1, 1),), (("a", 4, 1, 1), ("b", 8, (1, 7), 1)))),),
    (("Mixed_6a", ("max", (("branch3x3", 8, 3, 2),))),),
)
# With the pixels that they take, and the number of their stages.
TINY = {
    "convnext": (partial(ConvNeXt, (1, 2), (8, 16)), 16, 2),
    "efficientnet": (
        partial(EfficientNet, ((1, 3, 1, 8, 1), (6, 3, 2, 8, 2)), stem_width=8, out_channels=16),
        16,
        2,
    ),
    "mobilenetv3": (partial(MobileNetV3, SHAPES, stem_width=8, last_width=16, hidden=24), 16, 2),
    "vit": (partial(ViT, 2, width=16, head_channels=8, patch=8, pixels=16), 16, 1),
    "inceptionv3": (partial(InceptionV3, STAGES), 75, 2),
}
WITH_NORMS = ("efficientnet", "mobilenetv3", "inceptionv3")


def build(name, **options):
    return nnx.eval_shape(lambda: TINY[name][0](rngs=nnx.Rngs(0), **options))


def frames(name, count=2):
    pixels = TINY[name][1]
    return np.random.default_rng(0).normal(size=(count, pixels, pixels, 3)).astype(np.float32)


# Parameters without the classifier in the papers' and torchvision's tables, and 10^9 multiply-adds
# for a frame of 224 pixels (299 for Inception-v3).
PUBLISHED = {
    "convnext_tiny": (28_589_128 - 769_000, 4.456, 768),
    "convnext_base": (88_591_464 - 1_025_000, 15.355, 1024),
    "efficientnet_b0": (5_288_548 - 1_281_000, 0.386, 1280),
    "inceptionv3": (23_834_568 - 2_049_000, 5.713, 2048),
    "mobilenetv3_large": (5_483_032 - 1_281_000, 0.217, 1280),
    "resnext50_32x4d": (25_028_904 - 2_049_000, 4.230, 2048),
    "swin_tiny": (28_288_354 - 769_000, 4.491, 768),
    "swin_small": (49_606_258 - 769_000, 8.741, 768),
    "swin_large": (196_532_476 - 1_537_000, 34.475, 1536),
    "vit_base": (86_567_656 - 769_000, 17.564, 768),
}


@pytest.mark.by_default("convnext_tiny", "efficientnet", "vit")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_and_cost(name):
    parameters, products, channels = PUBLISHED[name]
    model = nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0)))
    pixels = 299 if name == "inceptionv3" else 224
    cost = measure(model, 1, pixels, pixels, 3)
    assert cost.parameters == parameters
    assert cost.products == pytest.approx(products * 1e9, rel=1e-2)
    assert model.out_channels == channels == model.stage_channels[-1]


@pytest.mark.parametrize("name", TINY)
def test_stages_have_the_channels_that_they_promise(name):
    model = build(name)
    x = jax.ShapeDtypeStruct(frames(name).shape, jnp.float32)
    features = nnx.eval_shape(lambda model, x: model(x), model, x)
    assert tuple(f.shape[-1] for f in features) == model.stage_channels
    assert all(f.ndim == 4 and len(f) == 2 for f in features)
    low = nnx.eval_shape(lambda model, x: model(x), build(name, dtype=jnp.bfloat16), x)
    assert {f.dtype for f in low} == {jnp.dtype(jnp.bfloat16)}


def trainable(model):
    return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.parametrize("name", ["convnext", *WITH_NORMS])
def test_stages_are_frozen_from_the_stem_on(name):
    num_stages = TINY[name][2]
    all_of_them = trainable(build(name))
    found = [trainable(build(name, frozen_stages=k)) for k in range(num_stages + 1)]
    assert all(a > b for a, b in zip([all_of_them, *found], found, strict=False))
    stem = {path for path in all_of_them if path.startswith(("stem", "Conv2d"))}
    assert all_of_them - found[0] == stem
    assert len(found[-1]) == (2 if name == "convnext" else 0)  # its last norm is no stage
    with pytest.raises(UserError, match=rf"frozen_stages=9 .*-1\.\.{num_stages}"):
        build(name, frozen_stages=9)


@pytest.mark.parametrize("name", WITH_NORMS)
def test_partial_bn_leaves_the_first_norm(name):
    scales = [path for path in trainable(build(name, partial_bn=True)) if path.endswith("scale")]
    assert len(scales) == 1 and scales[0].startswith(("stem_conv/bn", "Conv2d_1a_3x3/bn"))


@pytest.mark.parametrize("name", ["efficientnet", "mobilenetv3"])
def test_temporal_ops_are_in_wide_blocks_with_a_shortcut(name):
    class Op(nnx.Module):
        def __init__(self, channels):
            self.channels = channels

        def __call__(self, x):
            return jnp.roll(x, 1, axis=0)

    def hooked(**options):
        return build(name, temporal=TemporalHook(op=Op, **options))

    model = hooked()
    assert [block.temporal_op is not None for block in model.blocks] == [False, False, True]
    assert model.blocks[2].temporal_op.channels == 8
    assert model.blocks[2].shift_place == "blockres"
    for options in (dict(shift_place="block"), dict(shift_every=2)):
        with pytest.raises(UserError, match=r"shift_place=.*shift_every="):
            hooked(**options)


def run(model, x, **options):
    @nnx.jit
    def forward(model, x):
        random = dict(rngs=nnx.Rngs(dropout=0), **options) if model.draws else {}
        return model(x, train=True, **random)

    return [np.asarray(f) for f in forward(model, x)]


@pytest.mark.thorough("mobilenetv3", "vit")
@pytest.mark.parametrize("name", TINY)
def test_rematerialisation_changes_nothing(name, filled):
    options = dict(drop_path_rate=0.5) if name in ("convnext", "efficientnet") else {}
    plain = filled(lambda: TINY[name][0](rngs=nnx.Rngs(0), **options))
    again = filled(lambda: TINY[name][0](rngs=nnx.Rngs(0), remat=1, **options))
    for a, b in zip(run(plain, frames(name)), run(again, frames(name)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())
    with pytest.raises(UserError, match="remat=9"):
        build(name, remat=9)


@pytest.mark.thorough("mobilenetv3", "vit")
@pytest.mark.parametrize("name", TINY)
def test_training_has_finite_gradients(name, filled, gradients):
    found = gradients(filled(lambda: TINY[name][0](rngs=nnx.Rngs(0))), frames(name))
    assert all(np.isfinite(value).all() for value in found.values())
    assert all(np.any(value) for value in found.values())


@pytest.mark.parametrize("name", ["convnext", "efficientnet"])
def test_dropped_paths_belong_to_the_clip(name, filled):
    make, rate = TINY[name][0], dict(drop_path_rate=0.9)
    model, x = filled(lambda: make(rngs=nnx.Rngs(0), **rate)), np.repeat(frames(name, 1), 4, axis=0)
    last = run(model, x, clip_index=np.array([3, 1]))[-1].reshape(2, -1)
    other = run(model, x, clip_index=np.array([1, 3]))[-1].reshape(2, -1)
    if name == "convnext":  # without statistics of the batch
        np.testing.assert_allclose(last, other[::-1], atol=1e-5)
        assert np.abs(last - other).max() > 1e-4
    with pytest.raises(UserError, match=r"random keys.*nnx\.Rngs"):
        model(x, train=True)
    assert not build("mobilenetv3").draws
    assert not build("efficientnet", drop_path_rate=0.0).draws


@pytest.mark.parametrize(
    ("name", "options", "shape", "words"),
    [
        ("vit", {}, (1, 24, 16, 3), "24x16 pixels.*16x16"),
        ("vit", dict(pixels=20), (1, 16, 16, 3), "pixels=20.* 8 pixels"),
        ("inceptionv3", {}, (1, 74, 80, 3), "74x80 pixels.* 75"),
    ],
)
def test_frames_that_do_not_fit_are_explained(name, options, shape, words):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(UserError, match=words):
        nnx.eval_shape(lambda model, x: model(x), build(name, **options), x)


def test_hidden_layer_and_norm_see_the_means_of_all_pixels(filled):
    models = {
        name: filled(lambda name=name: TINY[name][0](rngs=nnx.Rngs(0)))
        for name in ("mobilenetv3", "convnext")
    }
    for name, model in models.items():
        vector = nnx.jit(lambda model, x: model(x)[-1])(model, frames(name))
        assert vector.shape == (2, 1, 1, model.out_channels)
    vector = (np.asarray(vector) - model.norm.bias[...]) / model.norm.scale[...]
    np.testing.assert_allclose(vector.mean(-1), 0, atol=1e-5)
