"""Folded 3-D convolutions against XLA's own, and what SlowOnly sees of the time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from trn_jax.backbones import BACKBONES
from trn_jax.convert import variables
from trn_jax.errors import UserError
from trn_jax.nn.conv3d import Conv3d

pytestmark = pytest.mark.thorough


def build(name="slowonly_resnet14", **options):
    return nnx.eval_shape(lambda: BACKBONES[name](rngs=nnx.Rngs(0), **options))


def fill(model):
    """Give an abstract model numbers from NumPy: compiling `jax.random` takes far longer."""
    rng = np.random.default_rng(0)
    for path, leaf in variables(model).items():
        scale = math.sqrt(max(leaf.size // leaf.shape[-1], 1)) if path.endswith("kernel") else 2
        value = rng.normal(0, 1 / scale, leaf.shape)
        value = np.abs(value) + 0.5 if path.endswith(("var", "scale")) else value
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    return model


def draw(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def conv_in_3d(x, kernel, *, stride, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, stride, stride),
        padding=[(size // 2, size // 2) for size in kernel.shape[:3]],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    ("kernel_size", "stride", "groups", "num_frames"),
    [
        ((1, 7), 2, 1, 2),
        ((1, 3), 1, 1, 2),
        ((1, 3), 2, 2, 2),
        ((1, 1), 2, 1, 2),
        ((1, 1), 1, 4, 2),
        ((3, 1), 1, 1, 5),
        ((3, 1), 1, 1, 1),
        ((3, 1), 1, 2, 3),
        ((5, 1), 2, 1, 2),
        ((3, 3), 2, 1, 4),
    ],
)
def test_folded_convolutions_equal_those_in_3d(kernel_size, stride, groups, num_frames):
    options = dict(stride=stride, groups=groups)
    conv = fill(nnx.eval_shape(lambda: Conv3d(8, 12, kernel_size, rngs=nnx.Rngs(0), **options)))
    graph, state = nnx.split(conv)
    x, kernel = draw(2, num_frames, 5, 6, 8), conv.kernel[...]
    time, size = kernel_size
    assert kernel.shape == (time, size, size, 8 // groups, 12)

    def folded(x, kernel):
        return nnx.merge(graph, jax.tree.map(lambda _: kernel, state))(x)

    @jax.jit
    def both(x, kernel):
        def value_and_gradients(function):
            y, pull_back = jax.vjp(function, x, kernel)
            return y, *pull_back(jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        return value_and_gradients(folded), value_and_gradients(
            lambda x, kernel: conv_in_3d(x, kernel, **options)
        )

    found, expected = both(x, kernel)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=2e-5)


@pytest.mark.slow
def test_channels_must_fall_into_the_groups():
    for channels in ((6, 8), (8, 6)):
        with pytest.raises(UserError, match="groups=4"):
            Conv3d(*channels, (1, 1), groups=4, rngs=nnx.Rngs(0))


def test_kernels_are_drawn_for_the_fan_of_all_taps():
    kernel = Conv3d(32, 128, (3, 1), rngs=nnx.Rngs(0)).kernel[...]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (3 * 128)), rel=0.03)
    # Neither truncated nor uniform.
    assert float(jnp.abs(kernel).max()) > 3.5 * float(kernel.std())


@pytest.mark.slow
def test_blocks_start_as_the_identity():
    model = BACKBONES["slowonly_resnet14"](width=2, rngs=nnx.Rngs(0))
    for path, leaf in variables(model).items():
        if path.endswith("scale"):
            assert (leaf[...] == (0 if "bn3" in path else 1)).all(), path


def test_sizes_are_the_published_ones():
    model = build("slowonly_resnet50")
    sizes = {path: leaf.size for path, leaf in variables(model).items()}
    parameters = {p: s for p, s in sizes.items() if not p.endswith(("mean", "var"))}
    assert sum(parameters.values()) == 31_634_496
    clips = jax.ShapeDtypeStruct((2, 5, 224, 224, 3), jnp.float32)
    features = nnx.eval_shape(lambda model, clips: model(clips), model, clips)
    assert [f.shape for f in features] == [
        (2, 5, 56, 56, 256),
        (2, 5, 28, 28, 512),
        (2, 5, 14, 14, 1024),
        (2, 5, 7, 7, 2048),
    ]
    assert model.stage_channels == (256, 512, 1024, 2048)
    assert model.out_channels == 2048


def test_only_the_first_convolution_of_the_last_two_stages_spans_time():
    kernels = {
        p: v.shape for p, v in variables(build("slowonly_resnet50")).items() if "kernel" in p
    }
    spanning = {path for path, shape in kernels.items() if shape[0] > 1}
    depths = {"layer3": 6, "layer4": 3}
    assert spanning == {f"{s}/{i}/conv1/kernel" for s, d in depths.items() for i in range(d)}
    assert {kernels[path][:3] for path in spanning} == {(3, 1, 1)}
    assert {kernels[p][1] for p in kernels if "conv2" in p} == {3}


def test_frames_reach_their_neighbours_stage_by_stage():
    model = fill(build(width=4))
    clips = draw(1, 7, 32, 32, 3)
    other = clips.copy()
    other[:, 6] += 1
    run = nnx.jit(lambda model, x: model(x))
    for reach, a, b in zip((0, 0, 1, 2), run(model, clips), run(model, other), strict=True):
        changed = np.any(np.asarray(a) != np.asarray(b), axis=(0, 2, 3, 4))
        assert changed.tolist() == [t >= 6 - reach for t in range(7)]


@pytest.mark.slow
def test_bfloat16_is_close_to_float32():
    x = draw(1, 3, 32, 32, 3)
    run = nnx.jit(lambda model, x: model(x))
    exact = run(fill(build(width=8)), x)
    low = run(fill(build(width=8, dtype=jnp.bfloat16)), x)
    for a, b in zip(exact, low, strict=True):
        assert b.dtype == jnp.bfloat16
        difference = np.abs(np.asarray(b, np.float32) - np.asarray(a))
        assert difference.mean() < 3e-2 * np.abs(a).mean()
