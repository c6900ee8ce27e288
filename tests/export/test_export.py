"""Checkpoints as files for other programs: what is in them, and what is refused."""

import base64
import io
import json
import os
import shutil
import sys
import zipfile

import numpy as np
import pytest
from export_models import FRAMES, NAMES, SIZE, clips, config_of, store
from flax import nnx

import trn_jax
from trn_jax import load_model
from trn_jax.errors import UserError
from trn_jax.export import golden, onnx_file, stablehlo
from trn_jax.export.export import export

pytest.importorskip("onnx", reason="needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
logits_of = nnx.jit(lambda model, clips: model(clips))
features_of = nnx.jit(lambda model, clips: model.features(clips))


@pytest.fixture(scope="module")
def tsm(tmp_path_factory):
    """A causal TSM that was trained in bfloat16, with calibration and a license."""
    folder = tmp_path_factory.mktemp("tsm") / "model"
    config = config_of(causal=True, shift_div=4, dtype="bfloat16")
    return store(folder, config, temperature=0.5, license="CC-BY-4.0")


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def metadata_of(path):
    if path.endswith(".onnx"):
        return json.loads(session_of(path).get_modelmeta().custom_metadata_map["trn_jax"])
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))


@pytest.mark.smoke
@pytest.mark.parametrize("end", ["onnx", "stablehlo"])
def test_a_file_has_all_that_its_user_needs(tsm, tmp_path, end):
    path = str(tmp_path / f"model.{end}")
    found = export(tsm, path)
    assert (found.path, found.kind, found.form, found.license) == (path, end, "clip", "CC-BY-4.0")
    assert found.num_bytes == (tmp_path / f"model.{end}").stat().st_size
    assert 0 <= found.difference <= 1e-4
    assert [each.name for each in tmp_path.iterdir()] == [f"model.{end}"]
    about = metadata_of(path)
    model = load_model(tsm, dtype="float32")
    assert about["format"] == 1 and about["dtype"] == "float32"
    (given,), (taken,) = about["inputs"], about["outputs"]
    assert given == {"name": "clips", "shape": ["batch", FRAMES, SIZE, SIZE, 3], "dtype": "uint8"}
    assert taken == {"name": "logits", "shape": ["batch", len(NAMES)], "dtype": "float32"}
    assert about["class_names"] == NAMES and about["license"] == "CC-BY-4.0"
    assert about["contract"]["protocol"] == "efficient"
    assert about["contract"]["view"]["crop_size"] == SIZE and about["contract"]["seconds"] == 0.8
    assert about["calibration"] == model.info.calibration.to_dict()
    assert about["checkpoint"]["step"] == 0 and about["checkpoint"]["checksum"]
    assert {"trn_jax", "jax", "flax", "onnx"} <= about["versions"].keys()
    assert tsm not in json.dumps(about)  # no path of this machine
    inputs = clips(3)
    expected = np.asarray(logits_of(model, inputs))
    if end == "onnx":
        (logits,) = session_of(path).run(None, {"clips": inputs})
        assert found.needs == {"opset": 20}
        kept = session_of(path).get_modelmeta().custom_metadata_map["trn_jax.golden"]
        example = dict(np.load(io.BytesIO(base64.b64decode(kept))))
    else:
        loaded = stablehlo.load(path)
        logits, example = loaded(inputs), loaded.golden()
        assert loaded.metadata == about
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    expected = logits_of(model, example["clips"])
    np.testing.assert_allclose(example["logits"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("end", ["onnx", "stablehlo"])
def test_a_stream_step_by_step(tsm, tmp_path, end):
    path = str(tmp_path / f"model.{end}")
    found = export(tsm, path, form="stream", batch=1)
    assert found.form == "stream" and len(found.inputs) == len(found.outputs) > 4
    stream = trn_jax.streaming(load_model(tsm, dtype="float32"))
    state = stream.init(1, SIZE)
    call = (onnx_file if end == "onnx" else stablehlo).runner(path)
    about = metadata_of(path)
    carried = [np.zeros(each["shape"], each["dtype"]) for each in about["inputs"][1:]]
    names = [
        [each["name"].partition(".")[2] for each in about[k][1:]] for k in ("inputs", "outputs")
    ]
    assert names[0] == names[1]
    for frames in clips(1, 200).swapaxes(0, 1):
        expected, state = stream.step(state, frames)
        logits, *carried = call([frames, *carried])
        largest = np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * largest)


@pytest.mark.thorough
def test_features_of_a_protocol_in_float16(tsm, tmp_path):
    path = str(tmp_path / "model.onnx")
    found = export(tsm, path, form="features", dtype="float16", protocol="twice", license="MIT")
    assert found.license == "MIT" and 1e-6 < found.difference < golden.BOUNDS["float16"]
    about = metadata_of(path)
    assert about["contract"]["protocol"] == "twice" and about["dtype"] == "float16"
    inputs = clips(2, FRAMES, SIZE + 4)
    (features,) = session_of(path).run(None, {"clips": inputs})
    expected = np.asarray(features_of(load_model(tsm, dtype="float32"), inputs))
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-2 * np.abs(expected).max())


def test_a_folder_is_a_hub_folder(tsm, tmp_path):
    found = export(tsm, str(tmp_path / "model"))
    assert found.kind == "hub" and found.license == "CC-BY-4.0" and found.difference is None
    model, again = load_model(tsm), load_model(str(tmp_path / "model"))
    inputs = clips()
    np.testing.assert_array_equal(logits_of(again, inputs), logits_of(model, inputs))


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory):
    return store(tmp_path_factory.mktemp("tsm") / "model", config_of())


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("model.onnx", dict(form="stream"), "causal"),
        ("model.onnx", dict(batch=0), "batch=0"),
        ("model.stablehlo", dict(batch=1 << 30), "batch="),
        ("model.stablehlo", dict(batch=True), "batch=True"),
        ("model.onnx", dict(form="video"), "clip, stream, features"),
        ("model.onnx", dict(dtype="int8"), "float32, float16"),
        ("model.onnx", dict(protocol="none_such"), "efficient, twice"),
        (".onnx", {}, r"/\.onnx has no name"),
        ("model.tflite", {}, r"\.tflite.*\.onnx.*\.stablehlo"),
    ],
)
def test_bad_choices_leave_nothing(bidirectional, tmp_path, name, options, match):
    with pytest.raises(UserError, match=match):
        export(bidirectional, str(tmp_path / name), **options)
    assert list(tmp_path.iterdir()) == []


def test_what_exists_stays(bidirectional, tmp_path):
    for name in ("model.onnx", "folder"):
        place = tmp_path / name
        place.mkdir()
        with pytest.raises(UserError, match="exists"):
            export(bidirectional, str(place))
        assert list(place.iterdir()) == []


def test_places_that_can_not_be_written(bidirectional, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is not a folder"):
        export(bidirectional, str(tmp_path / "file" / "model.onnx"))


@pytest.mark.parametrize("end", [".onnx", ".stablehlo", ""])
def test_names_that_are_not_utf_8(bidirectional, tmp_path, end):
    if end == ".onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    to = str(tmp_path / f"m\udcff{end}")
    assert export(bidirectional, to).path == to
    assert os.listdir(tmp_path) == [os.path.basename(to)]


def test_class_names_that_are_not_utf_8(tmp_path):
    names = ["\udcff", "b", "c", "d"]
    path = store(tmp_path / "stored", config_of("tsn_resnet10"), class_names=names)
    export(path, str(tmp_path / "hub"))
    for number, source in enumerate((path, str(tmp_path / "hub"))):
        to = str(tmp_path / f"{number}.stablehlo")
        export(source, to)
        assert metadata_of(to)["class_names"] == ["\\udcff", "b", "c", "d"]


def test_a_wrong_answer_leaves_no_file(bidirectional, tmp_path, monkeypatch):
    monkeypatch.setitem(golden.BOUNDS, "float32", -1.0)
    for end in ("onnx", "stablehlo"):
        with pytest.raises(UserError, match="golden input"):
            export(bidirectional, str(tmp_path / f"model.{end}"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_anything_is_read(tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"{package}.*trn_jax\[export\]"):
            export(str(tmp_path / "none_such"), str(tmp_path / "model.onnx"))
        monkeypatch.undo()


@pytest.mark.thorough
def test_relations_are_those_of_the_protocol(tmp_path):
    config = config_of("trn_resnet10", max_relations=1)
    config.protocols.twice.relations = "first"
    config.protocols.efficient.update(relations="sample", num_draws=2)
    path = store(tmp_path / "trn", config)
    with pytest.raises(UserError, match="relations='sample'"):
        export(path, str(tmp_path / "model.stablehlo"))
    export(path, str(tmp_path / "model.stablehlo"), protocol="twice")
    inputs = clips(2, FRAMES, SIZE + 4)
    expected = np.asarray(logits_of(load_model(path, eval_relations="first"), inputs))
    found = stablehlo.load(tmp_path / "model.stablehlo")(inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_corrupt_checkpoint_is_refused(bidirectional, tmp_path):
    copy = shutil.copytree(bidirectional, tmp_path / "copy")
    for path in (copy / "model").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="corrupt"):
        export(str(copy), str(tmp_path / "model.onnx"))
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]
