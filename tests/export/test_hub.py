"""Checkpoints become hub folders, with everything that they have, and go to a stand-in hub."""

import json
import re
import shutil

import numpy as np
import painted
import pytest
from hub_models import NAMES, SAMPLING, calibration, connect, logits, stored
from safetensors import SafetensorError
from stand_in_hub import TOKEN, StandInHub

import trn_jax
from trn_jax import cli
from trn_jax.checkpoints import checkpoint
from trn_jax.config import base
from trn_jax.errors import UserError
from trn_jax.export import hub, model_card
from trn_jax.export.measured import measured

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A calibrated checkpoint."""
    source = {"file": "/home/somebody/trn.pth", "sha256": "0" * 64}
    folder = tmp_path_factory.mktemp("small") / "stored"
    config = dict(data_dir="/home/somebody/data", init_from="~somebody/resnet.pth")
    return stored(folder, calibrated=True, source=source, settings=config)


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    """Its hub folder."""
    folder = tmp_path_factory.mktemp("written") / "trn"
    assert hub.write(checkpoint.open_checkpoint(small), folder, license="MIT") == "MIT"
    return folder


@pytest.fixture(scope="module")
def content(written):
    """What its `config.json` has."""
    return json.loads((written / "config.json").read_text())


def test_everything_is_the_same(small, written):
    found, model = trn_jax.load_model(written), trn_jax.load_model(small)
    np.testing.assert_array_equal(logits(found), logits(model))
    for key in ("step", "class_names", "views", "sampling", "metrics", "calibration"):
        assert getattr(found.info, key) == getattr(model.info, key), key
    assert found.info.calibration == calibration()
    assert found.info.sampling == SAMPLING


def test_it_names_no_place_of_this_machine(written):
    content = json.loads((written / "config.json").read_text())
    assert content["source"] == {"file": "trn.pth", "sha256": "0" * 64}
    assert content["config"]["data_dir"] is None
    assert content["config"]["init_from"] == "resnet.pth"
    for name in ("config.json", "README.md"):
        assert "somebody" not in (written / name).read_text()


def card(content, **changed):
    """The front matter of a model card, and its text."""
    text = model_card.text(content | changed, "hf:user/trn")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_names_are_no_markup(content):
    names = ["a|b", "<script>", "\x1b[31m", "`x` **y**"]
    _, text = card(content, class_names=names)
    for part in ("a|b", "<script>", "\x1b", "**y**"):
        assert part not in text, part
    assert text.count("\n0. a") == 1


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        (None, {}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("Only for Research!", {"license": "other", "license_name": "only-for-research"}),
    ],
)
def test_licenses(content, license, expected):
    head, text = card(content, license=license)
    assert {key: head[key] for key in head if key.startswith("license")} == expected
    assert (license or "No licence").replace("!", "\\!") in text


def test_results_that_evaluations_left_are_those_of_the_checkpoint(small, tmp_path):
    result = {"protocol": "efficient", "split": "val", "num_videos": 4, "metrics": {"top1": 0.5}}
    other = result | {"step": 3}
    good = result | {"step": 0, "config": "left out", "num_views": 1}
    opened = checkpoint.open_checkpoint(shutil.copytree(small, tmp_path / "a"))
    (tmp_path / "a" / "results" / "test").mkdir(parents=True)
    texts = {"efficient": good, "other": other, "list": [1]}
    texts |= {"test/efficient": good | {"split": "test"}}
    texts |= {"metrics": good | {"metrics": {"top1": "0.5"}}, "split": good | {"split": None}}
    for name, each in texts.items():
        (tmp_path / "a" / "results" / f"{name}.json").write_text(json.dumps(each))
    (tmp_path / "a" / "results" / "broken.json").write_text("[" * 9999)
    found = measured(opened)
    assert found == [result | {"num_views": 1}, result | {"num_views": 1, "split": "test"}]


def test_results_are_in_the_card(content):
    metrics = {"top1": 0.5, "top5": 0.75, "mean_class": None}
    row = {"protocol": "efficient", "split": "val", "num_videos": 4, "metrics": metrics}
    head, text = card(content, results=[row])
    (found,) = head["model-index"]
    assert [m["value"] for m in found["results"][0]["metrics"]] == [0.5, 0.75]
    assert head["metrics"] == ["accuracy"]
    assert "| efficient | val | 4 |  | 50.00 | 75.00 | - |" in text
    head, text = card(content, results=[], metrics={})
    assert "model-index" not in head and "not been evaluated" in text


def test_a_folder_that_exists_is_refused(small, tmp_path):
    opened = checkpoint.open_checkpoint(small)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there exists"):
        hub.write(opened, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        hub.write(opened, tmp_path / "file" / "model")


def test_nothing_is_left_of_one_that_fails(small, tmp_path, monkeypatch):
    opened = checkpoint.open_checkpoint(small)

    for error in (OSError(28, "No space left on device"), SafetensorError("No space left")):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("trn_jax.checkpoints.hub_folder.save_file", fail)
        with pytest.raises(UserError, match="No space left"):
            hub.write(opened, tmp_path / "a")
        assert list(tmp_path.iterdir()) == []


def run_card(folder, tmp_path, monkeypatch):
    """Run the program of a model card with a video, and its command; returns the card."""
    text = (folder / "README.md").read_text()
    painted.write(tmp_path / "video.mp4", painted.frames(12))
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    address = re.search(r'load_model\("(.*)"\)', program)[1]
    exec(compile(program.replace(address, str(folder)), "card", "exec"), {})
    (command,) = re.findall("trn-jax ((?:predict|features) .*)", text)
    assert cli.main(command.replace(address, str(folder)).split()) == 0
    return text


def test_programs_of_the_card_run(written, tmp_path, monkeypatch, capsys):
    assert "trn-jax predict" in run_card(written, tmp_path, monkeypatch)
    label = capsys.readouterr().out.split()[1]
    assert label in NAMES


def test_a_model_without_a_head_is_written(tmp_path, monkeypatch, capsys):
    model = trn_jax.create_model("tsn_resnet10", num_classes=0, num_segments=3, width=2)
    config = base(dataset="frames", model="tsn_resnet10", num_classes=0)
    config.model.update(num_segments=3, width=2)
    checkpoint.save_model(tmp_path / "a", model, {"config": config.to_dict(), "class_names": []})
    hub.write(checkpoint.open_checkpoint(tmp_path / "a"), tmp_path / "b")
    assert trn_jax.load_model(tmp_path / "b").info.class_names == ()
    text = run_card(tmp_path / "b", tmp_path, monkeypatch)
    assert "trn-jax predict" not in text
    assert "3 vectors of 1 videos" in capsys.readouterr().out


# Uploads


@pytest.fixture
def server(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    with StandInHub() as found:
        connect(monkeypatch, found.url, tmp_path / "cache", token=TOKEN)
        yield found


def push(*arguments):
    return cli.main(["push", *map(str, arguments)])


def test_what_is_pushed_is_loaded(small, server, capsys):
    assert push(small, "hf:user/trn", "--license=MIT", "--message=The first") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{server.url}/user/trn"
    repository = server.repositories["user/trn"]
    assert printed[1] == f"hf:user/trn@{repository.revisions['main']}"
    assert repository.messages[1:] == ["The first"] and not repository.private
    files = repository.files[repository.revisions["main"]]
    assert {name for name, blob in files.items() if blob.is_large} == {"model.safetensors"}
    assert "hf:user/trn" in files["README.md"].content.decode()
    found, model = trn_jax.load_model(printed[1]), trn_jax.load_model(small)
    np.testing.assert_array_equal(logits(found), logits(model))
    assert found.info.calibration == calibration()
    assert found.info.class_names == NAMES and found.info.sampling == SAMPLING
    assert found.info.source == model.info.source | {"hub": printed[1], "file": "trn.pth"}
    # A checkpoint of the hub is pushed like any other.
    assert push(printed[1], "hf:user/copy", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["license"] == "MIT"  # which stays with what is made from it
    np.testing.assert_array_equal(logits(trn_jax.load_model(printed["address"])), logits(model))


def test_a_push_replaces_the_calibration_beside(small, server):
    server.add("user/trn", {"calibration.json": b"{}", "notes.txt": b"mine"})
    assert push(small, "hf:user/trn") == 0
    repository = server.repositories["user/trn"]
    names = set(repository.files[repository.revisions["main"]])
    assert "calibration.json" not in names and {"notes.txt", "config.json"} <= names
    assert trn_jax.load_model("hf:user/trn").info.calibration == calibration()


def test_a_private_model_is_never_public(small, server, capsys):
    assert push(small, "hf:user/secret", "--private") == 0
    assert server.repositories["user/secret"].private
    server.add("user/open", {"README.md": b""})
    assert push(small, "hf:user/open", "--private") == 2
    assert re.search("hf:user/open exists and is public", capsys.readouterr().err)
    assert len(server.repositories["user/open"].messages) == 1


@pytest.mark.parametrize(
    ("to", "match"),
    [
        ("trn", "hf:<user>/<name>"),
        ("hf:trn", "hf:<user>/<name>"),
        ("hf:user/trn@v1", "@v1"),
    ],
)
def test_a_wrong_place_is_refused_at_once(small, server, capsys, to, match):
    assert push(small, to) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1
    assert server.requests == []


def test_who_is_not_logged_in_is_told_so(small, server, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(small, "hf:user/trn") == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    server.broken = True
    assert push(small, "hf:user/trn") == 2
    assert "503" in capsys.readouterr().err
    assert server.repositories == {}
