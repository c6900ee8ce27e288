"""Modules of other projects as backbones: shapes, modes, statistics, keys and messages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import trn_jax
from trn_jax.backbones.adapter import AdaptedBackbone, adapted
from trn_jax.backbones.temporal_hook import TemporalHook
from trn_jax.errors import UserError

CLIPS = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)


class Maps(nnx.Module):
    """A convolution, a batch norm and dropout of Flax."""

    def __init__(self, *, rate=0.0, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=4, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, frames):
        return self.drop(self.norm(self.conv(frames)))


class Vectors(nnx.Module):
    """Takes `train`, and gives one vector per frame; it has parameters only."""

    def __init__(self, channels=8, *, rngs):
        self.fc = nnx.Linear(3, channels, rngs=rngs)

    def __call__(self, frames, train):
        assert train in (False, True)
        return self.fc(frames.mean((1, 2))) + train


class Stages(Vectors):
    """Gives two maps."""

    def __call__(self, frames):
        x = self.fc(frames)
        return x[:, ::2, ::2, :4], x[:, ::4, ::4]


class Shifted(nnx.Module):
    """Takes the hook of TSM."""

    def __init__(self, *, temporal: TemporalHook | None = None, rngs):
        self.op = temporal.op(3) if temporal else None
        self.fc = nnx.Linear(3, 8, rngs=rngs)

    def __call__(self, frames):
        return self.fc(frames if self.op is None else self.op(frames))


CHOICES = {
    "class": Maps,
    "partial": partial(Vectors, 5),
    "function": lambda rngs: Stages(rngs=rngs),
    "module": Vectors(rngs=nnx.Rngs(0)),
    "sequence": nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), lambda x: x.mean((1, 2))),
}


@pytest.mark.by_default("class", "module-tsn")
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["tsn_resnet50", "trn_resnet50"])
def test_heads_take_any_module(name, choice):
    build = partial(trn_jax.create_model, name, num_classes=5, num_segments=3)

    def run(train):
        model = build(backbone=CHOICES[choice])
        return model(jnp.asarray(CLIPS), train=train, rngs=nnx.Rngs(0)), model.features(CLIPS)

    logits, features = jax.eval_shape(lambda: run(False))
    channels = 5 if choice == "partial" else 8
    assert logits.shape == (2, 5) and features.shape == (2, 3, channels)
    assert jax.eval_shape(lambda: run(True))[0].shape == (2, 5)


def test_shapes_of_the_stages():
    backbone = adapted(Stages(rngs=nnx.Rngs(0)))
    assert backbone.stage_channels == (4, 8) and backbone.out_channels == 8
    maps = backbone(jnp.ones((3, 8, 8, 3)))
    assert [m.shape for m in maps] == [(3, 4, 4, 4), (3, 2, 2, 8)]
    (vector,) = adapted(Vectors(rngs=nnx.Rngs(0)))(jnp.ones((3, 8, 8, 3)))
    assert vector.shape == (3, 1, 1, 8)


def test_our_own_backbones_stay_as_they_are():
    model = nnx.eval_shape(lambda: trn_jax.create_model("tsn_resnet18", num_classes=5))
    assert not isinstance(model.backbone, AdaptedBackbone)


def test_train_is_an_argument_of_the_call():
    backbone = adapted(Maps(rate=0.5, rngs=nnx.Rngs(0)))
    norm, frames = backbone.module.norm, jnp.asarray(CLIPS[0], jnp.float32) / 255

    @nnx.jit(static_argnames="train")
    def run(backbone, frames, seed, train):
        return backbone(frames, train=train, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0]

    still = run(backbone, frames, 0, False)
    assert not np.any(norm.mean[...])
    assert np.array_equal(still, run(backbone, frames, 1, False))
    trained = run(backbone, frames, 0, True)
    means = np.asarray(backbone.module.conv(frames)).mean((0, 1, 2))
    np.testing.assert_allclose(norm.mean[...], means / 2, rtol=1e-5)
    assert 0.3 < np.mean(np.asarray(trained) == 0) < 0.7
    assert not np.array_equal(trained, run(backbone, frames, 1, True))
    moved = np.asarray(norm.mean[...])
    run(backbone, frames, 1, False)
    assert np.array_equal(norm.mean[...], moved)


def test_weights_have_no_random_states():
    backbone = adapted(Maps(rate=0.5, rngs=nnx.Rngs(0)))
    assert backbone.draws
    assert not jax.tree.leaves(nnx.state(backbone, nnx.RngState))
    assert not adapted(Maps(rngs=nnx.Rngs(0))).draws

    class Noise(Vectors):
        def __init__(self, *, rngs):
            super().__init__(rngs=rngs)
            self.rngs = rngs.fork()

    with pytest.raises(UserError, match="Noise keeps random states"):
        adapted(Noise(rngs=nnx.Rngs(0)))


def test_temporal_ops_need_the_hook():
    build = partial(trn_jax.create_model, "tsm_resnet50", num_classes=5, num_segments=3)
    model = build(backbone=Shifted, shift_div=3)
    assert model.backbone.module.op is not None and not model.sees_frames
    assert model(CLIPS).shape == (2, 5)
    for backbone in (Vectors, Shifted(rngs=nnx.Rngs(0))):
        with pytest.raises(UserError, match=r"'tsm'.*temporal=.*TemporalHook"):
            build(backbone=backbone)


class Wrong(Vectors):
    def __call__(self, frames):
        return self.fc(frames).mean((0, 1))


class Nothing(Vectors):
    def __call__(self, frames):
        return []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            dict(backbone=nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
            ["Linear", "224 pixels", "out_channels"],
        ),
        (dict(backbone=Wrong), ["Wrong", "(224, 8)", "for 1 frames", "[frames, height, width, 3]"]),
        (dict(backbone=Nothing), ["Nothing", "no array"]),
        (dict(backbone=lambda: 3), ["int", "nnx.Module"]),
        (dict(backbone=nnx.Conv), ["Conv", "'in_features'", "functools.partial"]),
        (dict(backbone=Maps, partial_bn=True), ["backbone Maps", "'partial_bn'"]),
        (dict(head=nnx.Linear(4, 3, rngs=nnx.Rngs(0))), ["head Linear", "constructor"]),
    ],
)
def test_what_does_not_fit_is_explained(options, words):
    with pytest.raises(UserError) as caught:
        trn_jax.create_model("tsn_resnet50", num_classes=5, **options)
    assert [word for word in words if word not in str(caught.value)] == []


def test_batch_statistics_over_groups_need_an_argument():
    model = trn_jax.create_model("tsn_resnet50", num_classes=5, backbone=Maps, norm_group=1)
    with pytest.raises(UserError, match="2 groups of clips; set norm_group=0"):
        model(CLIPS, train=True, rngs=nnx.Rngs(0))
    without = trn_jax.create_model("tsn_resnet50", num_classes=5, backbone=Vectors, norm_group=1)
    assert without(CLIPS, train=True, rngs=nnx.Rngs(0)).shape == (2, 5)


def test_sizes_of_frames_that_a_module_needs():
    class Fixed(Vectors):
        out_channels = 8

        def __call__(self, frames):
            assert frames.shape[1] == 16
            return self.fc(frames)

    model = trn_jax.create_model("tsn_resnet50", num_classes=5, backbone=Fixed)
    assert model(CLIPS).shape == (2, 5)
