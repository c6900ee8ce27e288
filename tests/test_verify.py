"""`trn-jax convert --verify`."""

import json
import re
import sys

import pytest
import weights
from torch_files import safetensors_file

import trn_jax
from trn_jax import cli


def convert(file, to, *more, model="trn_resnet10"):
    return cli.main(["convert", f"--from={file}", f"--model={model}", f"--to={to}", *more])


def test_missing_pytorch_is_explained_before_anything_is_done(tmp_path, capsys, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("trn_jax.torch_models", "trn_jax.verify")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("torch_models", "verify"):
        if name in vars(trn_jax):
            monkeypatch.delattr(trn_jax, name)
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it raises
    assert convert(tmp_path / "nowhere.pth", tmp_path / "out", "--verify") == 2
    said = capsys.readouterr().err
    assert "needs PyTorch" in said and "pip install" in said
    assert "nowhere.pth" not in said


@pytest.fixture
def torch(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("trn_jax.verify.PIXELS", 56)
    return torch


@pytest.fixture
def state(torch):
    """Weights of a TRN of three frames with the names of mmaction2."""
    from trn_jax.torch_models import create_torch_model

    model = create_torch_model("trn_resnet10", num_classes=5, num_segments=3)
    manifest = [
        (name, tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in model.state_dict().items()
    ]
    drawn = weights.deterministic_state_dict(manifest, seed=0)
    return {name: torch.from_numpy(value) for name, value in drawn.items()}


def assert_verified(said, *, reader, names):
    (last,) = (line for line in said.splitlines() if line.startswith("verified"))
    found = re.match(r"verified: largest logit difference \S+, which is (\S+) of the largest", last)
    assert 0 <= float(found[1]) < 1e-5
    assert f"file read by {reader}, placed by {names}" in last


def test_a_file_of_pytorch_is_verified(torch, state, tmp_path, capsys):
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "trn.pth")
    assert convert(tmp_path / "trn.pth", tmp_path / "out", "--verify") == 0
    assert_verified(capsys.readouterr().out, reader="torch.load", names="its own names")
    assert (tmp_path / "out" / "about").is_dir()


def test_a_file_that_pytorch_does_not_know_is_verified(state, tmp_path, capsys):
    arrays = {f"module.{name}": value.numpy() for name, value in state.items()}
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(arrays))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(arrays, "model.safetensors")}))
    assert convert(index, tmp_path / "out", "--verify") == 0
    assert_verified(capsys.readouterr().out, reader="trn_jax", names="its own names")


def test_foreign_names_are_verified(torch, state, tmp_path, capsys):
    def original(name):
        name = re.sub(r"^backbone\.(.*)\.bn\.", r"base_model.\1_bn.", name)
        name = re.sub(r"^backbone\.(.*)\.conv\.", r"base_model.\1.", name)
        name = re.sub(r"conv(\d)_bn", r"bn\1", name)
        name = re.sub(r"downsample_bn", r"downsample.1", name)
        name = re.sub(r"downsample\.weight", r"downsample.0.weight", name)
        return name.replace("cls_head.fc_cls", "new_fc").replace("cls_head.", "")

    torch.save({original(name): value for name, value in state.items()}, tmp_path / "trn.pth")
    assert convert(tmp_path / "trn.pth", tmp_path / "out", "--verify") == 0
    said = capsys.readouterr().out
    assert "base_model.layer2.0.downsample.1.running_var" in said
    assert_verified(said, reader="torch.load", names="our tables")


def test_a_difference_leaves_no_checkpoint(torch, state, tmp_path, capsys, monkeypatch):
    from trn_jax import verify

    torch.save(state, tmp_path / "trn.pth")
    read = verify.read_tensors

    def read_amiss(*arguments):
        tensors, reader = read(*arguments)
        name = "backbone.layer4.0.conv2.conv.weight"
        return tensors | {name: tensors[name].flip(-1)}, reader

    monkeypatch.setattr(verify, "read_tensors", read_amiss)
    assert convert(tmp_path / "trn.pth", tmp_path / "out", "--verify") == 2
    said = capsys.readouterr().err
    assert "trn.pth" in said and "0.0001" in said
    assert [path.name for path in tmp_path.iterdir()] == ["trn.pth"]


def test_not_a_number_does_not_pass(torch, state, tmp_path, capsys, monkeypatch):
    from trn_jax import verify

    torch.save(state, tmp_path / "trn.pth")
    read = verify.read_tensors

    def read_amiss(*arguments):
        tensors, reader = read(*arguments)
        name = "cls_head.fc_cls.bias"
        return tensors | {name: tensors[name] * float("nan")}, reader

    monkeypatch.setattr(verify, "read_tensors", read_amiss)
    assert convert(tmp_path / "trn.pth", tmp_path / "out", "--verify") == 2
    assert "difference nan" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_backbone_is_verified_alone(torch, state, tmp_path, capsys):
    backbone = {n: v for n, v in state.items() if n.startswith("backbone.")}
    torch.save({"state_dict": backbone}, tmp_path / "trn.pth")
    arguments = ["--verify", "--backbone-only", "--num-classes=5"]
    assert convert(tmp_path / "trn.pth", tmp_path / "out", *arguments) == 0
    last = capsys.readouterr().out
    found = re.search(r"verified: largest feature difference \S+, which is (\S+) of", last)
    assert 0 <= float(found[1]) < 1e-5 and "file read by torch.load" in last


def test_the_network_that_was_chosen_is_verified(torch, state, tmp_path, capsys):
    averaged = {name: value + 0.01 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": averaged}, tmp_path / "trn.pth")
    for key in ("state_dict_ema", "state_dict"):
        arguments = [
            "--verify",
            f"--key={key}",
            r"--rename=^cls_head\.=head_.",
            "--rename=head_.=cls_head.",
        ]
        assert convert(tmp_path / "trn.pth", tmp_path / key, *arguments) == 0
        assert_verified(capsys.readouterr().out, reader="torch.load", names="its own names")


def test_tensors_of_another_shape_are_named(torch, state):
    from trn_jax import verify
    from trn_jax.errors import UserError
    from trn_jax.torch_models import create_torch_model

    options = dict(name="trn_resnet10", num_classes=5, num_segments=3)
    rows = [(name, "", ()) for name in state if not name.endswith("num_batches_tracked")]
    tensors = dict(state) | {"backbone.conv1.conv.weight": torch.zeros(64, 3, 1, 7, 8)}
    with pytest.raises(
        UserError, match=r"backbone\.conv1\.conv\.weight has shape \(64, 3, 1, 7, 8"
    ):
        verify.load_torch_weights(create_torch_model(**options), tensors, rows, options)
