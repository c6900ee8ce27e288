"""Class activation maps: gradients of whole clips, any backbone, and the place of an object."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trn_jax import create_model
from trn_jax.backbones.stages import run_stages
from trn_jax.backbones.swin import Swin
from trn_jax.backbones.vit import ViT
from trn_jax.errors import UserError
from trn_jax.explanation.cam import ActivationMaps, center

SHAPE = 4, 64, 64, 3


def clip_of(rng, shape=SHAPE):
    return rng.integers(0, 256, shape, np.uint8)


@functools.cache
def small(name, **options):
    options = dict(width=4, num_classes=3, num_segments=4, init_std=0.5) | options
    return jax.jit(lambda: create_model(name, rngs=nnx.Rngs(0), **options))()


def test_map_of_a_tsn_is_its_classifier_at_every_place(rng):
    model, pixels = small("tsn_resnet10"), clip_of(rng)
    maps = ActivationMaps(model, SHAPE, stage=-1)(pixels, 1)
    graph, state = nnx.split(model)

    @jax.jit
    def maps_of(state, pixels):
        model = nnx.merge(graph, state)
        return model.backbone(model.normalise(pixels))[-1]

    features = np.asarray(maps_of(state, pixels))
    weights = np.asarray(model.head.fc.kernel[...])[:, 1]
    expected = np.maximum(features @ weights, 0) / features[..., 0].size
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-6)
    assert maps.shape == (4, 2, 2)


def test_small_frames_take_an_earlier_stage(rng):
    model = small("tsn_resnet10")
    assert ActivationMaps(model, SHAPE).stage == 1  # 8 x 8
    assert ActivationMaps(model, (4, 256, 256, 3)).stage == 3
    assert ActivationMaps(model, SHAPE)(clip_of(rng), 0).shape == (4, 8, 8)


def test_gradients_pass_through_the_shift(rng):
    """The maps of a clip are not those of its frames, which a shift leaves without neighbours."""
    model, pixels = small("tsm_resnet10"), clip_of(rng)
    alone = small("tsm_resnet10", num_segments=1)  # with the same weights
    whole = ActivationMaps(model, SHAPE)(pixels, 0)
    frames = ActivationMaps(alone, (1, *SHAPE[1:]))
    single = np.concatenate([frames(each[None], 0) for each in pixels]) / 4
    assert abs(whole - single).max() > 0.1 * whole.max()


@pytest.mark.parametrize(
    "name", ["trn_resnet10", "tpn_tsm_resnet10", "tin_resnet10", "tpn_slowonly_resnet14"]
)
@pytest.mark.thorough("tpn_tsm")
def test_maps_of_all_models(rng, name):
    options = {"num_segments": 8} if "slowonly" in name else {}
    options |= {"conv_groups": 4} if "tpn" in name else {}
    options |= {"width": 16} if "tin" in name else {}
    shape = (options.get("num_segments", 4), *SHAPE[1:])
    maps = ActivationMaps(small(name, **options), shape)(clip_of(rng, shape), 2)
    assert len(maps) == shape[0] and np.isfinite(maps).all() and maps.max() > 0


@pytest.mark.by_default(1)
@pytest.mark.parametrize(
    ("backbone", "cells"),
    [
        (partial(ViT, 2, width=32, head_channels=16, patch=8, pixels=64), 8),
        (partial(Swin, (1, 1), width=16, head_channels=8, window=4, patch=4), 8),
    ],
)
def test_maps_of_tokens(rng, backbone, cells):
    model = small("tsn_resnet10", backbone=backbone, width=None)
    maps = ActivationMaps(model, SHAPE)(clip_of(rng), 0)
    assert maps.shape == (4, cells, cells) and maps.max() > 0


class Module(nnx.Module):
    """Of another project; its features are maps, or vectors."""

    def __init__(self, averages):
        self.averages = averages
        self.conv = nnx.Conv(3, 5, (3, 3), strides=8, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = self.conv(x)
        return x.mean(axis=(1, 2)) if self.averages else x


def test_modules_of_others_have_maps(rng):
    model = small("tsn_resnet10", backbone=Module(False), width=None)
    assert ActivationMaps(model, SHAPE)(clip_of(rng), 0).shape == (4, 8, 8)


def test_models_without_maps_are_refused():
    model = small("tsn_resnet10", backbone=Module(True), width=None)
    with pytest.raises(UserError, match="1 x 1"):
        ActivationMaps(model, SHAPE)


@pytest.mark.parametrize("stage", [4, -5])
def test_unknown_stages(stage):
    with pytest.raises(UserError, match=f"stage={stage}.*4 stages"):
        ActivationMaps(small("tsn_resnet10"), SHAPE, stage=stage)


class Brightness(nnx.Module):
    """A backbone that sees where frames are brighter than the mean colour."""

    sees_clips, draws, dtype = False, False, jnp.float32
    stage_channels, out_channels = (1,), 1

    def __call__(self, frames, **_):
        def block(x):
            cells = x.mean(axis=-1, keepdims=True).reshape(len(x), 16, 4, 16, 4, 1)
            return jax.nn.relu(cells.mean(axis=(2, 4)))

        return run_stages([[block]], frames, remat=0)


def test_centre_lies_on_a_moving_object(rng):
    model = small("tsn_resnet10", backbone=Brightness(), width=None, num_classes=2)
    model.head.fc.kernel[...] = jnp.array([[1.0, -1.0]])
    maps, hits = ActivationMaps(model, SHAPE), 0
    for _ in range(10):
        places = np.linspace(*rng.uniform(8, 56, (2, 2)), 4)
        pixels = np.full(SHAPE, 20, np.uint8)
        for frame, (x, y) in zip(pixels, places.astype(int), strict=True):
            frame[y - 8 : y + 8, x - 8 : x + 8] = 250
        found = np.stack([center(each) for each in maps(pixels, 0)]) * 64
        hits += (abs(found - places) < 8).all()
    assert hits == 10
    assert np.isnan(center(maps(pixels, 1)[0])).all()  # nothing supports it
