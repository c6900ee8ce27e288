"""The folder of a page: complete, or an error and nothing."""

import dataclasses
import json
import pathlib
import re

import pytest

from trn_jax.cli import main
from trn_jax.config import base
from trn_jax.data.views import View
from trn_jax.errors import UserError
from trn_jax.export import page
from trn_jax.settings import resolved_views

onnx = pytest.importorskip("onnx")
FILES = pathlib.Path(page.__file__).parent / "page"


@pytest.fixture
def runtime(tmp_path):
    """A folder with empty files of the runtime, and one that a page doesn't need."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (*page.RUNTIME, "ort.webgl.mjs"):
        (folder / name).touch()
    return folder


def write_model(path, *, form="clip", metadata=True, **keys):
    """Write a file without a network, with or without metadata."""
    config = base(dataset="frames", model="tsn_resnet10", num_classes=3)
    view = dataclasses.asdict(View(**resolved_views(config)["protocols.efficient"].to_dict()))
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], []))
    if metadata:
        about = {"format": 1, "form": form, "contract": {"view": view | keys}}
        onnx.helper.set_model_props(model, {"trn_jax": json.dumps(about)})
    onnx.save(model, path)
    return str(path)


@pytest.mark.smoke
def test_a_page_has_all_files_that_it_asks_for(tmp_path, runtime):
    model = write_model(tmp_path / "model.onnx")
    page.write_page(model, tmp_path / "deep" / "page", runtime)
    folder = tmp_path / "deep" / "page"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("index.html", "page.js", "style.css", "model.onnx"),
        *(f"ort/{name}" for name in page.RUNTIME),
    }
    assert list(folder.parent.iterdir()) == [folder]
    script = (folder / "page.js").read_text()
    assert set(re.findall(r'"(ort[-.][^"]*)"', script)) == set(page.RUNTIME)
    html = (folder / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"page.js", "style.css", "data:,"}
    # Nothing is loaded from elsewhere, and browsers would refuse to.
    assert "default-src 'none'" in html
    for name in ("index.html", "page.js", "style.css"):
        found = set(re.findall(r"https?://[\w.:]*", (folder / name).read_text()))
        assert found <= {
            "https://",
            "http://localhost",
            "http://localhost.",
            "http://localhost:8000",
        }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(form="features"), "form=features"),
        (dict(metadata=False), "metadata"),
        (dict(sampling="random_clips"), "sampling='random_clips'"),
        (dict(frame_order="shuffled"), "frame_order='shuffled'"),
        (dict(crop="multi_scale"), "crop='multi_scale'"),
        (dict(relations="sample"), "relations='sample'"),
    ],
)
def test_models_that_a_page_cannot_run(tmp_path, runtime, change, match):
    model = write_model(tmp_path / "model.onnx", **change)
    with pytest.raises(UserError, match=match):
        page.write_page(model, tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


def test_a_file_that_is_no_model(tmp_path, runtime):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match=r"model\.onnx"):
        page.write_page(tmp_path / "model.onnx", tmp_path / "page", runtime)


def test_a_runtime_without_a_file(tmp_path, runtime):
    (runtime / page.RUNTIME[0]).unlink()
    with pytest.raises(UserError, match=re.escape(page.RUNTIME[0])):
        page.check_page(tmp_path / "page", runtime)


def test_a_folder_that_exists(tmp_path, runtime):
    with pytest.raises(UserError, match="exists"):
        page.check_page(tmp_path, runtime)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--page"], "npm pack onnxruntime-web"),
        (["--page", "--ort=DIST", "--form=features"], "--form=features"),
        (["--ort=DIST"], "--page"),
    ],
)
def test_flags_of_a_page(tmp_path, runtime, capsys, flags, match):
    flags = [flag.replace("DIST", str(runtime)) for flag in flags]
    assert main(["export", str(tmp_path / "none"), f"--to={tmp_path / 'page'}", *flags]) == 2
    printed = capsys.readouterr().err
    assert match in printed and printed.count("\n") == 1
    assert not (tmp_path / "page").exists()
