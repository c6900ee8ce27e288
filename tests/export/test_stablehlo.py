"""`.stablehlo` files: read by JAX and compiled by IREE, with the answers of the model."""

import json
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from export_models import FRAMES, SIZE, build, clips
from filled_models import filled
from flax import nnx
from small_versions import small

import trn_jax
from trn_jax import create_model
from trn_jax.errors import UserError
from trn_jax.export import stablehlo
from trn_jax.export.program import ANY, for_inference, program_of
from trn_jax.models import list_models

logits_of = nnx.jit(lambda model, clips: model(clips))


def written(path, model, form="clip", *, size=SIZE, frames=FRAMES, batch=ANY):
    """Write a model with as much of its metadata as is read; returns the program."""
    program = program_of(
        for_inference(model, size=size), form, num_frames=frames, size=size, batch=batch
    )
    metadata = {
        "form": form,
        "inputs": [tensor.to_dict() for tensor in program.inputs],
        "outputs": [tensor.to_dict() for tensor in program.outputs],
    }
    arrays = {"clips": np.zeros(1, np.uint8)}
    stablehlo.write(str(path), program, json.dumps(metadata), arrays)
    return program


def compare(path, model, inputs):
    expected = np.asarray(logits_of(model, inputs))
    found = np.asarray(stablehlo.load(path)(inputs))
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", list_models())
def test_small_versions_of_all_models_agree(name, tmp_path):
    options, pixels = small(name)
    model = build(name, **options)
    written(tmp_path / "model.stablehlo", model, size=pixels)
    compare(tmp_path / "model.stablehlo", model, clips(3, FRAMES, pixels))


def test_non_local_blocks_agree(tmp_path):
    model = build("tsm_resnet10", width=4, non_local="embedded_gaussian")
    written(tmp_path / "model.stablehlo", model)
    compare(tmp_path / "model.stablehlo", model, clips(3))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_model_at_full_size(name, tmp_path):
    size = 299 if "inceptionv3" in name else 224
    model = filled(nnx.eval_shape(lambda: create_model(name, num_classes=5)))
    written(tmp_path / "model.stablehlo", model, size=size, frames=8)
    compare(tmp_path / "model.stablehlo", model, clips(1, 8, size))


@pytest.mark.smoke
def test_a_stream_gives_the_answers_of_the_model_step_by_step(tmp_path):
    model = build("tsm_resnet10", width=4, causal=True, shift_div=4)
    written(tmp_path / "model.stablehlo", model, "stream")
    loaded = stablehlo.load(tmp_path / "model.stablehlo")
    stream = trn_jax.streaming(model)
    state, carried = stream.init(2, SIZE), loaded.state(2)
    for frames in clips(2, 200).swapaxes(0, 1):
        expected, state = stream.step(state, frames)
        found, *carried = loaded(frames, *carried)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * largest)


@pytest.fixture(scope="module")
def trn(tmp_path_factory):
    """A small TRN and its file."""
    model, path = build("trn_resnet10", width=4), tmp_path_factory.mktemp("trn") / "trn.stablehlo"
    written(path, model)
    return model, path


def test_the_same_model_gives_the_same_bytes_without_paths(trn, tmp_path):
    model, path = trn
    written(tmp_path / "again.stablehlo", model)
    assert (tmp_path / "again.stablehlo").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert {"program.vhlo", "cpu.vhlo", "weights.safetensors", "golden.npz"} <= parts.keys()
    assert len(parts["program.vhlo"]) < len(parts["weights.safetensors"]) / 4
    for content in parts.values():
        assert b"recognizer" not in content and b".py" not in content
    assert json.loads(parts["program.json"])["stablehlo"] == stablehlo.TARGET


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ((), "expected 1"),
        ((clips(), clips()), "2 inputs"),
        ((clips()[0],), r"clips is uint8 \[4, 32, 32, 3\]"),
        ((clips(frames=3),), r"\[2, 3, 32, 32, 3\], expected clips uint8 \[batch, 4"),
        ((clips(0),), r"\[0, 4"),
        ((clips().astype(np.float32),), "float32"),
        ((3,), r"int64 \[\]"),
    ],
)
def test_other_inputs_are_refused(trn, inputs, match):
    with pytest.raises(UserError, match=match):
        stablehlo.load(trn[1])(*inputs)


def test_corrupt_files_are_refused(trn, tmp_path):
    content = trn[1].read_bytes()
    path = tmp_path / "corrupt.stablehlo"
    middle = len(content) // 2
    for broken in (
        b"",
        b"PK",
        content[:middle],
        content[:middle] + b"#" + content[middle + 1 :],
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"corrupt\.stablehlo"):
            stablehlo.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UserError, match=r"program\.json"):
        stablehlo.load(path)
    with pytest.raises(UserError, match="missing"):
        stablehlo.load(tmp_path / "missing.stablehlo")


def test_iree_compiles_and_runs_it_without_jax(tmp_path):
    compiler = pytest.importorskip("iree.compiler", reason="needs iree-base-compiler")
    runtime = pytest.importorskip("iree.runtime", reason="needs iree-base-runtime")
    size = SIZE  # IREE 3.13 fails on padded convolutions of maps of one pixel, which this has not
    model = build("tsm_mobilenetv2", backbone="mobilenetv2_tiny")
    written(tmp_path / "model.stablehlo", model, size=size, batch=2)
    with zipfile.ZipFile(tmp_path / "model.stablehlo") as archive:
        program = archive.read("program.vhlo")
        names = json.loads(archive.read("program.json"))["parameters"]
        weights = safetensors.numpy.load(archive.read("weights.safetensors"))
    code = compiler.compile_str(
        program,
        input_type="stablehlo",
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=generic"],
    )
    context = runtime.SystemContext(config=runtime.Config("local-sync"))
    context.add_vm_module(runtime.VmModule.copy_buffer(context.instance, code))
    (name,) = (name for name in context.modules if name != "hal")
    inputs = clips(2, FRAMES, size)
    found = context.modules[name]["main"](*(weights[each] for each in names), inputs)
    expected = np.asarray(logits_of(model, inputs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
