"""Whole models against the outputs of the reference implementations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights
from flax import nnx
from reference_models import CASES, DEPLOYED, NON_LOCAL, clips_of, prepare, state_dict

from trn_jax import convert, create_model
from trn_jax.backbones.bninception import BNInception
from trn_jax.backbones.densenet import DenseNet
from trn_jax.backbones.mobileone import MobileOne, reparameterize
from trn_jax.backbones.resnet import ResNet
from trn_jax.backbones.resnet3d import SlowOnly
from trn_jax.backbones.swin import Swin
from trn_jax.models.tin import TemporalInterlace
from trn_jax.nn.layers import global_average_pool
from trn_jax.nn.pooling import max_pool

pytestmark = pytest.mark.thorough

# These take a minute to compile and to run. `FIRST_STAGES` are the quick part of some of them, and
# the deployed form of MobileOne has the same weights.
SLOW = {
    "trn_r50_single",
    "tin_r50",
    "trn_bninception_multiscale",
    "tsn_r101_8seg",
    "tsm_r50_16seg",
    "tsm_r101",
    *NON_LOCAL,
    "tpn_slowonly_r50",
    "tpn_tsm_r50",
    "tsn_densenet161",
    "tsn_resnext101_32x4d",
    "tsn_mobileone_s4",
    "tsn_swin_base",
}
FIRST_STAGES = {"tsn_densenet161": "denseblock2", "tsn_swin_base": "layers.1"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in CASES],
)
def case(request, golden):
    """The golden, our model with the golden's weights, and the golden's clips."""
    numbers = golden(f"cases/{request.param}")
    return numbers, *prepare(numbers, request.param)


# The intermediate results that the goldens know, in order. Swin's are recorded channels-last.


def resnet_stages(backbone, frames):
    stem = backbone.stem(frames)
    yield "stem", channels_first(stem)
    features = backbone(frames)
    first = getattr(backbone.layer1[0], "temporal_op", None)
    if isinstance(first, TemporalInterlace):
        # [videos, 1, 2] in the reference, which takes every video for one of several views.
        offsets, factors = decisions(first, stem)
        yield "layer1.0.offset", offsets[:, None]
        yield "layer1.0.weight", factors
        yield "layer1.0.interlaced", channels_first(first(stem))
        *before, last = backbone.layer4
        x = features[2]
        for block in before:
            x = block(x)
        yield "layer4.2.offset", decisions(last.temporal_op, x)[0][:, None]
    for i, stage in enumerate(features, start=1):
        yield f"layer{i}", channels_first(stage)


def decisions(op, x):
    """The offsets and weights of an interlacing layer for its input."""
    means = x[..., : op.num_interlaced].mean((1, 2)).reshape(-1, op.num_segments, op.num_interlaced)
    return op.offsets(means), op.weights(means)


def mobileone_stages(backbone, frames):
    yield "stage0", channels_first(backbone.stem(frames))
    for i, stage in enumerate(backbone(frames), start=1):
        yield f"stage{i}", channels_first(stage)


def bninception_stages(backbone, frames):
    x = max_pool(backbone.conv1_7x7_s2(frames), 3, stride=2, ceil_mode=True)
    yield "pool1", channels_first(x)
    x = backbone.stem(frames)
    yield "pool2", channels_first(x)
    for name in backbone.block_names:
        x = getattr(backbone, name)(x)
        yield name, channels_first(x)


def densenet_stages(backbone, frames):
    x = backbone.stem(frames)
    yield "pool0", channels_first(x)
    for i in range(1, backbone.num_stages + 1):
        x = getattr(backbone, f"denseblock{i}")(x)
        yield f"denseblock{i}", channels_first(x)
        if i < backbone.num_stages:
            x = getattr(backbone, f"transition{i}")(x)
            yield f"transition{i}", channels_first(x)
    yield "norm5", channels_first(backbone.norm5(x))


def swin_stages(backbone, frames):
    x = backbone.stem(frames)
    yield "patch_embed", x
    for i, blocks in enumerate(backbone.layers):
        x = backbone.merges[i - 1](x) if i else x
        for j, block in enumerate(blocks):
            x = block(x)
            yield f"layers.{i}.blocks.{j}", x
        yield f"layers.{i}", x
    yield "norm", backbone.norm(x)


STAGES = {
    ResNet: resnet_stages,
    SlowOnly: resnet_stages,
    MobileOne: mobileone_stages,
    BNInception: bninception_stages,
    DenseNet: densenet_stages,
    Swin: swin_stages,
}


def channels_first(x):
    return jnp.moveaxis(x, -1, 1)


def neck_stages(neck, features):
    space = neck.modulate_space(features)
    time = neck.modulate_time(space)
    down = neck.top_down(time)
    up = neck.bottom_up(down)
    found = {f"neck.spatial_modulation.{i}": level for i, level in enumerate(space)}
    found |= {f"neck.temporal_modulation_{i}": level for i, level in enumerate(time)}
    found |= {
        "neck.level_fusion_1": neck.level_fusion_1(down),
        "neck.downsample_0": neck.downsamples[0](down[0]),
        "neck.level_fusion_2": neck.level_fusion_2(up),
        "neck.output": neck(features)[0],
    }
    return {name: channels_first(stage) for name, stage in found.items()}


def stages(model, clips, last=None):
    """The recorded stages up to the one named `last`."""
    frames = model.normalise(clips)
    if not model.backbone.sees_clips:
        frames = frames.reshape(-1, *frames.shape[2:])
    found = {}
    for name, stage in STAGES[type(model.backbone)](model.backbone, frames):
        found[name] = stage
        if name == last:
            break
    return found


def stages_and_logits(model, clips):
    found = stages(model, clips)
    if hasattr(model.head, "relations"):
        features = model.backbone(model.normalise(clips.reshape(-1, *clips.shape[2:])))
        found["head.frame_features"] = model.head.fc(global_average_pool(features[-1]))
    if model.neck is not None:
        x = model.normalise(clips)
        x = x if model.backbone.sees_clips else x.reshape(-1, *x.shape[2:])
        features = [f.reshape(len(clips), -1, *f.shape[-3:]) for f in model.backbone(x)]
        found |= neck_stages(model.neck, features)
    return found, model(clips)


def jitted(function, model, clips):
    """One program compiles faster than its operations one by one."""
    graph, state = nnx.split(model)
    return jax.jit(lambda s, c: function(nnx.merge(graph, s), c))(state, clips)


def check_stages(found, numbers):
    """Compare with the recorded stages; those that were not recorded are passed over."""
    recorded = numbers["outputs"]["stages"]
    compared = found.keys() & recorded.keys()
    for name in compared:
        stage, expected = found[name], recorded[name]
        assert list(stage.shape) == expected["shape"]
        scale = expected["std"]
        assert float(stage.mean()) == pytest.approx(expected["mean"], abs=1e-4 * scale), name
        assert float(stage.std()) == pytest.approx(scale, rel=1e-4), name
        for index, value in expected["samples"]:
            assert float(stage[tuple(index)]) == pytest.approx(value, abs=2e-4 * scale), name
    return compared


def test_weights_are_drawn_as_recorded():
    weights.self_check()


def test_stages_and_logits_match_the_reference(case):
    check_against_reference(*case)


def check_against_reference(numbers, model, clips):
    if "stages" in numbers["outputs"]:
        found, logits = jitted(stages_and_logits, model, clips)
        assert check_stages(found, numbers) == numbers["outputs"]["stages"].keys()
    else:
        logits = jitted(lambda model, clips: model(clips), model, clips)
    expected = np.array(numbers["outputs"]["scores_per_view"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_STAGES)
def test_first_stages_of_large_models_match_the_reference(name, golden):
    numbers = golden(f"cases/{name}")
    model, clips = prepare(numbers, name)
    found = jitted(partial(stages, last=FIRST_STAGES[name]), model, clips)
    assert len(check_stages(found, numbers)) >= 4


@pytest.mark.slow
def test_deployed_mobileone_matches_the_reference(golden):
    trained, numbers = (golden(f"cases/tsn_mobileone_s4{form}") for form in ("", "_deploy"))
    fused = reparameterize(prepare(trained, "tsn_mobileone_s4")[0])
    state = {}
    for name, shape, _ in numbers["manifest"]:
        path = name.replace("cls_head.fc_cls", "head.fc").replace("conv.", "").split(".")
        layer, leaf = "/".join(path[:-1]), path[-1]
        found = convert.variables(fused)
        value = found[f"{layer}/{'kernel' if leaf == 'weight' else leaf}"][...]
        state[name] = np.asarray(value).transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        assert list(state[name].shape) == shape, name
    for name, norm, samples in numbers["fused_tensors"]["values"]:
        assert np.linalg.norm(state[name]) == pytest.approx(norm, rel=1e-5), name
        for index, expected in samples:
            assert state[name][tuple(index)] == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    # What a file in deploy form holds goes into a model that was built so.
    model = nnx.eval_shape(lambda: create_model(**DEPLOYED["tsn_mobileone_s4_deploy"]))
    convert.load_state_dict(model, state)
    counted = sum(leaf.size for leaf in convert.variables(model).values())
    assert counted == numbers["num_params"] == 13_608_952
    check_against_reference(numbers, model, clips_of(numbers))


@pytest.mark.slow
def test_default_evaluation_of_trn_is_the_expectation_over_all_relations(golden):
    numbers = golden("cases/trn_r50_multiscale")
    first = np.array(numbers["outputs"]["scores_per_view"])
    expected = np.array(numbers["outputs"]["trn_modes"]["expected"]["scores"])
    assert np.abs(first - expected).max() > 1e-2 * np.abs(expected).max()
    options = {k: v for k, v in CASES["trn_r50_multiscale"].items() if k != "eval_relations"}
    model = nnx.eval_shape(lambda: create_model(**options))
    convert.load_state_dict(model, state_dict(numbers))
    logits = jitted(lambda model, clips: model(clips), model, clips_of(numbers))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_parameter_count_is_the_published_one(name, golden):
    model = nnx.eval_shape(lambda: create_model(**CASES[name]))
    counted = sum(
        leaf.size
        for path, leaf in convert.variables(model).items()
        if path.rpartition("/")[2] not in ("mean", "var")
    )
    assert counted == golden(f"cases/{name}")["num_params"]
    if name == "trn_r50_multiscale":
        assert counted == 26_641_154
