"""`trn-jax export` as it is typed."""

import json
import os
import signal

import pytest
from export_models import config_of, store

from trn_jax.cli import main
from trn_jax.export import stablehlo


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return store(tmp_path_factory.mktemp("model") / "model", config_of("tsn_resnet10"))


def test_it_prints_what_it_wrote(checkpoint, tmp_path, capsys):
    to = str(tmp_path / "model.stablehlo")
    assert main(["export", checkpoint, f"--to={to}"]) == 0
    printed = capsys.readouterr()
    for text in (to, "clips uint8 [batch, 4, 32, 32, 3]", "logits float32 [batch, 4]", "1.0.0"):
        assert text in printed.out
    assert "next: " in printed.out and "--license" in printed.err


def test_json_and_a_license(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    to = str(tmp_path / "model.onnx")
    options = ["--form=features", "--batch=3", "--license=MIT", "--protocol=twice", "--json"]
    assert main(["export", checkpoint, f"--to={to}", *options]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["path"] == to and found["license"] == "MIT" and found["needs"] == {"opset": 20}
    assert found["inputs"] == ["clips uint8 [3, 4, 36, 36, 3]"]
    assert printed.err == ""


def test_a_hub_folder(checkpoint, tmp_path, capsys):
    to = str(tmp_path / "folder")
    assert main(["export", checkpoint, f"--to={to}", "--batch=2"]) == 2
    assert "--batch" in capsys.readouterr().err
    assert main(["export", checkpoint, f"--to={to}"]) == 0
    assert "trn-jax push" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--to=model.onnx", "--batch=0"], "0"),
        (["--to=model.onnx", "--batch=many"], "many"),
        (["--to=model.pb"], ".pb"),
        ([], "--to"),
    ],
)
def test_wrong_arguments_are_one_line(checkpoint, options, named, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["export", checkpoint, *options])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2 and named in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_after_a_signal(checkpoint, tmp_path, monkeypatch, number):
    written = stablehlo.write

    def write(*arguments):
        written(*arguments)
        os.kill(os.getpid(), number)

    # A test that fails must not end pytest.
    before = signal.signal(number, lambda *_: None)
    monkeypatch.setattr(stablehlo, "write", write)
    try:
        status = main(["export", checkpoint, f"--to={tmp_path / 'model.stablehlo'}"])
    finally:
        signal.signal(number, before)
    assert status == (75 if number == signal.SIGTERM else 130)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", " ", "MIT\n"])
@pytest.mark.parametrize("command", [["export", "--to=hub"], ["push", "hf:user/name"]])
def test_a_license_needs_a_name(command, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command[0], "none", *command[1:], f"--license={text}"])
    assert "--license" in capsys.readouterr().err


def test_the_next_step_takes_any_name(checkpoint, tmp_path, capsys):
    to = str(tmp_path / "a b\n")
    assert main(["export", checkpoint, f"--to={to}"]) == 0
    assert f"push '{tmp_path}/a b\\n' hf:" in capsys.readouterr().out
