"""Hub folders, which anybody may have written: what is wrong with one is named."""

import json
import shutil

import numpy as np
import pytest
from hub_models import NAMES, calibration, logits, stored
from safetensors.numpy import load_file, save_file

import trn_jax
from trn_jax import convert
from trn_jax.checkpoints import calibration_file, checkpoint, checksums, finding, hub_folder
from trn_jax.errors import UserError
from trn_jax.export import hub


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    stored(folder / "stored", calibrated=True)
    hub.write(checkpoint.open_checkpoint(folder / "stored"), folder / "model", license="MIT")
    return folder / "model"


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "model")


def rewrite(folder, change):
    """Change `config.json`, and the checksums with it."""
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(change(content)))
    checksums.write(folder)


def change_weights(folder, change):
    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")
    checksums.write(folder)


def test_files_and_text(original):
    """JSON and safetensors, and nothing that could be executed."""
    names = {path.name for path in original.iterdir()}
    assert names == {"README.md", "checksums.json", "config.json", "model.safetensors"}
    modes = {path.stat().st_mode for path in original.iterdir()}
    assert len(modes) == 1
    content = json.loads((original / "config.json").read_text())
    assert (content["format"], content["library_name"]) == (1, "trn_jax")
    assert (content["architecture"], content["class_names"]) == ("tsn_resnet10", list(NAMES))
    assert content["contract"]["view"]["num_segments"] == 3
    assert content["contract"]["seconds"] == 3.0
    assert content["calibration"] == calibration().to_dict()
    assert finding.is_stored(original) and finding.find(original) == original


def other(key, value):
    def change(content):
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
        return content

    return change


def without(key):
    def change(content):
        del content[key]
        return content

    return change


WRONG = {
    "other library": (other("library_name", "transformers"), "library_name='transformers'"),
    "no library": (without("library_name"), "architecture='tsn_resnet10'"),
    "a list": (lambda _: ["config"], "another project"),
    "format of the future": (other("format", 2), "format=2"),
    "format as text": (other("format", "1"), "format='1'"),
    "no class names": (without("class_names"), "'class_names' is missing"),
    "no configuration": (without("config"), "'config' is missing"),
    "class names as text": (other("class_names", "abc"), "class_names is 'abc'"),
    "a class without a name": (other("class_names", ["a", "b", 3]), r"class_names\[2\] is 3"),
    "more names": (other("class_names", ["a", "b"]), "2 names, but .*num_classes=3"),
    "more classes": (other("config.model.num_classes", 4), "3 names, but .*num_classes=4"),
    "configuration as text": (other("config", "tsn"), "config is 'tsn'"),
    "half a character": (other("class_names", ["a", "b", "\udcff"]), r"class_names\[2\]"),
    "another class count": (other("num_classes", 4), "num_classes is 4, .*num_classes=3"),
    "another architecture": (other("architecture", "trn_resnet10"), "model.name='tsn_resnet10'"),
    "other labels": (other("multi_label", True), "multi_label is True, .*multi_label=False"),
    "width as text": (other("config.model.width", "2"), "width"),
    "segments out of range": (other("config.model.num_segments", -1), "num_segments=-1"),
    "step as text": (other("checkpoint.step", "6"), "checkpoint.step is '6'"),
    "a negative step": (other("checkpoint.step", -1), "checkpoint.step is -1"),
    "metrics as text": (other("metrics.top1", "good"), "metrics.top1 is 'good'"),
    "license": (other("license", 3), "license is 3"),
    "half a character in the license": (other("license", "\ud800"), "license is"),
    "a metric too large": (other("metrics.top1", 10**400), "metrics.top1 is 1000"),
    "calibration": (other("calibration", []), r"calibration is \[\]"),
    "contract": (other("contract", None), "contract is None"),
    "not a number": (other("metrics.top1", float("nan")), "NaN"),
}


def unknown(content):
    content["config"]["model"]["name"] = content["architecture"] = "tsn_none"
    return content


WRONG["unknown model"] = (unknown, "tsn_none")


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_named(folder, case):
    change, match = WRONG[case]
    rewrite(folder, change)
    with pytest.raises(UserError, match=match) as error:
        checkpoint.open_checkpoint(folder).load()
    assert "config.json" in str(error.value) or "tsn_none" in str(error.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", "config.json"),
        (b"{", "config.json"),
        (b"\xff\xfe\xff", "config.json"),
        (b"[" * 100_000, "config.json"),
        (b" " * (hub_folder.MAX_BYTES + 1), "16,777,216"),
    ],
)
def test_a_configuration_that_is_no_json_is_named(folder, text, match):
    (folder / "config.json").write_bytes(text)
    with pytest.raises(UserError, match=match):
        checkpoint.open_checkpoint(folder)


def test_a_configuration_that_is_no_file_is_named(folder):
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json.* no such file"):
        checkpoint.open_checkpoint(folder)
    (folder / "config.json").mkdir()
    with pytest.raises(UserError, match=r"config\.json.* no file"):
        checkpoint.open_checkpoint(folder)


def drop(arrays):
    del arrays["backbone.conv1.kernel"]


def add(arrays):
    arrays["backbone.conv7.kernel"] = np.zeros(3, np.float32)


def reshape(arrays):
    arrays["backbone.conv1.kernel"] = arrays["backbone.conv1.kernel"][1:]


def count(arrays):
    name = "backbone.conv1.kernel"
    arrays[name] = arrays[name].astype(np.int32)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (drop, r"missing backbone\.conv1\.kernel"),
        (add, r"unexpected backbone\.conv7\.kernel"),
        (reshape, r"backbone\.conv1\.kernel has shape \(6, 7, 3, 2\), expected \(7, 7, 3, 2\)"),
        (count, r"backbone\.conv1\.kernel .* I32"),
    ],
)
def test_other_tensors_are_named(folder, change, match):
    change_weights(folder, change)
    with pytest.raises(UserError, match=match):
        checkpoint.open_checkpoint(folder).load()


def test_numbers_of_half_the_size_are_read(folder):
    def halve(arrays):
        for name, value in arrays.items():
            arrays[name] = value.astype(np.float16)

    change_weights(folder, halve)
    found = checkpoint.open_checkpoint(folder).weights()["backbone.conv1.kernel"]
    assert found.dtype == np.float32
    half = load_file(folder / "model.safetensors")["backbone.conv1.kernel"]
    np.testing.assert_array_equal(found, half)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_truncated_weights_are_named(folder, size, checked):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    if not checked:  # as if somebody had written the checksums of that
        checksums.write(folder)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        checkpoint.open_checkpoint(folder).load()


def test_corrupt_files_are_named(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors does not match its checksum"):
        trn_jax.load_model(folder)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    with pytest.raises(UserError, match="git lfs pull"):
        trn_jax.load_model(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        trn_jax.load_model(folder)
    text = (folder / "config.json").read_text().replace("rising", "raising")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json has \d+ bytes"):
        checkpoint.open_checkpoint(folder)
    (folder / checksums.NAME).unlink()
    with pytest.raises(UserError, match="no checkpoint"):  # a config.json is all that is left
        checkpoint.open_checkpoint(folder)


def test_the_card_may_be_changed(folder):
    (folder / "README.md").write_text("# Better words")
    trn_jax.load_model(folder)
    (folder / "README.md").unlink()
    trn_jax.load_model(folder)


def test_a_later_calibration_lies_beside(folder):
    later = calibration(temperature=3.0)
    calibration_file.write(folder, later)
    assert trn_jax.load_model(folder).info.calibration == later
    hub.write(checkpoint.open_checkpoint(folder), folder.parent / "again")
    again = folder.parent / "again"
    assert not (again / calibration_file.NAME).exists()
    assert trn_jax.load_model(again).info.calibration == later


def test_a_calibration_of_other_classes_is_ignored(folder, capsys):
    rewrite(folder, other("calibration", calibration(("a", "b", "c")).to_dict()))
    assert trn_jax.load_model(folder).info.calibration is None
    assert "calibration is ignored" in capsys.readouterr().err


def test_folders_of_other_projects_are_no_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViT"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not finding.is_stored(tmp_path)
    with pytest.raises(UserError, match=r"model_type='vit'.*convert"):
        checkpoint.open_checkpoint(tmp_path)
    with pytest.raises(UserError, match="model_type='vit'"):
        trn_jax.load_model(str(tmp_path))


def test_weights_alone_are_not_taken_for_foreign_ones(original):
    """Kernels have another layout than PyTorch's, which equal sides would hide."""
    for place in (original, original / "model.safetensors"):
        with pytest.raises(UserError, match=f"trn_jax.*give its folder, {original}"):
            convert.read_torch_file(place)


def test_logits_are_the_same(original, folder):
    model = trn_jax.load_model(folder)
    np.testing.assert_array_equal(logits(model), logits(trn_jax.load_model(original)))
    assert np.isfinite(logits(model)).all() and np.ptp(logits(model)) > 0
