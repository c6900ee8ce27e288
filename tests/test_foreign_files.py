"""Weights and scores from elsewhere: refused in words, within the memory that their size allows."""

import json
import pickle
import re
import zipfile

import bounded_reading
import foreign_scores
import numpy as np
import pytest
from example_scores import example
from flax import nnx
from malformed_archives import ESCAPE
from torch_files import npz_file, safetensors_file

from trn_jax import cli, create_model
from trn_jax.checkpoints import checksums
from trn_jax.data.annotations import multi_hot
from trn_jax.data.class_names import read_class_names
from trn_jax.errors import UserError, escaped, listed
from trn_jax.evaluation import score_files, scores
from trn_jax.evaluation.fusion import fuse
from trn_jax.npz import read_npz

# Odd, but nothing is wrong with them.
READ = {
    "weights: surplus key.safetensors",
}
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return bounded_reading.run("foreign_files.py", tmp_path_factory.mktemp("foreign"))


def test_every_file_is_refused_in_words_and_within_bounds(outcomes):
    assert len(outcomes) > 250
    faults = [f"{o['file']}: {o['text']}" for o in outcomes if o["kind"] == "fault"]
    assert not faults, "\n".join(faults)
    assert {o["file"] for o in outcomes if o["kind"] == "read"} == READ
    for found in outcomes:
        name = found["file"].partition(": ")[2]
        assert found["kind"] == "read" or name in found["text"]


def test_no_message_has_control_characters(outcomes):
    assert sum("escapes" in o["file"] for o in outcomes) >= 5
    for found in outcomes:
        assert not CONTROLS.search(found["text"]), found
        # The line break within a name begins no line of the message.
        assert "name\\u202e\n" not in found["text"], found


def test_bombs_are_refused_for_their_size(outcomes):
    sizes = [o["file"] for o in outcomes if "bytes would become" in o["text"]]
    for name in ("expanded.pth", "overlapping.pth", "many expanded.pth"):
        assert f"weights: {name}" in sizes
    assert {"scores: same row.pkl", "scores: expanded tensor.pkl", "scores: bomb.npz"} <= {*sizes}
    assert "scores: zip bomb stated.npz" in sizes


@pytest.mark.parametrize("extension", ["json", "npz", "pkl"])
def test_score_files_that_are_no_attack_are_read(tmp_path, extension):
    # What the files above differ from by one thing.
    content = {
        "json": foreign_scores.json_scores(partners=[[0, 1], [1, 0]]),
        "npz": foreign_scores.npz_scores(labels=np.array([0.0, 1.0])),
        "pkl": foreign_scores.dump(about={"class_names": ["x", "y"]}),
    }[extension]
    path = tmp_path / f"s.{extension}"
    path.write_bytes(content)
    found = score_files.read(str(path))
    assert found.labels.tolist() == [0, 1] and found.labels.dtype == np.int64
    assert found.class_names == ["x", "y"]


def test_highly_compressible_files_are_read_while_they_are_small(tmp_path):
    path = tmp_path / "zeros.npz"
    path.write_bytes(npz_file(w=np.zeros((1 << 22,), np.float32)))
    assert (size := path.stat().st_size) < 1 << 15
    with zipfile.ZipFile(path) as archive:
        assert read_npz(archive, size)["w"].nbytes == 1 << 24


# Scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(labels=np.full(12, 0.7)), "0.7"),
        (dict(labels=np.full(12, -1)), "-1"),
        (dict(scores=np.full((12, 6), 1j)), "complex"),
        (dict(class_names=["same"] * 6), "0 and 1 are both 'same'"),
        (dict(reversed_class={0: 6}), r"\(0, 6\)"),
        (dict(reversed_class={-1: 0}), r"\(-1, 0\)"),
    ],
)
def test_scores_in_memory_are_checked_as_those_of_files_are(changes, message):
    fields = {name: getattr(example(), name) for name in ("scores", "labels")}
    with pytest.raises(UserError, match=message):
        scores.Scores(**fields | dict(videos=[], class_names=[]) | changes)


def test_scores_that_are_not_finite_are_not_fused():
    broken = example()
    broken.scores[3, 1] = np.nan
    with pytest.raises(UserError, match=r"b\.npz"):
        fuse([("a.npz", example()), ("b.npz", broken)])


@pytest.mark.parametrize("command", [["report"], ["ensemble", "good.json"]])
def test_commands_refuse_labels_that_would_count_as_others(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.json").write_bytes(foreign_scores.json_scores(labels=[[0], [0, 1]]))
    (tmp_path / "bad.json").write_bytes(foreign_scores.json_scores(labels=[[0], [0, -1]]))
    assert cli.main([*command, "bad.json"]) == 2
    said = capsys.readouterr()
    assert "bad.json" in said.err and "-1" in said.err


@pytest.mark.parametrize("label", [-1, 3, 0.5, True, "1", None, 2**70])
def test_several_labels_are_whole_numbers_of_classes(label):
    with pytest.raises(UserError, match=re.escape(f"video 1 (from 0) has the label {label!r}")):
        multi_hot([[0], [1, label]], 3)
    assert multi_hot([(0, 2), []], 3).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_class_names_that_occur_twice_are_refused(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    with pytest.raises(UserError, match=r"classes\.txt names classes twice: a"):
        read_class_names(tmp_path / "classes.txt")


# Names


def test_foreign_text_is_one_line_without_control_characters():
    assert escaped(ESCAPE) == "\\x1b[2Jname\\u202e\\n\\r\\x08"
    assert escaped("a\ud800\u2028\x85\t") == "a\\ud800\\u2028\\x85\\t"
    # Escaping twice is escaping once.
    assert escaped(escaped(ESCAPE)) == escaped(ESCAPE)
    for name in ("Größe", "走る\u3000人", "क्\u200dष", "می\u200cروم", "👩\u200d👧", "a\\b"):
        assert escaped(name) == name


def test_errors_are_printed_without_control_characters():
    error = UserError(f"two\nlines of {ESCAPE}" + listed([ESCAPE]))
    assert str(error).startswith("two\nlines of \\x1b[2Jname\\u202e\n\\r\\x08")
    assert str(error).endswith("\n  \\x1b[2Jname\\u202e\\n\\r\\x08")
    # Worker processes hand errors on, and TFDS adds to them.
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert UserError.__str__ is BaseException.__str__


def test_a_report_prints_class_names_without_control_characters(tmp_path, capsys):
    path = tmp_path / "s.json"
    path.write_bytes(foreign_scores.json_scores(class_names=[ESCAPE, "\ud800"], labels=[1, 0]))
    assert cli.main(["report", str(path)]) == 0
    said = capsys.readouterr().out
    assert not CONTROLS.search(said) and "0 \\x1b[2Jname\\u202e\\n\\r\\x08\n" in said
    assert not CONTROLS.search((tmp_path / "report" / "s.txt").read_text())


def test_a_conversion_prints_tensor_names_without_control_characters(tmp_path, capsys):
    names = {f"{ESCAPE}.weight": np.zeros(3, np.float32), "new_fc.bias": np.zeros(3, np.float32)}
    (tmp_path / "w.safetensors").write_bytes(safetensors_file(names))
    arguments = [
        "convert",
        f"--from={tmp_path}/w.safetensors",
        "--model=tsn_resnet10",
        f"--to={tmp_path}/o",
    ]
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert not CONTROLS.search(said) and "\\x1b[2Jname\\u202e\\n\\r\\x08" in said


# Checkpoints


@pytest.mark.parametrize("entry", [5, [1], [1, 2, 3], None, "ab", {}])
def test_checksums_of_another_form_are_a_problem_of_the_checkpoint(tmp_path, entry):
    (tmp_path / "about").write_text("x")
    content = {"files": (files := {"about": entry}), "crc32": checksums.crc32_of(files)}
    (tmp_path / checksums.NAME).write_text(json.dumps(content))
    (problem,) = checksums.problems(tmp_path, ["about"])
    assert "checksums.json" in problem or "about" in problem


def test_checksums_do_not_name_a_device(tmp_path):
    files = {f"about/{'../' * 40}dev/zero": [0, 0]}
    content = {"files": files, "crc32": checksums.crc32_of(files)}
    (tmp_path / "about").mkdir()
    (tmp_path / checksums.NAME).write_text(json.dumps(content))
    (problem,) = checksums.problems(tmp_path, ["about"])
    assert problem.endswith("is missing")


# Sizes of models


def test_a_file_does_not_make_a_model_of_any_size(tmp_path, capsys):
    content = safetensors_file({"new_fc.bias": np.zeros(1 << 20)})
    (tmp_path / "w.safetensors").write_bytes(content)
    arguments = [
        "convert",
        f"--from={tmp_path}/w.safetensors",
        "--model=tsn_resnet10",
        f"--to={tmp_path}/o",
    ]
    assert cli.main([*arguments, "--backbone-only"]) == 2
    assert "--num-classes=1048576" in capsys.readouterr().err


def test_relations_without_end_are_not_listed(tmp_path, capsys):
    # A weight of some kilobytes, for a thousand frames.
    relation = "consensus.fc_fusion_scales.0.1.weight"
    arrays = {"new_fc.bias": np.zeros(1), relation: np.zeros((256, 1000))}
    (tmp_path / "w.safetensors").write_bytes(safetensors_file(arrays))
    command = ["convert", f"--from={tmp_path}/w.safetensors", "--model=trn_resnet10"]
    assert cli.main([*command, "--num-classes=2", f"--to={tmp_path}/o"]) == 2
    assert "num_segments=1000" in capsys.readouterr().err
    options = dict(head="trn", num_classes=2, num_segments=32)
    single = nnx.eval_shape(lambda: create_model("trn_resnet10", **options))
    assert len(single.head.relations) == 1
