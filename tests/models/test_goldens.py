"""Whole models against the outputs of the reference implementations."""

import jax
import numpy as np
import pytest
import weights
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.backbones.layers import global_average_pool

pytestmark = pytest.mark.reference

CASES = {
    "tsn_r50_3seg": dict(name="tsn_resnet50", num_classes=400, num_segments=3),
    "trn_r50_single": dict(name="trn_resnet50", num_classes=174, head="trn"),
    "trn_r50_multiscale": dict(
        name="trn_resnet50", num_classes=174, partial_bn=True, eval_relations="first"
    ),
    "tpn_slowonly_r50": dict(name="tpn_slowonly_resnet50", num_classes=400),
    "tpn_tsm_r50": dict(name="tpn_tsm_resnet50", num_classes=174),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, golden):
    """The golden, our model with the golden's weights, and the golden's clips."""
    numbers = golden(f"cases/{request.param}")
    drawn = numbers["weights"]
    state = weights.deterministic_state_dict(
        numbers["manifest"], drawn["seed"], norm_weight=drawn["norm_weight"], gains=drawn["gains"]
    )
    model = nnx.eval_shape(lambda: create_model(**CASES[request.param]))
    convert.load_state_dict(model, state)
    clips = weights.deterministic_clip(numbers["input"]["shape"], numbers["input"]["seed"])
    return numbers, model, clips


def stages(model, clips):
    """Every intermediate result that the goldens know, in PyTorch's layout."""
    x = model.normalise(clips)
    x = x if model.backbone.sees_clips else x.reshape(-1, *x.shape[2:])
    found = {"stem": model.backbone.stem(x)}
    features = model.backbone(x)
    found |= {f"layer{i}": stage for i, stage in enumerate(features, start=1)}
    if model.neck is not None:
        features = [f.reshape(len(clips), -1, *f.shape[-3:]) for f in features]
        found |= neck_stages(model.neck, features)
    if hasattr(model.head, "relations"):
        found["head.frame_features"] = model.head.fc(global_average_pool(features[-1]))
    logits = model(clips)
    axes = {3: (0, 1, 2), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
    return {name: stage.transpose(axes[stage.ndim]) for name, stage in found.items()}, logits


def neck_stages(neck, features):
    space = neck.modulate_space(features)
    time = neck.modulate_time(space)
    down = neck.top_down(time)
    up = neck.bottom_up(down)
    found = {f"neck.spatial_modulation.{i}": level for i, level in enumerate(space)}
    found |= {f"neck.temporal_modulation_{i}": level for i, level in enumerate(time)}
    return found | {
        "neck.level_fusion_1": neck.level_fusion_1(down),
        "neck.downsample_0": neck.downsamples[0](down[0]),
        "neck.level_fusion_2": neck.level_fusion_2(up),
        "neck.output": neck(features)[0],
    }


def test_weights_are_drawn_as_recorded():
    weights.self_check()


def test_stages_and_logits_match_the_reference(case):
    numbers, model, clips = case
    graph, state = nnx.split(model)
    found, logits = jax.jit(lambda s, c: stages(nnx.merge(graph, s), c))(state, clips)
    assert found.keys() == numbers["outputs"]["stages"].keys()
    for name, stage in found.items():
        expected = numbers["outputs"]["stages"][name]
        assert list(stage.shape) == expected["shape"]
        scale = expected["std"]
        assert float(stage.mean()) == pytest.approx(expected["mean"], abs=1e-4 * scale), name
        assert float(stage.std()) == pytest.approx(scale, rel=1e-4), name
        for index, value in expected["samples"]:
            assert float(stage[tuple(index)]) == pytest.approx(value, abs=2e-4 * scale), name
    expected = np.array(numbers["outputs"]["scores_per_view"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_default_evaluation_of_trn_is_the_expectation_over_all_relations(golden):
    numbers = golden("cases/trn_r50_multiscale")
    drawn = numbers["weights"]
    manifest = [entry for entry in numbers["manifest"] if "cls_head" in entry[0]]
    state = weights.deterministic_state_dict(
        manifest, drawn["seed"], norm_weight=drawn["norm_weight"]
    )
    # The head alone: `first` and `expected` share everything below the relations, and the test
    # above has compared that.
    first = np.array(numbers["outputs"]["scores_per_view"])
    expected = np.array(numbers["outputs"]["trn_modes"]["expected"]["scores"])
    assert np.abs(first - expected).max() > 1e-2 * np.abs(expected).max()
    full = weights.deterministic_state_dict(
        numbers["manifest"], drawn["seed"], norm_weight=drawn["norm_weight"]
    )
    assert all(np.array_equal(full[name], value) for name, value in state.items())
    model = nnx.eval_shape(lambda: create_model("trn_resnet50", num_classes=174, partial_bn=True))
    convert.load_state_dict(model, full)
    clips = weights.deterministic_clip(numbers["input"]["shape"], numbers["input"]["seed"])
    graph, parameters = nnx.split(model)
    logits = jax.jit(lambda s, c: nnx.merge(graph, s)(c))(parameters, clips)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_parameter_count_is_the_published_one(name, golden):
    model = nnx.eval_shape(lambda: create_model(**CASES[name]))
    counted = sum(
        leaf.size
        for path, leaf in convert.names.variables(model).items()
        if path.rpartition("/")[2] not in ("mean", "var")
    )
    assert counted == golden(f"cases/{name}")["num_params"]
    if name == "trn_r50_multiscale":
        assert counted == 26_641_154
