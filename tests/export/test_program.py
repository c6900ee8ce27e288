"""Programs of exported models: what goes in, what comes out, and the golden inputs."""

import jax
import numpy as np
import pytest
from export_models import FRAMES, NAMES, SIZE, build, clips
from flax import nnx

from trn_jax.errors import UserError
from trn_jax.export import golden
from trn_jax.export.program import ANY, Tensor, for_inference, program_of

SIZES = dict(num_frames=FRAMES, size=SIZE)


def program(name, form="clip", batch=ANY, **options):
    model = for_inference(build(name, **dict(width=4) | options), size=SIZE)
    return program_of(model, form, batch=batch, **SIZES)


@pytest.fixture(scope="module")
def causal():
    return program("tsm_resnet10", "stream", causal=True, shift_div=4)


@pytest.mark.smoke
def test_forms_have_their_inputs_and_outputs(causal):
    clip = program("trn_resnet10")
    assert clip.inputs == (Tensor("clips", (ANY, FRAMES, SIZE, SIZE, 3), "uint8"),)
    assert clip.outputs == (Tensor("logits", (ANY, len(NAMES)), "float32"),)
    features = program("trn_resnet10", "features", batch=3)
    assert features.outputs == (Tensor("features", (3, FRAMES, 32), "float32"),)
    assert not any(name.startswith("head") for name in features.parameters)
    frames, *state = causal.inputs
    logits, *following = causal.outputs
    assert frames == Tensor("frames", (ANY, SIZE, SIZE, 3), "uint8")
    assert logits == clip.outputs[0]
    assert [(t.shape, t.dtype) for t in state] == [(t.shape, t.dtype) for t in following]
    names = [tensor.name.removeprefix("state.") for tensor in state]
    assert names == [tensor.name.removeprefix("next.") for tensor in following]
    assert names[-2:] == ["features", "num_frames"] and len(names) > 4
    assert state[-1] == Tensor("state.num_frames", (ANY,), "int32")
    assert all(len(tensor.shape) <= 4 for tensor in state)


def test_programs_give_the_answers_of_the_model():
    model = build("tpn_slowonly_resnet14", width=4)
    found = program("tpn_slowonly_resnet14")
    expected = np.asarray(nnx.jit(lambda m, x: m(x))(model, clips()))
    (logits,) = jax.jit(found.call)(clips())
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    # The auxiliary classifier is for training.
    assert not any("auxiliary" in name for name in found.parameters)
    assert any("neck" in name for name in found.parameters)


def test_kernels_are_stored_in_the_dtype():
    model = build("tsm_resnet10", width=4, dtype="float16")
    found = program_of(for_inference(model, size=SIZE, dtype="float16"), "clip", **SIZES)
    assert {value.dtype.name for value in found.parameters.values()} == {"float16"}
    assert found.outputs[0].dtype == "float32"


@pytest.mark.parametrize(
    ("name", "form", "options", "match"),
    [
        ("tsm_resnet10", "stream", {}, "causal"),
        ("tpn_slowonly_resnet14", "stream", {}, "neck"),
        ("trn_resnet10", "clip", dict(eval_relations="sample", max_relations=1), "eval_relations"),
        ("tsn_resnet10", "clip", dict(num_classes=0), "features"),
        ("tsn_resnet10", "clips", {}, "clip, stream, features"),
    ],
)
def test_models_without_a_form_are_refused(name, form, options, match):
    with pytest.raises(UserError, match=match):
        program_of(build(name, **dict(width=4) | options), form, **SIZES)


def test_golden_inputs_are_small_and_the_same_every_time():
    model = build("tsn_resnet10", width=4)
    found = program_of(model, "clip", num_frames=8, size=224, batch=2)
    (step,) = golden.inputs_of(found)
    (frames,) = step.values()
    assert frames.shape == (2, 8, 224, 224, 3) and frames.dtype == np.uint8
    assert len(np.unique(frames)) > 100 and not np.array_equal(frames[0], frames[1])
    content = golden.to_bytes(step)
    assert len(content) < 40_000
    assert content == golden.to_bytes(golden.inputs_of(found)[0])


def test_another_answer_is_refused(causal):
    expected = golden.golden_of(causal)
    assert expected["frames"].shape[:2] == (4, 2) and expected["logits"].shape[:2] == (4, 2)
    call = jax.jit(causal.call)

    def right(inputs):
        return call(*inputs)

    def wrong(change):
        def run(inputs):
            logits, *state = call(*inputs)
            return [change(np.array(logits)), *state]

        return run

    def forgetful(inputs):
        logits, *state = call(*inputs)
        return [logits, *(np.zeros_like(each) for each in state)]

    assert golden.agreement(causal, expected, right, "float32") < 1e-5
    scale = np.abs(expected["logits"]).max()
    for call_wrongly in (
        wrong(lambda logits: logits + 2e-4 * scale),
        wrong(lambda logits: logits * np.nan),
        forgetful,
    ):
        with pytest.raises(UserError, match=r"more than 0\.0001"):
            golden.agreement(causal, expected, call_wrongly, "float32")
    near = wrong(lambda logits: logits + 2e-4 * scale)
    assert golden.agreement(causal, expected, near, "float16") == pytest.approx(2e-4, rel=0.1)
