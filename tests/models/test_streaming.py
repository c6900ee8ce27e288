"""Streams against clips: the same logits, one frame at a time."""

import functools
import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filled_models import filled
from flax import nnx

import trn_jax
from trn_jax import models
from trn_jax.backbones import BACKBONES
from trn_jax.backbones.efficientnet import B0, EfficientNet
from trn_jax.backbones.mobilenetv3 import LARGE, MobileNetV3
from trn_jax.errors import UserError
from trn_jax.models import streaming
from trn_jax.models.recognizer import Recognizer

FRAMES, SIZE, CLASSES = 4, (32, 40), 5


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@functools.cache
def build(name, *, num_segments=FRAMES, **options):
    """A model with numbers; not to be changed."""

    def make():
        return models.create_model(name, num_classes=CLASSES, num_segments=num_segments, **options)

    return filled(nnx.eval_shape(make))


def causal(**options):
    """A causal TSM in which many channels move."""
    return build("tsm_resnet10", **dict(width=8, shift_div=4, causal=True) | options)


@functools.cache
def stream_of(model, **options):
    """Compiles its step once, for all tests."""
    return trn_jax.streaming(model, **options)


def clips(*shape, seed=9):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


logits_of = nnx.jit(lambda model, clips: model(clips))
features_of = nnx.jit(lambda model, clips: model.features(clips))
head_of = nnx.jit(lambda model, features: model.head_logits(features))


def streamed(stream, frames, state=None):
    """Logits after every frame of `[batch, frames, ...]`, and the last state."""
    state = stream.init(len(frames), frames.shape[2:4]) if state is None else state
    found = []
    for frame in frames.swapaxes(0, 1):
        logits, state = stream.step(state, frame)
        found.append(np.asarray(logits))
    return np.stack(found, axis=1), state


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=atol)


# Every backbone that takes TSM, with the places that it has


SHIFTED = [
    ("resnet10", "blockres"),
    ("mobileone_tiny", None),
    ("mobilenetv2_tiny", None),
    ("resnet10", "block"),
    ("resnext14_32x4d", "blockres"),
    ("resnext14_32x4d", "block"),
    ("resnet50", "blockres"),
    ("resnet50", "block"),
    ("efficientnet_b0", None),
    ("mobilenetv3_large", None),
]
# The first blocks of networks that have no small form.
FEW_BLOCKS = {
    "efficientnet_b0": partial(EfficientNet, B0[:3]),
    "mobilenetv3_large": partial(MobileNetV3, LARGE[:5]),
}


def test_every_kind_of_backbone_that_takes_a_shift_is_here():
    def maker(name):
        return getattr(BACKBONES[name], "func", BACKBONES[name])

    def kind(name):
        block = BACKBONES[name].args[:1] if name.startswith("res") else ()
        return maker(name), *block

    takes = {
        kind(name)
        for name in BACKBONES
        if "temporal" in inspect.signature(maker(name).__init__).parameters
    }
    assert takes == {kind(name) for name, _ in SHIFTED}


@pytest.mark.by_default(1, slow=("resnet50", "resnext", "efficientnet", "mobilenetv3"))
@pytest.mark.parametrize(("backbone", "place"), SHIFTED)
def test_frames_one_by_one_give_the_logits_of_the_clip(backbone, place):
    width = dict(width=16 if "next" in backbone else 8) if backbone.startswith("res") else {}
    backbone = FEW_BLOCKS.get(backbone, backbone)
    model = causal(**dict(width=None) | width, backbone=backbone, shift_place=place)
    clip = clips(2, FRAMES, *SIZE)
    expected = logits_of(model, clip)
    found, state = streamed(stream_of(model), clip)
    close(found[:, -1], expected)
    # Shifts matter, and every array has a row per stream and at most four dimensions.
    apart = logits_of(model, clip[:, ::-1])
    assert np.abs(apart - expected).max() > 1e-3 * np.abs(expected).max()
    leaves = jax.tree.leaves(state)
    assert len(leaves) > 2 and all(leaf.ndim <= 4 and len(leaf) == 2 for leaf in leaves)


@pytest.mark.thorough(1)
@pytest.mark.parametrize("backbone", ["resnet10", "mobilenetv2_tiny", *FEW_BLOCKS])
def test_in_float64_they_are_equal_to_twelve_digits(backbone):
    with jax.enable_x64(True):
        width = dict(width=8 if backbone == "resnet10" else None)
        model = causal(**width, backbone=FEW_BLOCKS.get(backbone, backbone), dtype="float64")
        clip = clips(2, FRAMES, *SIZE)
        found, _ = streamed(stream_of(model), clip)
        assert found.dtype == np.float64
        close(found[:, -1], logits_of(model, clip), 1e-12)


@pytest.mark.by_default(2, slow=("densenet", "bninception", "swin"))
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("tsn_resnet10", dict(width=8), SIZE),
        ("trn_resnet10", dict(width=8), SIZE),
        ("trn_resnet10", dict(width=8, head="trn"), SIZE),
        ("trn_resnet10", dict(width=8, eval_relations="first"), SIZE),
        ("tsn_densenet161", {}, SIZE),
        ("trn_bninception", {}, (32, 64)),
        ("tsn_swin_base", {}, (224, 224)),
    ],
)
def test_heads_see_the_last_frames(name, options, size):
    model = build(name, **options)
    stream = stream_of(model, window=FRAMES)
    clip = clips(2, FRAMES + 2, *size)
    found, _ = streamed(stream, clip)
    for end in range(FRAMES, FRAMES + 3):
        close(found[:, end - 1], logits_of(model, clip[:, end - FRAMES : end]))


def test_before_there_are_enough_frames_a_trn_repeats_the_first_one():
    model = build("trn_resnet10", width=8)
    clip = clips(2, FRAMES, *SIZE)
    found, _ = streamed(stream_of(model, window=FRAMES), clip)
    for count in range(1, FRAMES):
        padded = [clip[:, :1]] * (FRAMES - count) + [clip[:, :count]]
        close(found[:, count - 1], logits_of(model, np.concatenate(padded, axis=1)))


def test_which_heads_average():
    names = ("tsn_resnet10", "trn_resnet10", "tin_resnet10")
    found = [streaming.averages_features(build(name, width=16)) for name in names]
    assert found == [True, False, True]


@pytest.mark.by_default("exponential")
@pytest.mark.parametrize("pooling", ["window", "mean", "exponential"])
def test_poolings_average_the_features(pooling):
    model = build("tsn_resnet10", width=8)
    clip, window = clips(2, 7, *SIZE), 3
    found, _ = streamed(stream_of(model, pooling=pooling, window=window), clip)
    features = np.asarray(features_of(model, clip), np.float64)
    mean = features[:, 0]
    for count in range(1, 8):
        if pooling == "window":
            mean = features[:, max(count - window, 0) : count].mean(axis=1)
        elif pooling == "mean":
            mean = features[:, :count].mean(axis=1)
        elif count > 1:
            weight = max(1 / count, 2 / (window + 1))
            mean = (1 - weight) * mean + weight * features[:, count - 1]
        close(found[:, count - 1], head_of(model, mean[:, None].astype(np.float32)))


# Long streams


@pytest.mark.slow
def test_a_thousand_frames_do_not_drift():
    """Shifts reach back further with every block, so a clip of all frames is the reference."""
    count, size = 1000, 16
    model, whole = causal(), causal(num_segments=count)
    clip = clips(2, count, size, size)
    found, _ = streamed(stream_of(model), clip)
    features = features_of(whole, clip)
    for end in (FRAMES, count // 2, count):
        close(found[:, end - 1], head_of(model, features[:, end - FRAMES : end]))
    found, _ = streamed(stream_of(model, pooling="mean"), clip)
    close(found[:, -1], logits_of(whole, clip))


def test_streams_begin_anew_by_mask():
    stream = stream_of(causal())
    clip = clips(2, FRAMES, *SIZE)
    alone, _ = streamed(stream, clip)
    _, state = streamed(stream, clips(2, 3, *SIZE, seed=1))
    found, _ = streamed(stream, clip, stream.reset(state, np.array([True, False])))
    close(found[0], alone[0])
    assert np.abs(found[1, 0] - alone[1, 0]).max() > 1e-3
    everything = stream.reset(state, np.ones(2, bool))
    assert all(not np.asarray(leaf, np.float32).any() for leaf in jax.tree.leaves(everything))


# Programs


def test_a_step_is_compiled_once(monkeypatch):
    stream = trn_jax.streaming(causal())
    state = stream.init(2, SIZE)
    calls = []
    original = Recognizer.head_logits

    def counted(self, *arguments, **options):
        calls.append(arguments)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Recognizer, "head_logits", counted)
    streamed(stream, clips(2, 5, *SIZE), state)
    assert len(calls) == 1
    # Without a size, the first step is a program of its own.
    streamed(stream, clips(2, 5, *SIZE), stream.init(2))
    assert len(calls) == 2


def test_the_size_may_be_that_of_the_first_frame():
    stream = stream_of(causal())
    clip = clips(2, FRAMES, *SIZE)
    found, state = streamed(stream, clip, stream.init(2))
    expected, other = streamed(stream, clip)
    np.testing.assert_array_equal(found, expected)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, other)


def test_it_works_in_a_program_of_the_user():
    stream = stream_of(causal())
    clip = clips(2, FRAMES, *SIZE)
    traces = []

    @jax.jit
    def run(frames):
        traces.append(frames.shape)
        state = stream.reset(stream.init(2, SIZE), jnp.array([True, False]))

        def step(state, frame):
            logits, state = stream.step(state, frame)
            return state, logits

        return jax.lax.scan(step, state, frames)[1]

    for _ in range(2):
        found = run(jnp.asarray(clip.swapaxes(0, 1)))
    close(found.swapaxes(0, 1), streamed(stream, clip)[0])
    assert len(traces) == 1


@pytest.mark.thorough
def test_bfloat16_streams_carry_bfloat16():
    model = causal(dtype="bfloat16")
    clip = clips(2, FRAMES, *SIZE)
    found, state = streamed(stream_of(model), clip)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.shifted)} == {"bfloat16"}
    assert state.features.dtype == found.dtype == np.float32
    close(found[:, -1], logits_of(model, clip), 2e-2)


def test_the_model_itself_does_not_change():
    model = causal()
    clip = clips(2, FRAMES, *SIZE)
    before = logits_of(model, clip)
    streamed(stream_of(model), clip)
    np.testing.assert_array_equal(logits_of(model, clip), before)
    assert model.num_segments == FRAMES


# What can't be streamed


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (lambda: causal(causal=False), {}, r"next frame.*model\.causal=True.*tsm_causal_"),
        (lambda: causal(num_segments=8, shift_segments=4), {}, r"shift_segments=4.*8"),
        (lambda: build("tin_resnet10", width=16), {}, r"TIN .*model\.causal=True"),
        (lambda: build("tpn_tsm_resnet10", width=8, causal=True), {}, r"TPN .*neck"),
        (
            lambda: build("tsn_resnet10", width=8, backbone="slowonly_resnet14"),
            {},
            "SlowOnly .*clips",
        ),
        (
            lambda: build("trn_resnet10", width=8, eval_relations="sample"),
            {},
            r"eval_relations='expected'",
        ),
        (
            lambda: build("trn_resnet10", width=8),
            dict(pooling="mean"),
            r"TRNHead.*pooling='window'",
        ),
        (lambda: build("trn_resnet10", width=8), dict(window=3), r"window=3.*num_segments=4"),
        (lambda: build("tsn_resnet10", width=8), dict(window=0), r"window=0"),
        (
            lambda: build("tsn_resnet10", width=8),
            dict(pooling="max"),
            r"pooling='max'.*exponential",
        ),
        (lambda: build("tsn_resnet10", width=8).backbone, {}, r"ResNet.*create_model"),
    ],
)
def test_what_cannot_be_streamed_is_refused(make, options, match):
    with pytest.raises(UserError, match=match):
        trn_jax.streaming(make(), **options)


class Mixing(nnx.Module):
    """A temporal op that nobody knows."""

    def __init__(self, channels, *, num_segments):
        self.num_segments = num_segments

    def __call__(self, x):
        return x


def test_what_mixes_frames_in_an_unknown_way_is_refused():
    with pytest.raises(UserError, match="Mixing"):
        trn_jax.streaming(build("tsn_resnet10", width=8, temporal_op=Mixing))
    for options in (dict(causal=True, name="tsm_resnet50"), dict(name="tsn_resnet50")):
        model = build(**options, width=8, non_local="gaussian")
        with pytest.raises(UserError, match="NonLocal"):
            trn_jax.streaming(model)


def test_features_have_no_stream():
    model = nnx.eval_shape(lambda: models.create_model("tsn_resnet10", num_classes=0))
    with pytest.raises(UserError, match="num_classes=0"):
        stream_of(model)


def test_wrong_shapes_are_explained():
    stream = stream_of(causal())
    with pytest.raises(UserError, match=r"batch=0"):
        stream.init(0)
    state = stream.init(2, SIZE)
    with pytest.raises(UserError, match=r"\(2, 4, 32, 40, 3\).*\[batch, height, width, 3\]"):
        stream.step(state, clips(2, 4, *SIZE))
    with pytest.raises(UserError, match=r"3 frames .*2 streams"):
        stream.step(state, clips(3, *SIZE))
    with pytest.raises(UserError, match=r"stream\.init"):
        stream.step(state, clips(2, 64, 80))
    with pytest.raises(UserError, match=r"\(3,\).*\(2,\)"):
        stream.reset(state, np.ones(3, bool))
