"""Scores in files, read back to the last bit; dumps of mmaction2; and the fusion of several."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from example_scores import example
from torch_files import Call, Storage, legacy_file, pickled, tensor

from trn_jax import cli
from trn_jax.errors import UserError
from trn_jax.evaluation import metrics, scores
from trn_jax.evaluation.scores import Scores, fuse

FORMATS = ("npz", "json", "pkl")


def assert_same(a, b):
    for field in dataclasses.fields(Scores):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert ours == theirs, field.name


# Files


@pytest.mark.smoke
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("extension", FORMATS)
def test_what_is_written_is_read_back(tmp_path, extension, several):
    found = example(several=several)
    path = str(tmp_path / f"new/folder/s.{extension}")
    scores.write(path, found)
    again = scores.read(path)
    assert_same(found, again)
    assert again.metrics() == found.metrics()
    assert again.per_class() == found.per_class()
    assert [file.name for file in (tmp_path / "new/folder").iterdir()] == [f"s.{extension}"]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("extension", FORMATS)
def test_videos_that_could_not_be_read_stay_marked(tmp_path, extension, several):
    found = example(several=several)
    missing = np.zeros(12, bool)
    missing[[2, 7]] = True
    values = np.where(missing[:, None], 0, found.scores).astype(np.float32)
    found = dataclasses.replace(found, scores=values, missing=missing)
    assert found.metrics() != example(several=several).metrics()
    path = str(tmp_path / f"s.{extension}")
    scores.write(path, found)
    again = scores.read(path)
    assert_same(found, again)
    assert again.metrics() == found.metrics()
    assert again.per_class() == found.per_class()
    assert sum(row["videos"] for row in found.per_class()) == (24 if several else 12)
    if not several:
        assert found.confusion().sum() == 10


@pytest.mark.parametrize("rows", [[12], [-1], ["a"], [[1]], "all", [1.5], {"a": 1}])
def test_marks_of_missing_videos_that_cannot_be(tmp_path, rows):
    found = example()
    scores.write(str(tmp_path / "s.json"), found)
    content = json.loads((tmp_path / "s.json").read_text()) | {"missing": rows}
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="missing"):
        scores.read(str(tmp_path / "s.json"))


def test_a_video_that_one_model_could_read_is_not_missing_in_a_fusion():
    one, other = example(seed=1), example(seed=2)
    gone = np.arange(12) < 2
    one = dataclasses.replace(one, scores=np.where(gone[:, None], 0, one.scores), missing=gone)
    fused = fuse([("one", one), ("other", other)])
    assert fused.missing is None
    np.testing.assert_allclose(fused.scores[:2], other.scores[:2] / 2)
    other = dataclasses.replace(other, missing=np.arange(12) < 1)
    np.testing.assert_array_equal(fuse([("a", one), ("b", other)]).missing, np.arange(12) < 1)


def test_a_script_of_five_lines_reads_the_pickle(tmp_path):
    found = example()
    scores.write(str(tmp_path / "s.pkl"), found)
    script = """
import pickle, numpy
rows = pickle.load(open("s.pkl", "rb"))
best = numpy.array([row["pred_score"].argmax() for row in rows])
assert all(row["pred_label"].item() == label for row, label in zip(rows, best))
print(numpy.mean(best == [row["gt_label"].item() for row in rows]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == found.metrics()["top1"]
    # Nothing in it needs more than NumPy to be loaded.
    content = (tmp_path / "s.pkl").read_bytes()
    assert b"trn_jax" not in content and b"jax" not in content
    row = pickle.loads(content)[3]
    assert row["pred_score"].dtype == np.float32 and row["pred_score"].shape == (6,)
    assert row["gt_label"].dtype == np.int64 and row["gt_label"].shape == (1,)
    assert row["video_id"] == "folder 3/väter"


def test_tensors_for_the_tools_of_mmaction2(tmp_path):
    found = example()
    path = str(tmp_path / "s.torch.pkl")
    scores.write(path, found)
    assert_same(found, scores.read(path))  # without PyTorch

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            functions.append((module, name))
            if (module, name) == ("torch", "from_numpy"):
                return lambda array: {"tensor": array}
            return super().find_class(module, name)

    functions = []
    with open(path, "rb") as file:
        rows = Unpickler(file).load()
    assert functions.count(("torch", "from_numpy")) == 1
    assert not any("trn_jax" in module for module, _ in functions)
    for row, score, label in zip(rows, found.scores, found.labels, strict=True):
        np.testing.assert_array_equal(row["pred_score"]["tensor"], score)
        assert row["gt_label"]["tensor"].tolist() == [label]
        assert row["pred_label"]["tensor"].tolist() == [score.argmax()]


def test_pytorch_loads_its_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    found = example()
    scores.write(str(tmp_path / "s.torch.pkl"), found)
    rows = pickle.loads((tmp_path / "s.torch.pkl").read_bytes())
    for row, score in zip(rows, found.scores, strict=True):
        assert isinstance(row["pred_score"], torch.Tensor)
        np.testing.assert_array_equal(row["pred_score"].cpu().numpy(), score)


def test_numpy_reads_the_npz_without_pickles(tmp_path):
    found = example()
    scores.write(str(tmp_path / "s.npz"), found)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert archive["scores"].shape == (12, 6)
        assert archive["class_names"].tolist() == found.class_names
        assert archive["protocol"] == "accurate"
        assert archive["list_sha256"] == "0" * 64


def test_json_is_an_object_of_the_same_names(tmp_path):
    found = example(several=True)
    scores.write(str(tmp_path / "s.json"), found)
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["videos"] == found.videos
    assert content["labels"][0] == np.flatnonzero(found.labels[0]).tolist()
    assert np.float32(content["scores"][1][2]) == found.scores[1, 2]


def test_of_several_protocols_each_has_its_file():
    assert scores.dump_path("a/s.npz", "efficient", 1) == "a/s.npz"
    assert scores.dump_path("a/s.torch.pkl", "1x10", 2) == "a/s_1x10.torch.pkl"
    assert scores.dump_path("a/s.npz", "efficient", 2) == "a/s_efficient.npz"


def dumped_by_mmaction2(found, *, nested=False, protocol=2):
    """A dump with tensors, as the class `DumpResults` of mmengine writes it."""

    def cpu(values):
        values = np.ascontiguousarray(values)
        # A storage inside of a pickle is a file of its own, in the format of before 1.6.
        inside = legacy_file(Storage(values))
        storage = Call("torch.storage._load_from_bytes", inside)
        return tensor(storage, values.shape, (1,))

    rows = []
    for score, label in zip(found.scores, found.labels, strict=True):
        row = dict(img_shape=(224, 224), num_classes=len(score), pred_label=cpu([score.argmax()]))
        label = label if found.multi_label else np.array([label])
        if nested:
            row |= dict(pred_scores={"item": cpu(score)}, gt_labels={"item": cpu(label)})
        else:
            row |= dict(pred_score=cpu(score), gt_label=cpu(label))
        rows.append(row)
    return pickled(rows, protocol)[0]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_dumps_of_mmaction2_are_read(tmp_path, several, nested):
    found = example(several=several)
    (tmp_path / "theirs.pkl").write_bytes(dumped_by_mmaction2(found, nested=nested))
    theirs = scores.read(str(tmp_path / "theirs.pkl"))
    np.testing.assert_array_equal(theirs.scores, found.scores)
    np.testing.assert_array_equal(theirs.labels, found.labels)
    assert theirs.videos == theirs.class_names == []
    assert theirs.per_class()[2]["name"] == "class 2"
    # It can be laid beside ours, in the order of the list.
    assert fuse([("ours", found), ("theirs", theirs)]).metrics() == found.metrics()


@pytest.mark.parametrize("extension", FORMATS)
def test_scores_without_names_can_be_written_too(tmp_path, extension):
    found = dataclasses.replace(example(), videos=[], class_names=[], partners={}, about={})
    path = str(tmp_path / f"s.{extension}")
    scores.write(path, found)
    assert_same(found, scores.read(path))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_numpy_of_every_protocol_are_read(tmp_path, protocol):
    rows = [
        {"pred_score": row, "gt_label": np.array([label], kind)}
        for kind in ("<i8", "<i8")
        for row, label in zip(np.eye(3, dtype=">f8"), (0, 1, 1), strict=True)
    ]
    rows[1]["gt_label"] = np.int64(1)
    rows[2]["gt_label"] = 1
    (tmp_path / "s.pickle").write_bytes(pickle.dumps(rows, protocol))
    found = scores.read(str(tmp_path / "s.pickle"))
    assert found.metrics()["top1"] == pytest.approx(2 / 3)
    assert found.labels.tolist() == [0, 1, 1] * 2


def test_a_pickle_is_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    rows = [{"pred_score": np.zeros(3), "gt_label": Attack()}]
    (tmp_path / "s.pkl").write_bytes(pickle.dumps(rows))
    with pytest.raises(UserError, match=r"s\.pkl: "):
        scores.read(str(tmp_path / "s.pkl"))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.txt", b"", "no file of scores by its name"),
        ("s.npz", b"PK", r"s\.npz: this is not the \.npz of an evaluation"),
        ("s.json", b"{", r"s\.json: this is not JSON"),
        ("s.json", b"[1, 2]", "no object with scores and labels"),
        ("s.json", b'{"scores": [[1]]}', "there is no labels, videos, class_names, only scores"),
        (
            "s.json",
            b'{"scores": [[1, 2]], "labels": [0, 1], "videos": [], "class_names": []}',
            "there are 2 labels, but scores of 1 videos and 2 classes",
        ),
        (
            "s.json",
            b'{"scores": [[1, 2]], "labels": [2], "videos": [], "class_names": []}',
            r"the labels reach from 2 to 2, expected 0\.\.1",
        ),
        (
            "s.json",
            b'{"scores": [[1], [1, 2]], "labels": [0, 0], "videos": [], "class_names": []}',
            "entries do not fit",
        ),
        ("s.pkl", b"\x80", "cut off"),
        ("s.pkl", pickle.dumps([]), "no dump of predictions"),
        ("s.pkl", pickle.dumps([np.zeros(3)]), "entry 0 holds Inert"),
        ("s.pkl", pickle.dumps([{"rec_scores": [1]}]), "entry 0 holds rec_scores; expected"),
        (
            "s.pkl",
            pickle.dumps([{"pred_score": np.zeros(n), "gt_label": 0} for n in (2, 3)]),
            "different lengths",
        ),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        scores.read(str(tmp_path / name))


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*none\.npz: No such file"):
        scores.read(str(tmp_path / "none.npz"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        scores.check_dump(str(tmp_path / "file/s.npz"))
    (tmp_path / "s.npz").mkdir()
    with pytest.raises(UserError, match="cannot write to"):
        scores.check_dump(str(tmp_path / "s.npz"))
    with pytest.raises(UserError, match=r"'scores\.csv'; its end tells the format"):
        scores.check_dump("scores.csv")


# Fusion


def shuffled(found, seed=5):
    order = np.random.default_rng(seed).permutation(len(found.scores))
    return dataclasses.replace(
        found,
        scores=found.scores[order],
        labels=found.labels[order],
        videos=[found.videos[row] for row in order],
    )


@pytest.mark.parametrize("several", [False, True])
def test_a_fusion_is_the_weighted_mean_by_the_name_of_the_video(several):
    a, b = example(seed=1, several=several), example(seed=2, several=several)
    fused = fuse([("a", a), ("b", shuffled(b))], [3, 1])
    np.testing.assert_allclose(fused.scores, 0.75 * a.scores + 0.25 * b.scores, rtol=1e-6)
    assert fused.videos == a.videos and fused.scores.dtype == np.float32
    assert fused.about == {"fusion": "3 x a + 1 x b"}
    # A weight of 0 leaves the other one as it is.
    np.testing.assert_array_equal(fuse([("a", a), ("b", b)], [0, 2]).scores, b.scores)
    equal = fuse([("a", a), ("b", b), ("a again", a)])
    np.testing.assert_allclose(equal.scores, (2 * a.scores + b.scores) / 3, rtol=1e-6)


def test_names_that_occur_twice_are_no_harm_in_the_same_order():
    a = dataclasses.replace(example(), videos=["same"] * 12)
    assert fuse([("a", a), ("b", a)]).metrics() == a.metrics()
    mixed = dataclasses.replace(a, videos=["same"] * 11 + ["other"])
    other = dataclasses.replace(a, videos=["other"] + ["same"] * 11)
    with pytest.raises(UserError, match="some names occur more than once"):
        fuse([("a", mixed), ("b", other)])


def changed(**changes):
    found = example(seed=2)
    return dataclasses.replace(found, **{k: change(found) for k, change in changes.items()})


BAD_PARTNERS = {
    "other videos": (
        changed(videos=lambda f: [*f.videos[:-1], "else"]),
        r"other videos \(12 here, 12 there\):\n  'folder 11/väter' is only there\n  'else' is only",
    ),
    "fewer videos": (example(seed=2, num_videos=9), r"\(9 here, 12 there\).*(\n.*){3}\n  and|only"),
    "fewer videos without names": (
        dataclasses.replace(example(seed=2, num_videos=9), videos=[]),
        "it has 9 videos, the other one 12, and without names",
    ),
    "other class names": (
        changed(class_names=lambda f: f.class_names[::-1]),
        "they name 6 classes differently:\n  class 0 is 'Class «0»' there and 'Class «5»' here",
    ),
    "fewer classes": (example(seed=2, num_classes=5), "scores of 5 classes, the other one of 6"),
    "other labels": (
        changed(labels=lambda f: (f.labels + (np.arange(12) == 3)) % 6),
        "other labels to 1 of 12 videos, such as folder 3/väter",
    ),
    "logits": (changed(scores=lambda f: 9 * f.scores - 3), "one has probabilities and the other"),
    "several labels": (example(several=True), "one has one label per video, the other one several"),
}


@pytest.mark.parametrize("case", BAD_PARTNERS)
def test_scores_of_different_things_are_not_fused(case):
    other, message = BAD_PARTNERS[case]
    with pytest.raises(UserError, match=message) as error:
        fuse([("a.npz", example()), ("b.npz", other)])
    assert "b.npz cannot be fused with a.npz: " in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "1 weights for 2 files"),
        ([1, 1, 1], "3 weights for 2 files"),
        ([1, -1], "1, -1 have to be finite, none of them negative"),
        ([0, 0], "not all 0"),
        ([1, np.nan], "finite"),
    ],
)
def test_weights_have_to_fit(weights, message):
    with pytest.raises(UserError, match=message):
        fuse([("a", example()), ("b", example())], weights)


def test_the_command_prints_single_files_and_their_fusion(tmp_path, capsys):
    a, b = example(seed=1, num_videos=300), example(seed=2, num_videos=300)
    paths = [str(tmp_path / "a.npz"), str(tmp_path / "b.json")]
    for path, found in zip(paths, (a, shuffled(b)), strict=True):
        scores.write(path, found)
    out = str(tmp_path / "fused.pkl")
    assert cli.main(["ensemble", *paths, "--weights", "2", "1", f"--dump={out}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["scores", "videos", "top-1", "top-5"]
    expected = [
        f"{100 * metrics.top_k_accuracy(s, a.labels, 1):.2f}"
        for s in (a.scores, b.scores, 2 * a.scores + b.scores)
    ]
    assert [line.split()[2] for line in lines[2:5]] == expected
    assert scores.read(out).metrics() == fuse([("a", a), ("b", b)], [2, 1]).metrics()

    assert cli.main(["ensemble", paths[0]]) == 2
    assert "at least two files" in capsys.readouterr().err
    assert cli.main(["ensemble", *paths, "--weights", "1", f"--dump={tmp_path}/no.npz"]) == 2
    assert "1 weights for 2 files" in capsys.readouterr().err
    assert not (tmp_path / "no.npz").exists()
