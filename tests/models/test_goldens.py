"""Whole models against the outputs of the reference implementations."""

import jax
import numpy as np
import pytest
import weights
from flax import nnx

from trn_jax import convert, create_model
from trn_jax.backbones.layers import global_average_pool
from trn_jax.backbones.mobileone import MobileOne, reparameterize

pytestmark = pytest.mark.reference

CASES = {
    "tsn_r50_3seg": dict(name="tsn_resnet50", num_classes=400, num_segments=3),
    "trn_r50_single": dict(name="trn_resnet50", num_classes=174, head="trn"),
    "trn_r50_multiscale": dict(
        name="trn_resnet50", num_classes=174, partial_bn=True, eval_relations="first"
    ),
    "tsn_resnext101_32x4d": dict(name="tsn_resnext101_32x4d", num_classes=400),
    "tsn_mobileone_s4": dict(name="tsn_mobileone_s4", num_classes=400),
}


# What the deployed form of MobileOne, which costs half as much, covers by default: its kernels come
# from the same weights and are compared too.
SLOW = ("tsn_mobileone_s4",)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES],
)
def case(request, golden):
    """The golden, our model with the golden's weights, and the golden's clips."""
    numbers = golden(f"cases/{request.param}")
    return numbers, model_with_weights_of(numbers, **CASES[request.param]), clips_of(numbers)


def model_with_weights_of(numbers, **options):
    drawn = numbers["weights"]
    state = weights.deterministic_state_dict(
        numbers["manifest"], drawn["seed"], norm_weight=drawn["norm_weight"], gains=drawn["gains"]
    )
    model = nnx.eval_shape(lambda: create_model(**options))
    convert.load_state_dict(model, state)
    return model


def clips_of(numbers):
    return weights.deterministic_clip(numbers["input"]["shape"], numbers["input"]["seed"])


def stages(model, clips):
    """Every intermediate result that the goldens know, in PyTorch's layout."""
    frames = model.normalise(clips.reshape(-1, *clips.shape[2:]))
    is_mobileone = isinstance(model.backbone, MobileOne)
    found = {"stage0" if is_mobileone else "stem": model.backbone.stem(frames)}
    stage_name = "stage" if is_mobileone else "layer"
    features = model.backbone(frames)
    found |= {f"{stage_name}{i}": stage for i, stage in enumerate(features, start=1)}
    if hasattr(model.head, "relations"):
        found["head.frame_features"] = model.head.fc(global_average_pool(features[-1]))
    logits = model(clips)
    return {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in found.items()}, logits


def test_weights_are_drawn_as_recorded():
    weights.self_check()


def test_stages_and_logits_match_the_reference(case):
    check_against_reference(*case)


def check_against_reference(numbers, model, clips):
    graph, state = nnx.split(model)
    found, logits = jax.jit(lambda s, c: stages(nnx.merge(graph, s), c))(state, clips)
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


def test_deployed_mobileone_matches_the_reference(golden):
    trained, numbers = (golden(f"cases/tsn_mobileone_s4{form}") for form in ("", "_deploy"))
    options = CASES["tsn_mobileone_s4"]
    fused = reparameterize(model_with_weights_of(trained, **options))
    state = {}
    for name, shape, _ in numbers["manifest"]:
        path = name.replace("cls_head.fc_cls", "head.fc").replace("conv.", "").split(".")
        layer, leaf = "/".join(path[:-1]), path[-1]
        found = convert.names.variables(fused)
        value = found[f"{layer}/{'kernel' if leaf == 'weight' else leaf}"][...]
        state[name] = np.asarray(value).transpose({4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim])
        assert list(state[name].shape) == shape, name
    for name, norm, samples in numbers["fused_tensors"]["values"]:
        assert np.linalg.norm(state[name]) == pytest.approx(norm, rel=1e-5), name
        for index, expected in samples:
            assert state[name][tuple(index)] == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    # What a file in deploy form holds goes into a model that was built so.
    model = nnx.eval_shape(lambda: create_model(**options, deploy=True))
    convert.load_state_dict(model, state)
    counted = sum(leaf.size for leaf in convert.names.variables(model).values())
    assert counted == numbers["num_params"] == 13_608_952
    check_against_reference(numbers, model, clips_of(numbers))


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
