"""Checkpoints on a stand-in for the Hugging Face hub: found, kept in the cache, and refused."""

import builtins
import json
import pathlib

import numpy as np
import pytest
from hub_models import connect, logits, stored
from stand_in_hub import TOKEN, StandInHub

import trn_jax
from trn_jax.checkpoints import checkpoint, finding, hub
from trn_jax.errors import UserError
from trn_jax.export import hub as export_hub

pytest.importorskip("huggingface_hub")
MODEL = "hf:user/model"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of a hub folder, `{name: bytes}`."""
    folder = tmp_path_factory.mktemp("hub")
    opened = checkpoint.open_checkpoint(stored(folder / "stored"))
    export_hub.write(opened, folder / "model")
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


@pytest.fixture
def server(files):
    with StandInHub() as found:
        found.first = found.add("user/model", files)
        yield found


@pytest.fixture
def cache(tmp_path, monkeypatch, server):
    connect(monkeypatch, server.url, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.smoke
def test_a_model_is_loaded_once(server, cache, monkeypatch, capsys):
    model = trn_jax.load_model(MODEL)
    assert model.info.source["hub"] == f"{MODEL}@{server.first}"
    assert pathlib.Path(model.info.path).is_relative_to(cache)
    names = {path.rpartition("/")[2] for _, path in server.requests if "/resolve/" in path}
    assert names == {"config.json", "model.safetensors", "checksums.json"}  # not the card
    assert f"downloading {MODEL}@{server.first} (" in capsys.readouterr().err

    server.requests.clear()
    again = trn_jax.load_model(MODEL)
    assert not any("/resolve/" in path for _, path in server.requests)
    np.testing.assert_array_equal(logits(again), logits(model))
    assert capsys.readouterr().err == ""

    server.requests.clear()
    opened = checkpoint.open_checkpoint(f"{MODEL}@{server.first}")
    assert opened.path == str(opened) == f"{MODEL}@{server.first}"
    assert server.requests == []


def test_without_a_connection_the_cache_serves(server, cache, monkeypatch, capsys):
    expected = logits(trn_jax.load_model(MODEL))
    with StandInHub() as other:
        pass  # nobody listens there any more
    capsys.readouterr()
    connect(monkeypatch, other.url, cache)
    np.testing.assert_array_equal(logits(trn_jax.load_model(MODEL)), expected)
    assert server.first in capsys.readouterr().err
    # What the cache lacks is an error that names what was tried.
    for address in ("hf:user/other", f"{MODEL}@v2"):
        with pytest.raises(UserError, match=f"{address} .*not in the cache"):
            trn_jax.load_model(address)
    connect(monkeypatch, other.url, cache, offline=True)
    np.testing.assert_array_equal(logits(trn_jax.load_model(MODEL)), expected)
    assert capsys.readouterr().err == ""  # nothing that was not asked for
    with pytest.raises(UserError, match=r"hf:user/other .*HF_HUB_OFFLINE"):
        trn_jax.load_model("hf:user/other")


def test_a_broken_hub_is_no_connection(server, cache, capsys):
    server.broken = True
    with pytest.raises(UserError, match=f"{MODEL} .*503"):
        checkpoint.open_checkpoint(MODEL)
    server.broken = False
    checkpoint.open_checkpoint(MODEL)
    server.broken = True
    capsys.readouterr()
    assert checkpoint.open_checkpoint(MODEL).path == f"{MODEL}@{server.first}"
    assert "503" in capsys.readouterr().err


def test_a_revision_stays_and_the_newest_is_taken(server, cache, files, monkeypatch):
    old = trn_jax.load_model(MODEL)
    server.repositories["user/model"].revisions["v1.0"] = server.first
    content = json.loads(files["config.json"])
    second = server.add("user/model", files | {"README.md": b"# Another"})
    assert content["class_names"] == list(old.info.class_names)
    assert trn_jax.load_model(MODEL).info.source["hub"] == f"{MODEL}@{second}"
    for revision in ("v1.0", server.first):
        found = trn_jax.load_model(f"{MODEL}@{revision}")
        assert found.info.source["hub"] == f"{MODEL}@{server.first}"
    assert hub.pinned(f"{MODEL}@v1.0") == f"{MODEL}@{server.first}"
    assert hub.pinned("runs/a@best") == "runs/a@best"


@pytest.mark.parametrize(
    "address",
    ["hf:", "hf:model", "hf:user/", "hf:/model", "hf:user/a/b", "hf:user/model@", "hf:us er/model"],
)
def test_a_wrong_address_is_refused(server, cache, address):
    with pytest.raises(UserError, match=r"hf:<user>/<name>"):
        trn_jax.load_model(address)
    assert server.requests == []


def test_names_that_the_hub_never_has_are_refused(server, cache):
    with pytest.raises(UserError, match="hf:user/a--b"):
        trn_jax.load_model("hf:user/a--b")


def test_what_is_not_there_is_named(server, cache, files):
    with pytest.raises(UserError, match=r"hf:user/modle: .*HF_TOKEN"):
        trn_jax.load_model("hf:user/modle")
    for revision in ("best", "6", "0" * 40):
        with pytest.raises(UserError, match=f"{MODEL}@{revision}: .*a branch, a tag or a commit"):
            trn_jax.load_model(f"{MODEL}@{revision}")
    server.add("user/card", {"README.md": b""})
    with pytest.raises(UserError, match=r"hf:user/card has no config\.json"):
        trn_jax.load_model("hf:user/card")
    server.add("user/half", {name: files[name] for name in ("config.json", "checksums.json")})
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        trn_jax.load_model("hf:user/half")


def test_other_projects_are_recognised_before_their_weights_come(server, cache):
    content = {"architectures": ["BertModel"], "model_type": "bert"}
    files = {"config.json": json.dumps(content).encode(), "model.safetensors": b"0" * 99}
    server.add("user/bert", files)
    with pytest.raises(UserError, match=r"hf:user/bert.*model_type='bert'"):
        trn_jax.load_model("hf:user/bert")
    assert not any(path.endswith(".safetensors") for _, path in server.requests)


def test_a_configuration_of_gigabytes_does_not_come(server, cache):
    server.add("user/large", {"config.json": b" " * (17 << 20)})
    with pytest.raises(UserError, match="16,777,216"):
        trn_jax.load_model("hf:user/large")
    assert not any("/resolve/" in path for _, path in server.requests)


def test_private_models_need_the_token(server, cache, files, monkeypatch):
    server.add("user/private", files, private=True)
    server.add("user/gated", files, gated=True)
    with pytest.raises(UserError, match=r"hf:user/private: .*private.*HF_TOKEN"):
        trn_jax.load_model("hf:user/private")
    with pytest.raises(UserError, match=r"hf:user/gated .*HF_TOKEN"):
        trn_jax.load_model("hf:user/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    trn_jax.load_model("hf:user/private")
    trn_jax.load_model("hf:user/gated")


def test_a_missing_package_is_named(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"trn_jax\[hub\]"):
        trn_jax.load_model(MODEL)


def test_an_address_starts_another_model(server, cache):
    assert finding.is_stored(MODEL)
    model = trn_jax.load_model(MODEL)
    other = trn_jax.create_model(
        "trn_resnet10", num_classes=7, weights=MODEL, num_segments=3, width=2
    )
    first, second = (np.asarray(each.backbone.conv1.kernel[...]) for each in (model, other))
    np.testing.assert_array_equal(first, second)
